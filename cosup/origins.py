"""Local folders that are copies of folders elsewhere, and hold a file once it is asked for.

A run at a URI is read through such a copy (`cosup.remote_copy`). What reads the files of a run asks
here which of them there are, and obtains a file before it opens it. A folder that is no copy is
simply looked at.
"""

from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

__all__ = [
    "Origin",
    "folders_in",
    "has_folder",
    "in_order",
    "is_there",
    "matching",
    "named_below",
    "obtain",
    "obtain_below",
    "origin_of",
    "register",
    "shown",
    "with_places",
]


class Origin(Protocol):
    """Where the files of a local folder are from."""

    @property
    def folder(self) -> Path:
        """Return the local folder, an absolute path."""

    def names(self) -> Collection[str]:
        """Return the files that are there, or were written into the folder, by relative path."""

    def order(self, name: str) -> float:
        """Return a number that sorts files in the order in which they were finished."""

    def fetch(self, names: Iterable[str]) -> None:
        """Copy files into the folder that are not in it; do nothing for those that are nowhere."""

    def place(self, name: str) -> str:
        """Return where a file is, to be printed; of the folder itself for the name ""."""


_origins: dict[Path, Origin] = {}


def register(origin: Origin) -> None:
    """Let the files of a folder be obtained from its origin, while this process lives."""
    _origins[origin.folder] = origin


def origin_of(path: Path) -> tuple[Origin, str] | None:
    """Return the origin of a path and its name there ("" for the folder); None for other paths."""
    for folder, origin in _origins.items():
        if path.is_relative_to(folder):
            name = path.relative_to(folder).as_posix()
            return origin, "" if name == "." else name
    return None


def is_there(path: Path) -> bool:
    """Return whether a file is there, here or at its origin."""
    found = origin_of(path)
    return path.is_file() or (found is not None and found[1] in found[0].names())


def has_folder(path: Path) -> bool:
    """Return whether a folder is there, here or at its origin."""
    found = origin_of(path)
    if found is None or path.is_dir():
        return path.is_dir()
    return any(name.startswith(f"{found[1]}/") for name in found[0].names())


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return the files right below a folder whose names match, sorted, here or at its origin."""
    found = origin_of(folder)
    if found is None:
        return sorted(folder.glob(pattern))
    origin, above = found
    start = f"{above}/" if above else ""
    names = [name.removeprefix(start) for name in origin.names() if name.startswith(start)]
    return sorted(folder / name for name in names if "/" not in name and fnmatchcase(name, pattern))


def folders_in(folder: Path) -> list[Path]:
    """Return the folders right below a folder, sorted."""
    found = origin_of(folder)
    if found is None:
        return [path for path in sorted(folder.iterdir()) if path.is_dir()]
    origin, above = found
    start = f"{above}/" if above else ""
    names = [name.removeprefix(start) for name in origin.names() if name.startswith(start)]
    return [folder / name for name in sorted({n.split("/")[0] for n in names if "/" in n})]


def named_below(folder: Path, depth: int, names: Collection[str]) -> list[Path]:
    """Return the files with such names in the folders so many levels below, sorted."""
    found = origin_of(folder)
    if found is None:
        return sorted(path for name in names for path in folder.glob(f"{'*/' * depth}{name}"))
    paths = [found[0].folder / name for name in found[0].names()]
    below = [path for path in paths if path.name in names and path.is_relative_to(folder)]
    return sorted(path for path in below if len(path.relative_to(folder).parts) == depth + 1)


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Return files in the order in which they were finished."""

    def finished(path: Path) -> float:
        found = origin_of(path)
        return path.stat().st_mtime if found is None else found[0].order(found[1])

    return sorted(paths, key=finished)


def obtain(*paths: Path) -> None:
    """Copy files from their origin, all at once, that are not here yet."""
    wanted: dict[Path, tuple[Origin, list[str]]] = {}
    for path in paths if _origins else ():
        if (found := origin_of(path)) is not None:
            wanted.setdefault(found[0].folder, (found[0], []))[1].append(found[1])
    for origin, names in wanted.values():
        origin.fetch(names)


def obtain_below(folder: Path, but: Callable[[str], bool] = lambda name: False) -> None:
    """Copy all files below a folder from their origin. but: of those relative to it, which not."""
    found = origin_of(folder)
    if found is None:
        return
    origin, above = found
    start = f"{above}/" if above else ""
    names = [name for name in origin.names() if name.startswith(start)]
    origin.fetch([name for name in names if not but(name.removeprefix(start))])


def shown(path: Path) -> str:
    """Return where a file is, to be printed: its place at its origin, or the path."""
    found = origin_of(path)
    return str(path) if found is None else found[0].place(found[1])


def with_places(text: str) -> str:
    """Return a text that names folders at their origin instead of the copies of them."""
    for folder, origin in _origins.items():
        text = text.replace(str(folder), origin.place("").partition("?")[0])
    return text
