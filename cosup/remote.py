"""Files at a URI: `s3://`, `gs://`, `abfs://`, `hdfs://`, `file://` by pyarrow, all else by fsspec.

A URI is taken as it is written: spaces and other scripts need no escapes, and `%20` is no space.
What stands after a `?` are options of pyarrow's file system
(`s3://bucket/runs?endpoint_override=localhost:9000&scheme=http`).

`UserError` for a URI that can't be used at all (unknown scheme, a package that isn't installed),
`RunError` for what fails in use (no permission, no network); both name the URI.
"""

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cosup.errors import RunError, UserError
from cosup.files import TEMPORARY, write_atomic

__all__ = ["Place", "get", "is_uri", "join", "listing", "put", "remove", "shown", "split"]

SETTING = "run.output"
"""The setting that an unusable URI comes from."""
CHUNK = 8 * 1024 * 1024
"""Bytes read or written at once."""
WHOLE = ("s3", "gcs", "abfs")
"""pyarrow's object stores: a file appears when it is closed, all of it, and folders don't exist."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_uri(text: str) -> bool:
    """Does the text begin with `scheme://`?"""
    return _URI.match(text) is not None


def join(uri: str, *names: str) -> str:
    """The URI of something below another (names may hold slashes)."""
    body, mark, options = uri.partition("?")
    for name in names:
        if "?" in name:
            raise UserError(f"{SETTING}: {name}: the name of a file at a URI can't hold '?'")
        body = body + name if body.endswith("/") else f"{body}/{name}"
    return body + mark + options


def split(uri: str) -> tuple[str, str]:
    """The URI of the folder, and the last name: what `join` puts together."""
    body, mark, options = uri.partition("?")
    scheme, _, path = body.partition("://")
    above, _, name = path.rstrip("/").rpartition("/")
    if not name or name in (".", "..") or (not above and scheme != "file"):
        raise UserError(f"{SETTING}: {shown(uri)}: give a folder for it, as in {scheme}://some/run")
    return f"{scheme}://{above or '/'}{mark}{options}", name


@dataclass(frozen=True)
class Place:
    """A URI that is joined and printed as a `Path` is."""

    uri: str

    def __truediv__(self, name: str) -> "Place":
        return Place(join(self.uri, name))

    def __str__(self) -> str:
        return shown(self.uri)


def shown(uri: str) -> str:
    """The URI for messages: without a password in it."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", uri)


def put(file: Path, uri: str) -> None:
    """Copy a local file to a URI; a reader sees the old one or the new one, never a part.

    Raises `FileNotFoundError` if the local file isn't there.
    """
    with file.open("rb") as source, _explained(uri, "written"):
        store, path = _open(uri)
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
    """Copy what is at a URI to a local file, atomically; False if there is none."""
    with _explained(uri, "read"):
        store, path = _open(uri)
        try:
            source = store.open_input_stream(path)
        except FileNotFoundError:
            return False

        def copy(temporary: Path) -> None:
            with temporary.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)

        with source:
            write_atomic(file, copy)
        return True


def listing(uri: str) -> dict[str, int]:
    """Bytes of every file below a URI, by its name from there; empty if there are none."""
    from pyarrow.fs import FileSelector, FileType

    with _explained(uri, "listed"):
        store, path = _open(uri)
        _refresh(store)
        found = store.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        start = path.strip("/") + "/"
        names = {info.path.lstrip("/").removeprefix(start): info for info in found}
        return {
            name: int(info.size)
            for name, info in sorted(names.items())
            if info.type == FileType.File and not name.endswith(TEMPORARY)
        }


def remove(uri: str) -> None:
    """Remove the file, or the folder with all in it, that is at a URI; nothing if there is none."""
    from pyarrow.fs import FileType

    with _explained(uri, "removed"):
        store, path = _open(uri)
        _refresh(store)
        kind = store.get_file_info(path).type
        with suppress(FileNotFoundError):
            if kind == FileType.File:
                store.delete_file(path)
            elif kind == FileType.Directory:
                store.delete_dir(path)


def _write(store: Any, path: str, source: Any) -> None:
    """All of an open file. What was begun is removed if it can't be finished: to close it, even by
    forgetting it, would make it look whole."""
    target = store.open_output_stream(path)
    try:
        shutil.copyfileobj(source, target, CHUNK)
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
    """Forget what fsspec remembers of folders: others write there too."""
    if hasattr(store, "handler"):
        store.handler.fs.invalidate_cache()


def _open(uri: str) -> tuple[Any, str]:
    """The file system, in pyarrow's terms, and the path in it."""
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
        raise UserError(f"{SETTING}: {shown(uri)}: {_line(error)}") from error
    store, root = found
    return store, f"{root.rstrip('/')}/{path}".rstrip("/")


@lru_cache(maxsize=64)
def _arrow(base: str) -> tuple[Any, str] | None:
    """pyarrow's file system of a host or bucket, and its root; None if pyarrow has none."""
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


def _fsspec(uri: str) -> tuple[Any, str]:
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    scheme, _, name = uri.partition("://")
    if any(letter in name for letter in "*?[]"):
        raise UserError(f"{SETTING}: {shown(uri)}: a name at {scheme}:// can't hold any of * ? [ ]")
    try:
        store, path = fsspec.core.url_to_fs(uri)
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise
        raise UserError(
            f"{SETTING}: {shown(uri)}: unknown scheme '{scheme}' (known: file, s3, gs, abfs, hdfs, "
            "and what fsspec knows)"
        ) from error
    return PyFileSystem(FSSpecHandler(store)), str(path)


@contextmanager
def _explained(uri: str, done: str) -> Iterator[None]:
    """Turn what a store raises, which may be of any class, into a `RunError` about the URI."""
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        raise RunError(f"{shown(uri)}: can't be {done} ({_line(error)})") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."
