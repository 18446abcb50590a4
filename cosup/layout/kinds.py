"""The kinds of files in a run directory, each with its reader and writer.

Writers are atomic (`cosup.files`) and record what they write in the run's manifest. A file that is
not what was recorded there, or not of the form that cosup writes (`cosup.layout.schemas`), raises
`Damaged`, which names it. pandas and safetensors are imported when a file of theirs is read:
listing runs needs neither.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.config.yaml import parse_yaml, to_yaml
from cosup.errors import UserError, in_short
from cosup.files import tensor_writer, to_json, write_atomic
from cosup.layout.schemas import Content, invalid
from cosup.manifest import Damaged, Manifest
from cosup.origins import is_there, obtain, shown

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from cosup.probabilities import ProbTable


@dataclass(frozen=True)
class File:
    """One file of a run. manifest: that of the run; None for a file of no run."""

    path: Path
    manifest: Manifest | None = None

    def exists(self) -> bool:
        """Return whether the file is there."""
        return is_there(self.path)

    def check(self) -> None:
        """Raise `Damaged` if the file is not what the manifest says, where there is one.

        In a copy of a run (`cosup.origins`) the file is copied first, if it is not here.
        """
        obtain(self.path)
        if self.manifest is None:
            return
        try:
            self.manifest.check(self.path)
        except PermissionError:
            raise UserError(f"{self.path}: not readable (permission denied)") from None
        except Damaged as error:
            folder = shlex.quote(shown(self.manifest.folder))
            reason = f"{error.reason} (to repair the run: cosup verify {folder} --repair)"
            raise Damaged(error.path, reason) from None

    def put(self, content: bytes | Callable[[Path], object]) -> None:
        """Write the file as `write_atomic` does, and record it."""
        if self.manifest is not None and self.manifest.exists():
            self.manifest.write(self.path, content)
        else:
            write_atomic(self.path, content)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        self.path.unlink(missing_ok=True)
        if self.manifest is not None:
            self.manifest.forget(self.path)


@dataclass(frozen=True)
class JsonFile(File):
    """A JSON object. content: what it must hold, at least."""

    content: Content = None

    def read(self) -> dict[str, Any]:
        """Return the object."""
        self.check()
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(self.path, error) from error
        return valid(self.path, found, self.content)

    def write(self, value: Mapping[str, Any]) -> None:
        """Write the object; numbers that are not finite become null."""
        self.put((to_json(value) + "\n").encode())


class StageFile(JsonFile):
    """The payload of a finished stage: a JSON object that keeps every float as it is."""

    def write(self, value: Mapping[str, Any]) -> None:
        """Write the payload; numbers that are not finite stay what they are."""
        self.put((json.dumps(value, indent=2) + "\n").encode())


@dataclass(frozen=True)
class YamlFile(File):
    """A config as a tree of plain values. content: what it must hold, at least."""

    content: Content = None

    def read(self) -> dict[str, Any]:
        """Return the tree."""
        self.check()
        try:
            tree = parse_yaml(self.path.read_text(encoding="utf-8"), self.path.name)
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(self.path, error) from error
        return valid(self.path, tree, self.content)

    def write(self, tree: Mapping[str, Any]) -> None:
        """Write the tree, keys in the order given."""
        self.put(to_yaml(tree).encode())


@dataclass(frozen=True)
class TableFile(File):
    """A Parquet table. columns: those that it must have, at least."""

    columns: tuple[str, ...] = ()

    def read(self, columns: Iterable[str] | None = None) -> "pd.DataFrame":
        """Return the table, or these columns of it alone."""
        import pandas as pd

        self.check()
        chosen = None if columns is None else list(columns)
        try:
            table = pd.read_parquet(self.path, columns=chosen)
        except PermissionError:
            raise UserError(f"{self.path}: not readable (permission denied)") from None
        except Exception as error:  # pyarrow's own, OSError, ValueError, UnicodeDecodeError
            raise damaged(self.path, error) from error
        lacking = [name for name in chosen or self.columns if name not in table.columns]
        if lacking:
            raise damaged(self.path, f"no column {', '.join(lacking)}")
        return table

    def write(self, table: "pd.DataFrame") -> None:
        """Write the table without its index."""
        self.put(lambda temporary: table.to_parquet(temporary, index=False))


class TensorFile(File):
    """Named tensors (safetensors)."""

    def read(self) -> "dict[str, Tensor]":
        """Return the tensors by name."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.check()
        try:
            return load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise damaged(self.path, error) from error

    def write(
        self, tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None
    ) -> None:
        """Write the tensors; metadata: text that can be read without them."""
        self.put(tensor_writer(tensors, metadata))


class ProbFile(File):
    """The class probabilities of samples, compact (`cosup.probabilities`)."""

    def read(self, num_classes: int, samples: int | None = None) -> "ProbTable":
        """Return the table; samples: how many rows it must have, where that is known."""
        from cosup.probabilities import ProbTable

        tensors = TensorFile(self.path, self.manifest).read()
        try:
            table = ProbTable.from_tensors(num_classes, tensors)
            _check_probs(table)
        except (KeyError, ValueError) as error:
            raise damaged(self.path, error) from error
        check_samples(self.path, len(table), samples)
        return table

    def write(self, table: "ProbTable", metadata: dict[str, str] | None = None) -> None:
        """Write the table."""
        self.put(tensor_writer(table.tensors(), metadata))


def damaged(path: Path, reason: object) -> Damaged:
    """Return the error of a file that cannot be read; it names the file and the reason."""
    if isinstance(reason, Damaged):
        return reason
    if isinstance(reason, FileNotFoundError):
        reason = "the file is gone"
    return Damaged(path, in_short(reason) if isinstance(reason, BaseException) else str(reason))


def valid(path: Path, found: object, content: Content) -> dict[str, Any]:
    """Return what was read, if it is an object with such content. Raises `Damaged`."""
    if not isinstance(found, dict):
        raise damaged(path, "not an object")
    if reason := invalid(found, content):
        raise damaged(path, reason)
    return found


def _check_probs(table: "ProbTable") -> None:
    """Raise `ValueError` for numbers that are not probabilities of these classes."""

    if table.logs.ndim != 2 or not table.logs.is_floating_point():
        raise ValueError("not probabilities")
    if table.indices is None and table.logs.shape[1] != table.num_classes:
        raise ValueError(f"{table.logs.shape[1]} classes, not {table.num_classes}")
    # Of logarithms over the largest: 0 at most, -inf for probability 0.
    if not bool((table.logs <= 0).all()):
        raise ValueError("probabilities that are no numbers")


def check_samples(path: Path, found: int, wanted: int | None) -> None:
    if wanted is not None and found != wanted:
        raise damaged(path, f"{found} samples, not {wanted}")
