"""The lines of a manifest (`cosup.manifest`): what is recorded of each file, in which order.

The first line is `{"format": 1}`. The others are `{"path", "size", "sha256"}` for a file that was
written, with `"start"` and `"label"` for what was added to a file that grows,
`{"path", "gone": true}` for one that was removed, and `{"closed": true}` where no write is under
way. Each line ends with a checksum of itself, `"check"`.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cosup.errors import RunError

FORMAT = 1
"""The format that is written, and the newest that is read."""
CHECK = "check"


@dataclass(frozen=True)
class Entry:
    """What is recorded of a file.

    size: its bytes. sha256: of its bytes, in hexadecimal. start: None for a file that is written
    once; of a file that grows, where the part begins that this line adds, and sha256 is of it.
    label: a name for that part.
    """

    size: int
    sha256: str
    start: int | None = None
    label: str = ""


class NoLine(ValueError):
    """A line is not what was written."""


class Outside(ValueError):
    """A line names a file that is not in the folder."""


@dataclass
class Lines:
    """The lines of a manifest, as far as they are read.

    history: all entries of each path, oldest first, without those of removed files. last: the path
    that the last line is about, if any. unreadable: lines that are damaged. size, changed, inode:
    of the file when it was read, in bytes and ns.
    """

    history: dict[str, list[Entry]] = field(default_factory=dict)
    last: str | None = None
    unreadable: int = 0
    size: int = 0
    changed: int = 0
    inode: int = 0

    def add(self, line: bytes) -> None:
        """Take in one line, without its end."""
        try:
            found = _parsed(line)
        except NoLine:
            self.unreadable += 1
            return
        if "format" in found:
            return
        self.last = None
        if "closed" in found:
            return
        name = found["path"]
        if "gone" in found:
            self.history.pop(name, None)
            return
        self.last = name
        fields = (found["size"], found["sha256"], found.get("start"), found.get("label", ""))
        entry = Entry(*fields)
        self.history.setdefault(name, []).append(entry)


def text_of(line: dict[str, Any]) -> str:
    """Return a line with its checksum and its end."""
    return json.dumps({**line, CHECK: _check(line)}) + "\n"


def entry_line(name: str, entry: Entry) -> dict[str, Any]:
    """Return the line that records an entry of a path."""
    line: dict[str, Any] = {"path": name, "size": entry.size, "sha256": entry.sha256}
    if entry.start is not None:
        line |= {"start": entry.start, "label": entry.label}
    return line


def read_lines(path: Path, known: Lines) -> Lines:
    """Add the lines after those that are known; a last line without its end is left out.

    Raises `Outside`, and `RunError` for a newer format.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        file.seek(known.size)
        *lines, _ = file.read().split(b"\n")
    for line in lines:
        known.add(line)
        known.size += len(line) + 1
    known.changed, known.inode = found.st_mtime_ns, found.st_ino
    return known


def parts(history: list[Entry]) -> list[Entry]:
    """Return the entries that make up a file that grows: from the last that begins it on."""
    begins = [number for number, entry in enumerate(history) if entry.start == 0]
    return history[begins[-1] :] if begins else []


def cut_tail(file: IO[bytes]) -> None:
    """Remove a last line without its end, which a killed process left; stand at the end."""
    end = file.seek(0, os.SEEK_END)
    whole = end
    while whole:
        start = max(0, whole - 4096)
        file.seek(start)
        found = file.read(whole - start).rfind(b"\n")
        if found >= 0:
            whole = start + found + 1
            break
        whole = start
    if whole < end:
        file.truncate(whole)
    file.seek(whole)


def _parsed(line: bytes) -> dict[str, Any]:
    """Return a line that is whole. Raises `NoLine`, `Outside`, and `RunError`."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise NoLine from None
    if not isinstance(found, dict):
        raise NoLine
    check = found.pop(CHECK, None)
    newer = found.get("format")
    if check is None and isinstance(newer, int) and newer > FORMAT:
        raise RunError(f"has format {newer}, and this version of cosup reads up to {FORMAT}")
    if check != _check(found):
        raise NoLine
    if isinstance(newer, int) and newer > FORMAT:
        raise RunError(f"has format {newer}, and this version of cosup reads up to {FORMAT}")
    if "path" in found:
        _check_entry(found)
    elif not {"format", "closed"} & found.keys():
        raise NoLine
    return found


def _check_entry(line: dict[str, Any]) -> None:
    name = line["path"]
    if not isinstance(name, str):
        raise NoLine
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in name:
        raise Outside(name)
    if str(pure) != name:
        raise NoLine
    if "gone" in line:
        return
    size, start = line.get("size"), line.get("start", 0)
    if type(size) is not int or type(start) is not int or not 0 <= start <= size:
        raise NoLine
    if not (isinstance(line.get("sha256"), str) and isinstance(line.get("label", ""), str)):
        raise NoLine


def _check(line: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:8]
