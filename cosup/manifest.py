"""Record every finished file of a folder by size and SHA-256, and check it before it is read.

`FOLDER/manifest.jsonl` (`cosup.manifest_lines`) is only added to; the newest line of a file counts.
A line is written before its file gets its name. So a process that is killed in between leaves a
last line which its file does not fit yet: such a write never happened, and the line before it
counts. A power failure may lose lines as well; their files are then unknown, not wrong.
"""

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from cosup.errors import RunError
from cosup.files import disk_errors, write_atomic
from cosup.manifest_lines import (
    FORMAT,
    Entry,
    Lines,
    Outside,
    cut_tail,
    entry_line,
    parts,
    read_lines,
    text_of,
)

__all__ = ["FORMAT", "MANIFEST", "Damaged", "Entry", "Manifest", "State", "digest"]

MANIFEST = "manifest.jsonl"
"""The name of a manifest in its folder."""
CHUNK = 2**20
"""Bytes read at once."""

_using = threading.RLock()
_lines: dict[str, Lines] = {}
"""What this process has read of each manifest."""
_digests: dict[str, tuple[tuple[int, int], str]] = {}
"""Size, time of the last change in ns, and digest of the files that it has written or checked."""


class Damaged(RunError):
    """A file is missing, or not what was written. path: the file."""

    def __init__(self, path: Path, reason: str, *, where: str | None = None) -> None:
        super().__init__(f"{path} is damaged: {reason}", where=where)
        self.path = path
        self.reason = reason
        self.args = (path, reason)  # what pickle and copy call the constructor with


class State(StrEnum):
    """What a manifest says of a file."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    MISSING = "missing"
    UNRECORDED = "unrecorded"


def digest(path: Path, start: int = 0, end: int | None = None) -> str:
    """Return the SHA-256 of a file's bytes, or of those from `start` to `end`, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        left = (os.fstat(file.fileno()).st_size if end is None else end) - start
        file.seek(start)
        while left > 0 and (part := file.read(min(CHUNK, left))):
            found.update(part)
            left -= len(part)
    return found.hexdigest()


class Manifest:
    """The manifest of a folder, there or not.

    A file whose size and time have not changed since this process wrote or checked it is not read
    again. Reading raises `Damaged` for a manifest that names a file outside its folder, and
    `RunError` for one of a newer format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / MANIFEST

    def exists(self) -> bool:
        """Return whether there is a manifest."""
        return self.path.is_file()

    def begin(self) -> None:
        """Make the manifest, if it is not there."""
        if not self.exists():
            self.rewrite()

    def entries(self) -> dict[str, Entry]:
        """Return what is recorded, by path relative to the folder; {} without a manifest.

        The record of a write that was interrupted does not count.
        """
        with _using:
            return {name: history[-1] for name, history in self._settled().items()}

    def unreadable(self) -> int:
        """Return how many lines are damaged. A last line that was cut is none of them."""
        return self._read().unreadable

    def name(self, path: Path) -> str:
        """Return the path of a file of this folder as the manifest spells it."""
        return path.relative_to(self.folder).as_posix()

    def write(self, path: Path, content: bytes | Callable[[Path], object]) -> None:
        """Write a file of the folder as `write_atomic` does, and record it."""
        try:
            write_atomic(path, content, lambda temporary: self._recorded(path, temporary))
        except BaseException:
            with suppress(Exception):  # the disk may be full: the first failure is raised
                self.close()
            raise

    def record(self, path: Path) -> None:
        """Record a file of the folder as it is, unless it is recorded so already."""
        if self.state(path) is not State.WHOLE:
            with self._recorded(path, path):
                pass

    def record_growth(self, path: Path, label: str = "", end: int | None = None) -> None:
        """Record what was added to a file since it was last recorded, up to `end` or its end."""
        history = self.growth(path)
        size = path.stat().st_size if end is None else end
        start = history[-1].size if history and history[-1].size <= size else 0
        if size > start:
            entry = Entry(size, digest(path, start, size), start, label)
            self._append(entry_line(self.name(path), entry))

    def growth(self, path: Path) -> list[Entry]:
        """Return the recorded parts of a file that grows, in order."""
        return parts(self._settled().get(self.name(path), []))

    def forget(self, path: Path) -> None:
        """Record that a file is gone, if it is recorded."""
        if self.name(path) in self._read().history:
            self._append({"path": self.name(path), "gone": True})

    def close(self) -> None:
        """Record that no write is under way: a last file that is gone is missing from now on."""
        lines = self._read()
        if lines.last is None:
            return
        settled = self._settled().get(lines.last)
        if settled is None:
            self._append({"path": lines.last, "gone": True})
        elif settled != lines.history[lines.last]:
            self._append(entry_line(lines.last, settled[-1]))
        self._append({"closed": True})

    def rewrite(self) -> None:
        """Write the manifest anew, without lines that are damaged or no longer count."""
        lines: list[dict[str, Any]] = [{"format": FORMAT}]
        for name, history in self._settled().items():
            lines += [entry_line(name, entry) for entry in parts(history) or history[-1:]]
        lines.append({"closed": True})
        write_atomic(self.path, "".join(map(text_of, lines)).encode())

    def check(self, path: Path) -> None:
        """Raise `Damaged` if a file is missing, not recorded, or not what was recorded.

        Without a manifest nothing can be checked, and nothing is raised.
        """
        if self.exists() and (state := self.state(path)) is not State.WHOLE:
            raise Damaged(path, self._reason(path, state))

    def state(self, path: Path) -> State:
        """Return the state of one file."""
        return self._state(path, self._settled().get(self.name(path)))

    def states(self) -> dict[str, State]:
        """Return the state of each file that is recorded or there, by path, sorted.

        Of a folder below with a manifest of its own there is that manifest alone. Hidden files are
        left out, unless they are recorded.
        """
        with _using:
            known = dict(self._settled())
        names = sorted({*known, *map(self.name, self._there(self.folder))})
        return {name: self._state(self.folder / name, known.get(name)) for name in names}

    def damaged_parts(self, path: Path) -> list[Entry]:
        """Return the parts of a file that grows which are not what was recorded, in order."""
        return [entry for entry in self.growth(path) if not _part_fits(path, entry)]

    def whole_until(self, path: Path) -> int:
        """Return how many bytes of a file that grows, from its start, are what was recorded."""
        history, end = self.growth(path), 0
        with ThreadPoolExecutor() as threads:  # computing a digest lets other threads run
            fits = threads.map(lambda entry: _part_fits(path, entry), history)
            for entry, is_whole in zip(history, fits, strict=True):
                if not is_whole or entry.start != end:
                    break
                end = entry.size
        return end

    def _state(self, path: Path, history: list[Entry] | None) -> State:
        if not history:
            return State.UNRECORDED
        if not path.is_file():
            return State.MISSING
        return State.WHOLE if _fits(path, history) else State.DAMAGED

    def _there(self, folder: Path) -> Iterator[Path]:
        for entry in os.scandir(folder):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if (path / MANIFEST).is_file():
                    yield path / MANIFEST
                else:
                    yield from self._there(path)
            elif not entry.name.startswith(".") and path != self.path:
                yield path

    def _reason(self, path: Path, state: State) -> str:
        if not path.exists():
            return "the file is gone"
        if state is not State.DAMAGED:
            return f"{MANIFEST} does not list it"
        recorded, size = self.entries()[self.name(path)].size, path.stat().st_size
        if size != recorded:
            return f"it has {size} bytes, not {recorded}"
        return "its content is not what was written"

    def _settled(self) -> dict[str, list[Entry]]:
        """Return the entries of each path, without the last line if that write was interrupted."""
        lines = self._read()
        name = lines.last
        if name is None or lines.history[name][-1].start is not None:
            return lines.history
        path, earlier = self.folder / name, lines.history[name][:-1]
        is_there = path.is_file()
        if is_there and _fits(path, lines.history[name]):
            return lines.history
        if is_there and not (earlier and _fits(path, earlier)):
            return lines.history  # neither the new file nor the one before it: damaged
        settled = {**lines.history, name: earlier}
        return {other: history for other, history in settled.items() if history}

    @contextmanager
    def _recorded(self, path: Path, source: Path) -> Iterator[None]:
        """Record a file, and let no other line be added while this is open."""
        stamp, found = _stamp(source), digest(source)
        with self._appended(entry_line(self.name(path), Entry(stamp[0], found))):
            _digests[_key(path)] = (stamp, found)
            yield

    def _append(self, line: dict[str, Any]) -> None:
        with self._appended(line):
            pass

    @contextmanager
    def _appended(self, line: dict[str, Any]) -> Iterator[None]:
        """Add a line, and let no thread or process (such as one that reports) add another one
        while this is open."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        with _using, os.fdopen(handle, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with disk_errors(self.path):
                cut_tail(file)
                head = text_of({"format": FORMAT}) if file.tell() == 0 else ""
                file.write((head + text_of(line)).encode())
                file.flush()
            yield

    def _read(self) -> Lines:
        """Return the lines; those that this process has read before are not read again."""
        try:
            found = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return Lines()
        with _using:
            known = _lines.get(_key(self.path))
            if known is not None and (known.inode, known.changed, known.size) == (
                found.st_ino,
                found.st_mtime_ns,
                found.st_size,
            ):
                return known
            if known is None or known.inode != found.st_ino or known.size >= found.st_size:
                known = Lines()
            _lines.pop(_key(self.path), None)
            try:
                _lines[_key(self.path)] = read_lines(self.path, known)
            except Outside as error:
                reason = f"it names a file outside the folder, {str(error)!r}"
                raise Damaged(self.path, reason) from None
            except RunError as error:
                raise error.moved(str(self.path)) from None
            return known


def _fits(path: Path, history: list[Entry]) -> bool:
    """Return whether a file is what its newest entry says, or all parts of one that grows."""
    if history[-1].start is not None:
        return all(_part_fits(path, entry) for entry in parts(history))
    stamp, known = _stamp(path), _digests.get(_key(path))
    if stamp[0] != history[-1].size:
        return False
    if known is None or known[0] != stamp:
        known = _digests[_key(path)] = (stamp, digest(path))
    return known[1] == history[-1].sha256


def _part_fits(path: Path, entry: Entry) -> bool:
    try:
        return digest(path, entry.start or 0, entry.size) == entry.sha256
    except OSError:
        return False


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _key(path: Path) -> str:
    return os.path.abspath(path)
