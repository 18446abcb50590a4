"""Where the copies are on this machine, who uses them, and how large all of them may be."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from cosup.errors import UserError
from cosup.files import user_cache
from cosup.secrets import mask

__all__ = ["MOST_BYTES", "folder_for", "in_use", "make_room", "record_of"]

MOST_BYTES = 20_000_000_000
"""Of all copies together; those in use may be larger alone."""

_held: dict[Path, int] = {}
"""The open files by which this process says that it uses a copy."""
_locks: dict[Path, FileLock] = {}
"""The locks of copies; who holds one may take it again."""


def folder_for(uri: str) -> Path:
    """Return the folder of the copy of a URI; its name is that of the run there.

    Raises `UserError` for a URI without a name.
    """
    body, _, options = uri.partition("?")
    name = body.partition("://")[2].rstrip("/").rpartition("/")[2]
    if name in ("", ".", ".."):
        raise UserError("is no run or folder of runs", value=mask(uri), allowed="scheme://some/run")
    key = mask(f"{body.rstrip('/')}?{options}")
    return _root() / hashlib.sha256(key.encode()).hexdigest()[:16] / name


def record_of(folder: Path) -> Path:
    """Return the file that records how the files of a copy were fetched."""
    return folder.with_name(f".{folder.name}.json")


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Let no other process change a copy while this is open (it may be opened within itself), and
    none remove it after that while this process lives.

    Raises `UserError` where the cache is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder not in _held or not _used_file(folder).exists():
            _held[folder] = os.open(_used_file(folder), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(_held[folder], fcntl.LOCK_SH)
        lock = _locks.setdefault(folder, FileLock(folder.with_name(f".{folder.name}.lock")))
        lock.acquire()
    except OSError as error:
        problem = f"not writable ({error.strerror}); set COSUP_CACHE to a folder that is"
        raise UserError(problem, where=str(_root())) from None
    try:
        yield
    finally:
        lock.release()


def make_room() -> None:
    """Remove copies that no process uses, oldest first, until all together are small enough."""
    sizes = {path: _size(path) for path in _root().glob("*") if path.is_dir()}
    total = sum(sizes.values())
    for path in sorted(sizes, key=lambda path: path.stat().st_mtime):
        if total <= MOST_BYTES:
            return
        if _removed(path):
            total -= sizes[path]


def _root() -> Path:
    return user_cache() / "copies"


def _used_file(folder: Path) -> Path:
    """Return the file that all processes lock, together, which use a copy."""
    return folder.with_name(f".{folder.name}.used")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _removed(folder: Path) -> bool:
    """Remove a copy unless a process uses it; return whether it is gone."""
    for file in folder.glob(".*.used"):
        handle = os.open(file, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            return False
        finally:
            os.close(handle)
    return not folder.exists()
