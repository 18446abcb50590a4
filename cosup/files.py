"""Write files atomically: under a temporary name, then synced and renamed."""

import errno
import glob
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from cosup.cells import to_csv
from cosup.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

TEMPORARY = ".cosup-tmp"
"""The end of the names of files being written; such files are removed on resume."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into a `RunError` that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunError(f"disk full: cannot write {path} ({error.strerror})") from error
        raise
    except SafetensorError as error:
        # safetensors reports an OSError of its writer only as text.
        if any(f"os error {code}" in str(error) for code in _FULL):
            raise RunError(f"disk full: cannot write {path}") from error
        raise


def write_atomic(
    path: Path,
    content: bytes | Callable[[Path], object],
    named: Callable[[Path], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Write a file so that a reader, or a crash at any moment, finds the old or the new one.

    content: the bytes, or a function that writes a file at the path it is given. named: opens a
    context for the written file, in which it gets its name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)  # a link that somebody put there is not followed
            temporary.touch()
            mode = temporary.stat().st_mode
            if callable(content):
                content(temporary)
                temporary.chmod(mode)  # safetensors allows only the owner to read
            else:
                temporary.write_bytes(content)
            _sync(temporary)
            with named(temporary):
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically; numbers that are not finite become null."""
    write_atomic(path, (to_json(value) + "\n").encode())


def to_json(value: Any) -> str:
    """Return readable JSON; numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def save_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically."""
    write_atomic(path, tensor_writer(tensors, metadata))


def tensor_writer(
    tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None
) -> Callable[[Path], object]:
    """Return a function that writes tensors as safetensors to a path, for `write_atomic`."""
    from safetensors.torch import save_file  # imports torch, which loading a config does not need

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return lambda temporary: save_file(whole, temporary, metadata)


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV, atomically."""
    write_atomic(path, csv_bytes(table))


def csv_bytes(table: "pd.DataFrame") -> bytes:
    """Return a table as CSV (UTF-8, with a header, without its index); texts are written as
    `cosup.cells` says."""
    return to_csv(table).encode("utf-8", errors="surrogateescape")


def discard(path: Path) -> None:
    """Remove a file, if it exists, and the temporary files of killed processes that wrote it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        left.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, innermost first, as far as they are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed processes."""
    for left in folder.rglob(f".*{TEMPORARY}"):
        left.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def user_cache() -> Path:
    """Return the folder of what cosup keeps for its user: `COSUP_CACHE`, `~/.cache/cosup` by
    default."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get("COSUP_CACHE") or Path(base) / "cosup").absolute()
