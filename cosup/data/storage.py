"""Find and read files of data: on this machine, or at URIs (`cosup.remote`).

A read that fails in passing is tried again; a file that is not there is reported at once.
"""

import fnmatch
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from cosup import remote
from cosup.errors import RunError, UserError, in_short
from cosup.remote import is_uri, join
from cosup.secrets import mask

__all__ = ["StoredFile", "find_files", "in_folder", "open_file", "read_bytes"]

TRIES = 4
"""Attempts at reading from a URI before an error."""
FIRST_WAIT = 0.5
"""Seconds before the second attempt; twice as long before each further one."""
OPEN_FILES = 16
"""Files at URIs that a process keeps open, to read parts of them."""
MAGIC = "*?["
LOCAL = "file://"
GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class StoredFile:
    """A file that was found. path: local path or URI. modified: ns since the epoch, 0 unknown."""

    path: str
    size: int
    modified: int

    @property
    def stat(self) -> str:
        """Size and time of the last change, as text."""
        return f"{self.size} {self.modified}"


def find_files(path: str, endings: Collection[str]) -> list[StoredFile]:
    """Return the sorted files with these endings that a path names.

    path: a file, a folder (all files at any depth), or a glob (`*`, `?` and `[]` within a name), on
    this machine or at a URI. Hidden files, and those in hidden folders, are left out. Raise
    `UserError`, with the path as value, if there is none or the storage cannot be listed.
    """
    try:
        found = _found(_local(path))
    except UserError as error:
        raise UserError(error.problem, value=mask(path), allowed=error.allowed) from None
    except Exception as error:  # of storages: errors of any class
        raise UserError(f"cannot be listed: {in_short(error)}", value=mask(path)) from None
    chosen = sorted(file for file in found if _ending(file.path) in endings)
    if chosen:
        return chosen
    names = " or ".join(sorted(endings))
    if len(found) == 1 and found[0].path == _local(path):
        raise UserError("unknown file type", value=mask(path), allowed=names)
    problem = "no {allowed} file here" if found else "no file or folder {value}"
    raise UserError(problem, value=mask(path), allowed=names)


def in_folder(folder: str, name: str) -> str:
    """Return the path or URI of a name that may be relative to a folder (a path or a URI)."""
    if is_uri(name) or os.path.isabs(name):
        return _local(name)
    return join(folder, name) if is_uri(folder) else os.path.join(folder, name)


def open_file(path: str) -> Any:
    """Open a local path or a URI to read any part of it: a file of pyarrow, to be closed.

    Raise `OSError`, and for a URI `RunError` after `TRIES` attempts.
    """
    if not is_uri(path):
        from pyarrow import OSFile

        return OSFile(path)

    def opened() -> Any:
        store, name = remote.file_system(path)
        return store.open_input_file(name)

    return _tried(path, opened)


def read_bytes(path: str, start: int = 0, size: int | None = None) -> bytes:
    """Return the content of a file, or `size` bytes of it from `start`.

    Raise `OSError` if there is no such file, and `RunError` if a storage fails `TRIES` times.
    """
    if not is_uri(path):
        with open(path, "rb") as file:
            file.seek(start)
            return file.read() if size is None else file.read(size)

    def read() -> bytes:
        if size is not None:
            part: bytes = _kept_open(path).read_at(size, start)
            return part
        store, name = remote.file_system(path)
        with store.open_input_stream(name) as stream:
            content: bytes = stream.read()
            return content

    return _tried(path, read)


def _tried(path: str, call: Callable[[], T]) -> T:
    """Return what a call returns, after some attempts if the storage fails in passing."""
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except (*GONE, UserError):
            raise
        except Exception as error:  # of storages: errors of any class
            _kept_open.cache_clear()
            if attempt == TRIES:
                problem = f"cannot be read in {TRIES} attempts ({in_short(error)})"
                raise RunError(problem, where=mask(path)) from error
        time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
    raise AssertionError("the last attempt returns or raises")


@lru_cache(maxsize=OPEN_FILES)
def _kept_open(uri: str) -> Any:
    store, name = remote.file_system(uri)
    return store.open_input_file(name)


# The threads of a connection do not live on in a forked process, such as a worker that decodes.
os.register_at_fork(after_in_child=_kept_open.cache_clear)


def _found(path: str) -> list[StoredFile]:
    """Return the files that a path or URI names, whatever their endings."""
    if not (is_uri(path) or os.path.lexists(path) or any(letter in path for letter in MAGIC)):
        return []  # known without importing pyarrow
    from pyarrow.fs import FileType

    store, name = _store(path)
    info = store.get_file_info(name)
    if info.type == FileType.File:
        return [StoredFile(path, int(info.size), info.mtime_ns or 0)]
    if info.type == FileType.Directory:
        return list(_below(store, path, name))
    folder, pattern = _glob(path)
    if not pattern:
        return []
    store, name = _store(folder)
    return [file for file in _below(store, folder, name) if _matches(file.path, folder, pattern)]


def _below(store: Any, folder: str, name: str) -> Iterator[StoredFile]:
    """Yield the files at any depth of a folder. name: of the folder in the store."""
    from pyarrow.fs import FileSelector, FileType

    start = name.strip("/") + "/"
    for info in store.get_file_info(FileSelector(name, recursive=True, allow_not_found=True)):
        inner = info.path.lstrip("/").removeprefix(start)
        hidden = any(part.startswith((".", "_")) for part in inner.split("/"))
        if info.type == FileType.File and not hidden:
            yield StoredFile(in_folder(folder, inner), int(info.size), info.mtime_ns or 0)


def _glob(path: str) -> tuple[str, list[str]]:
    """Return the folder above the first pattern of a path, and the patterns; none: no glob."""
    body, mark, options = path.partition("?") if is_uri(path) else (path, "", "")
    parts = body.split("/")
    for number, part in enumerate(parts):
        if any(letter in part for letter in MAGIC):
            return "/".join(parts[:number]) + mark + options, parts[number:]
    return path, []


def _matches(path: str, folder: str, pattern: list[str]) -> bool:
    inner = path.partition("?")[0] if is_uri(path) else path
    above = folder.partition("?")[0] if is_uri(folder) else folder
    names = inner.removeprefix(above).lstrip("/").split("/")
    return len(names) == len(pattern) and all(map(fnmatch.fnmatchcase, names, pattern))


def _store(path: str) -> tuple[Any, str]:
    """Return pyarrow's file system of a path or URI, and the path in it."""
    from pyarrow.fs import LocalFileSystem

    return remote.file_system(path) if is_uri(path) else (LocalFileSystem(), path)


def _local(path: str) -> str:
    """Return the path of a `file://` URI; others as they are, local ones without `.` and `..`."""
    if path.startswith(LOCAL + "/"):
        path = path.removeprefix(LOCAL)
    return path if is_uri(path) else os.path.normpath(os.path.expanduser(path))


def _ending(path: str) -> str:
    body = path.partition("?")[0] if is_uri(path) else path
    return os.path.splitext(body)[1].lower()
