"""Cut a manifest back to the state that a file has, while its folder is being copied."""

import json
from contextlib import suppress
from pathlib import Path

from cosup.files import write_atomic
from cosup.manifest import Entry, Manifest, digest
from cosup.manifest_lines import Lines, read_lines

__all__ = ["cut_back"]


def cut_back(manifest: Manifest, path: Path) -> bool:
    """Remove the newest lines about a file that it does not fit, if it fits one before them.

    Returns whether it does; otherwise the file is damaged, and nothing is changed.
    """
    name = manifest.name(path)
    history = read_lines(manifest.path, Lines()).history.get(name, [])
    surplus = len(history) - _fitting(path, history)
    if surplus == len(history):
        return False
    kept: list[bytes] = []
    for line in reversed(manifest.path.read_bytes().split(b"\n")):
        if surplus and _path_of(line) == name:
            surplus -= 1
        else:
            kept.append(line)
    write_atomic(manifest.path, b"\n".join(reversed(kept)))
    return True


def _fitting(path: Path, history: list[Entry]) -> int:
    """Return up to which entry, counted from the oldest on, a file is what it says; 0 if none."""
    size, whole = path.stat().st_size, digest(path)
    for count in range(len(history), 0, -1):
        last = history[count - 1]
        if last.start is None:
            fits = (last.size, last.sha256) == (size, whole)
        else:
            fits = last.size <= size and digest(path, last.start, last.size) == last.sha256
        if fits:
            return count
    return 0


def _path_of(line: bytes) -> str | None:
    """Return the file that a line of a manifest is about."""
    with suppress(ValueError, AttributeError):
        found = json.loads(line).get("path")
        return found if isinstance(found, str) else None
    return None
