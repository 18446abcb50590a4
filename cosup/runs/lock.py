"""Lock a file for as long as a process lives, with the number of the process in it.

Not `filelock`: earlier versions of it (3.16 is allowed) empty the file at every attempt to lock it,
so that a second writer could not report which process holds the lock. It also opens the file for
writing, which would create a file in a folder that is then refused.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Locked(Exception):
    """The lock is held by another process. process: its number, or "unknown"."""

    def __init__(self, process: str) -> None:
        super().__init__(process)
        self.process = process


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file, which is created if it is missing.

    The kernel releases the lock however the process ends. Raises `Locked`, and `OSError` for a file
    that cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(handle)
        if not _is_at(handle, path):
            raise Locked("unknown")
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def check_unlocked(path: Path) -> None:
    """Raise `Locked` if another process holds the lock; a missing file is not created."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        _take(handle)
    finally:
        os.close(handle)


def _take(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process = os.pread(handle, 32, 0).decode(errors="replace").strip()
        raise Locked(process or "unknown") from None


def _is_at(handle: int, path: Path) -> bool:
    """Return whether the open file still has this name: a run that gave up removes its lock."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
