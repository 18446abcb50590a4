"""The kinds of files in a run directory, each with its reader and writer.

Writers are atomic (`cosup.files`). A file that is damaged, incomplete or gone raises a `RunError`
that names it. pandas and safetensors are imported when a file of theirs is read: listing runs needs
neither.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.config.yaml import parse_yaml, to_yaml
from cosup.errors import RunError, UserError, in_short
from cosup.files import save_tensors, write_atomic, write_json

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from cosup.probabilities import ProbTable


@dataclass(frozen=True)
class File:
    """One file of a run."""

    path: Path

    def exists(self) -> bool:
        """Return whether the file is there."""
        return self.path.is_file()


class JsonFile(File):
    """A JSON object, readable and atomic."""

    def read(self) -> dict[str, Any]:
        """Return the object."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise damaged(self.path, error) from error
        if not isinstance(content, dict):
            raise damaged(self.path, "not an object")
        return content

    def write(self, value: Mapping[str, Any]) -> None:
        """Write the object; numbers that are not finite become null."""
        write_json(self.path, value)


class StageFile(JsonFile):
    """The payload of a finished stage: a JSON object that keeps every float as it is."""

    def write(self, value: Mapping[str, Any]) -> None:
        """Write the payload; numbers that are not finite stay what they are."""
        write_atomic(self.path, (json.dumps(value, indent=2) + "\n").encode())


class YamlFile(File):
    """A config as a tree of plain values."""

    def read(self) -> dict[str, Any]:
        """Return the tree. Raises `RunError` for what is not a config."""
        try:
            tree = parse_yaml(self.path.read_text(encoding="utf-8"), self.path.name)
        except (OSError, ValueError) as error:
            raise damaged(self.path, error) from error
        if not isinstance(tree, dict):
            raise damaged(self.path, "not a config")
        return tree

    def write(self, tree: Mapping[str, Any]) -> None:
        """Write the tree, keys in the order given."""
        write_atomic(self.path, to_yaml(tree).encode())


class LinesFile(File):
    """A JSON object per line, appended while a run is going on."""

    def read(self) -> list[dict[str, Any]]:
        """Return the objects; a last line without its end is left out."""
        try:
            *lines, _ = self.path.read_text(encoding="utf-8").split("\n")
            return [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise damaged(self.path, error) from error

    def repair(self) -> None:
        """Remove a last line that was cut when a process was killed."""
        whole, newline, cut = self.path.read_bytes().rpartition(b"\n")
        if cut:
            write_atomic(self.path, whole + newline)


@dataclass(frozen=True)
class TableFile(File):
    """A Parquet table. columns: those that it must have, at least."""

    columns: tuple[str, ...] = ()

    def read(self, columns: Iterable[str] | None = None) -> "pd.DataFrame":
        """Return the table, or these columns of it alone."""
        import pandas as pd

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
        write_atomic(self.path, lambda temporary: table.to_parquet(temporary, index=False))


class TensorFile(File):
    """Named tensors (safetensors)."""

    def read(self) -> "dict[str, Tensor]":
        """Return the tensors by name."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise damaged(self.path, error) from error

    def write(
        self, tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None
    ) -> None:
        """Write the tensors; metadata: text that can be read without them."""
        save_tensors(self.path, tensors, metadata)


class ProbFile(File):
    """The class probabilities of samples, compact (`cosup.probabilities`)."""

    def read(self, num_classes: int, samples: int | None = None) -> "ProbTable":
        """Return the table; samples: how many rows it must have, where that is known."""
        from cosup.probabilities import ProbTable

        try:
            table = ProbTable.from_tensors(num_classes, TensorFile(self.path).read())
            _check_probs(table)
        except (KeyError, ValueError) as error:
            raise damaged(self.path, error) from error
        check_samples(self.path, len(table), samples)
        return table

    def write(self, table: "ProbTable", metadata: dict[str, str] | None = None) -> None:
        """Write the table."""
        save_tensors(self.path, table.tensors(), metadata)


def damaged(path: Path, reason: object) -> RunError:
    """Return the error of a file that cannot be read; it names the file and the reason."""
    if isinstance(reason, RunError):
        return reason
    if isinstance(reason, FileNotFoundError):
        reason = "the file is gone"
    text = in_short(reason) if isinstance(reason, BaseException) else str(reason)
    return RunError(f"{path} is damaged or incomplete: {text}")


def _check_probs(table: "ProbTable") -> None:
    """Raise `ValueError` for numbers that are not probabilities of these classes."""
    import torch

    if table.values.ndim != 2 or not table.values.is_floating_point():
        raise ValueError("not probabilities")
    if table.indices is None and table.values.shape[1] != table.num_classes:
        raise ValueError(f"{table.values.shape[1]} classes, not {table.num_classes}")
    if not math.isfinite(float(table.values.sum(dtype=torch.float64))):
        raise ValueError("probabilities that are no numbers")


def check_samples(path: Path, found: int, wanted: int | None) -> None:
    if wanted is not None and found != wanted:
        raise damaged(path, f"{found} samples, not {wanted}")
