"""Read and write files at a URI.

pyarrow handles `s3://`, `gs://`, `abfs://`, `hdfs://` and `file://`, fsspec all other schemes. URIs
are not escaped: spaces and other scripts are allowed, and `%20` is not a space. After a `?` come
options of pyarrow's file system
(`s3://bucket/runs?endpoint_override=localhost:9000&scheme=http`).

Raises `UserError` for a URI that cannot be used at all (an unknown scheme, a missing package), and
`RunError` for a failure in use (no permission, no network); both name the URI.
"""

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cosup.errors import RunError, UserError, in_short
from cosup.files import TEMPORARY, write_atomic
from cosup.secrets import mask

__all__ = [
    "Listed",
    "Place",
    "file_system",
    "folders",
    "get",
    "is_uri",
    "join",
    "listed",
    "listing",
    "put",
    "remove",
    "split",
]

SETTING = "run.output"
"""The setting that holds the URI."""
COPY_BYTES = 8 * 1024 * 1024
"""Bytes read or written at once."""
WHOLE = ("s3", "gcs", "abfs")
"""pyarrow's object stores: a file appears whole when it is closed, and there are no folders."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_uri(text: str) -> bool:
    """Return whether the text begins with `scheme://`."""
    return _URI.match(text) is not None


def join(uri: str, *names: str) -> str:
    """Return the URI of a file below another URI (names may contain slashes)."""
    body, mark, options = uri.partition("?")
    for name in names:
        if "?" in name:
            raise UserError("a file name in a URI cannot contain '?'", key=SETTING, value=name)
        body = body + name if body.endswith("/") else f"{body}/{name}"
    return body + mark + options


def split(uri: str) -> tuple[str, str]:
    """Return the URI of the folder and the last name, as the reverse of `join`."""
    body, mark, options = uri.partition("?")
    scheme, _, path = body.partition("://")
    above, _, name = path.rstrip("/").rpartition("/")
    if not name or name in (".", "..") or (not above and scheme != "file"):
        raise UserError(
            "must be {allowed}",
            key=SETTING,
            value=mask(uri),
            allowed=f"a folder below the root, such as {scheme}://some/run",
        )
    return f"{scheme}://{above or '/'}{mark}{options}", name


@dataclass(frozen=True, repr=False)
class Place:
    """A URI that is joined and printed like a `Path`, without its secrets."""

    uri: str

    def __truediv__(self, name: str) -> "Place":
        return Place(join(self.uri, name))

    def __str__(self) -> str:
        return mask(self.uri)

    __repr__ = __str__


def put(file: Path, uri: str) -> None:
    """Copy a local file to a URI; a reader finds the old or the new file, never a part.

    Raises `FileNotFoundError` if the local file does not exist.
    """
    with file.open("rb") as source, _explained(uri, "written"):
        store, path = file_system(uri)
        if store.type_name in WHOLE:
            _write(store, path, source)
            return
        folder, _, name = path.rpartition("/")
        if folder:
            store.create_dir(folder, recursive=True)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
        _write(store, temporary, source)
        try:
            store.move(temporary, path)
        except BaseException:
            _forget(store, temporary)
            raise


def get(uri: str, file: Path) -> bool:
    """Copy the file at a URI to a local file, atomically; return False if there is none."""
    with _explained(uri, "read"):
        store, path = file_system(uri)
        try:
            source = store.open_input_stream(path)
        except FileNotFoundError:
            return False

        def copy(temporary: Path) -> None:
            with temporary.open("wb") as target:
                shutil.copyfileobj(source, target, COPY_BYTES)

        with source:
            write_atomic(file, copy)
        return True


@dataclass(frozen=True)
class Listed:
    """A file in a listing. size: in bytes. changed: when it was written, in ns since 1970; None
    where the store does not tell."""

    size: int
    changed: int | None


def listing(uri: str) -> dict[str, int]:
    """Return the size in bytes of every file below a URI, by its name relative to the URI."""
    return {name: found.size for name, found in listed(uri).items()}


def listed(uri: str) -> dict[str, Listed]:
    """Return every file below a URI, by its name relative to the URI."""
    from pyarrow.fs import FileType

    return {
        name: Listed(int(info.size), info.mtime_ns)
        for name, info in _infos(uri, recursive=True)
        if info.type == FileType.File and not name.endswith(TEMPORARY)
    }


def folders(uri: str) -> list[str]:
    """Return the names of the folders right below a URI, sorted."""
    from pyarrow.fs import FileType

    found = _infos(uri, recursive=False)
    return [name.rstrip("/") for name, info in found if info.type == FileType.Directory]


def _infos(uri: str, recursive: bool) -> list[tuple[str, Any]]:
    """Return what is below a URI: names relative to it, sorted, and what pyarrow tells of each."""
    from pyarrow.fs import FileSelector

    with _explained(uri, "listed"):
        store, path = file_system(uri)
        _refresh(store)
        found = store.get_file_info(FileSelector(path, recursive=recursive, allow_not_found=True))
        start = path.strip("/") + "/"
        names = {info.path.lstrip("/").removeprefix(start): info for info in found}
        return sorted(names.items())


def remove(uri: str) -> None:
    """Remove the file or folder at a URI; do nothing if there is none."""
    from pyarrow.fs import FileType

    with _explained(uri, "removed"):
        store, path = file_system(uri)
        _refresh(store)
        kind = store.get_file_info(path).type
        with suppress(FileNotFoundError):
            if kind == FileType.File:
                store.delete_file(path)
            elif kind == FileType.Directory:
                store.delete_dir(path)


def _write(store: Any, path: str, source: Any) -> None:
    """Copy an open file. Remove an unfinished copy: closing it would make it look complete."""
    target = store.open_output_stream(path)
    try:
        shutil.copyfileobj(source, target, COPY_BYTES)
        target.close()
    except BaseException:
        with suppress(Exception):
            target.close()
        _forget(store, path)
        raise


def _forget(store: Any, path: str) -> None:
    with suppress(Exception):
        store.delete_file(path)


def _refresh(store: Any) -> None:
    """Clear fsspec's cache of folders, as other processes write there too."""
    if hasattr(store, "handler"):
        store.handler.fs.invalidate_cache()


def file_system(uri: str) -> tuple[Any, str]:
    """Return pyarrow's file system of a URI, and the path in it; it is kept for its host.

    Raises `UserError` for a URI that cannot be used, and the store's own errors.
    """
    body, mark, options = uri.partition("?")
    scheme, _, path = body.partition("://")
    host, _, path = path.partition("/")
    try:
        found = _arrow(f"{scheme}://{host}/{mark}{options}")
        if found is None:
            return _fsspec(uri)
    except UserError:
        raise
    except (ValueError, ImportError) as error:
        raise UserError(in_short(error), key=SETTING, value=mask(uri)) from error
    store, root = found
    return store, f"{root.rstrip('/')}/{path}".rstrip("/")


@lru_cache(maxsize=64)
def _arrow(base: str) -> tuple[Any, str] | None:
    """Return pyarrow's file system of a host or bucket, and its root; None if it has none."""
    import pyarrow
    from pyarrow.fs import FileSystem

    try:
        store, root = FileSystem.from_uri(base)
    except pyarrow.ArrowNotImplementedError:  # built without it
        return None
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem" in str(error):
            return None
        raise
    return store, root


# The threads of a connection do not live on in a forked process.
os.register_at_fork(after_in_child=_arrow.cache_clear)


def _fsspec(uri: str) -> tuple[Any, str]:
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    scheme, _, name = uri.partition("://")
    if any(letter in name for letter in "*?[]"):
        raise UserError(
            f"a name at {scheme}:// cannot contain any of * ? [ ]", key=SETTING, value=mask(uri)
        )
    try:
        store, path = fsspec.core.url_to_fs(uri)
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise
        raise UserError(
            f"unknown scheme '{scheme}'",
            key=SETTING,
            value=mask(uri),
            allowed="file, s3, gs, abfs, hdfs, and those of fsspec",
        ) from error
    return PyFileSystem(FSSpecHandler(store)), str(path)


@contextmanager
def _explained(uri: str, done: str) -> Iterator[None]:
    """Turn an exception of a store, of any class, into a `RunError` about the URI."""
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        raise RunError(f"cannot be {done} ({in_short(error)})", where=mask(uri)) from error
