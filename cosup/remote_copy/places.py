"""From a path or a URI to the folder that is read, and back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from cosup.origins import origin_of, register
from cosup.remote import Place, is_uri, join
from cosup.remote_copy.cache import folder_for, in_use
from cosup.remote_copy.copy import Copy

__all__ = ["alone", "copy_of", "folder_of", "place_of"]


def folder_of(place: str | Path, anew: bool = False) -> Path:
    """Return the folder of a run, of a folder of runs or of an exported student.

    It is the place itself for a path, and the up-to-date copy for a URI, in which files are fetched
    when they are read. anew: fetch also those again that seem to be unchanged. Raises `UserError`
    for a URI that cannot be used or where nothing is, and `RunError` for one that cannot be read
    (no permission, no network); both name the URI.
    """
    if not is_uri(str(place)):
        return Path(os.path.expanduser(place))
    body, question, options = str(place).partition("?")
    folder = folder_for(str(place))
    uri = body.rstrip("/") + question + options
    known = origin_of(folder)
    copy = known[0] if known is not None and isinstance(known[0], Copy) else Copy(uri, folder)
    copy.refresh(anew)
    register(copy)
    return folder


def copy_of(path: Path) -> Copy | None:
    """Return the copy that a path is in, or None."""
    found = origin_of(path)
    return found[0] if found is not None and isinstance(found[0], Copy) else None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let no other process refresh the copy that a path is in while this is open: what is written
    into it until it is put back would be lost. Do nothing for other paths."""
    copy = copy_of(path)
    with nullcontext() if copy is None else in_use(copy.folder):
        yield


def place_of(path: Path) -> Path | Place:
    """Return where a run is: the path itself, or for one in a copy its URI."""
    found = origin_of(path)
    if found is None or not isinstance(found[0], Copy):
        return path
    return Place(join(found[0].uri, found[1]) if found[1] else found[0].uri)
