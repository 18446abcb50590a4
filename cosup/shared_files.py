"""Small files that runs share, such as the results of checks: recorded by digest, and checked.

The files of a folder are recorded in its manifest (`cosup.manifest`), which one process at a time
writes. A file that is damaged, or that the manifest does not list, is not used.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from cosup.manifest import Damaged, Manifest, State

__all__ = ["read_shared", "write_shared"]

log = logging.getLogger(__name__)


def read_shared(path: Path) -> bytes | None:
    """Return the content of a file; None if it is to be made (again), and why if it was damaged."""
    manifest = Manifest(path.parent)
    try:
        if manifest.state(path) is State.WHOLE:
            return path.read_bytes()
        damaged = path if path.exists() else None
    except FileNotFoundError:  # another run is writing it again
        return None
    except Damaged:
        damaged = manifest.path
    if damaged is not None:
        log.warning("%s is damaged: making %s again", damaged, path.name)
    return None


def write_shared(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a file and record it. Raises `RunError` for a full disk, `OSError` for others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(path.parent)
    with FileLock(path.parent / ".lock"):
        try:
            manifest.entries()
        except Damaged:
            manifest.path.unlink()
        manifest.write(path, content)
