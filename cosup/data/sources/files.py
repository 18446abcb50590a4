"""Listing folders of images."""

import os
from collections.abc import Iterator
from pathlib import Path

from cosup.errors import UserError

IMAGE_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "avif", "jp2"),
    )
)


def folders(path: Path, what: str = "data.root") -> list[str]:
    """The names of the folders in `path`, sorted, without hidden ones."""
    return sorted(entry.name for entry in _entries(path, what) if entry.is_dir())


def images_below(path: Path) -> list[str]:
    """Paths, relative to `path`, of all image files at any depth, sorted.

    A file is an image by its ending here; whether it is one is checked when it is decoded.
    """
    return sorted(os.path.relpath(found, path) for found in _walk(path, set()))


def class_images(path: Path) -> list[str]:
    """`images_below`, of which there must be some."""
    found = images_below(path)
    if not found:
        endings = "jpg, png, gif, webp, tif, bmp, ..."
        raise UserError(f"data.root: folder '{path}' holds no image ({endings})")
    return found


def _walk(path: Path, seen: set[tuple[int, int]]) -> Iterator[str]:
    stat = path.stat()
    # Links are followed, and one that leads back up would never end.
    if (stat.st_dev, stat.st_ino) in seen:
        return
    seen.add((stat.st_dev, stat.st_ino))
    for entry in _entries(path, "data.root"):
        if entry.is_dir():
            yield from _walk(Path(entry.path), seen)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_ENDINGS:
            yield entry.path


def _entries(path: Path, what: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            found = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except FileNotFoundError:
        raise UserError(f"{what}: no folder '{path}'") from None
    except NotADirectoryError:
        raise UserError(f"{what}: '{path}' is not a folder") from None
    except OSError as error:
        raise UserError(f"{what}: can't read '{path}': {error.strerror}") from None
    for entry in found:
        # Names go into tables, and those hold Unicode alone.
        if not entry.name.isprintable():
            raise UserError(f"{what}: rename {entry.name!r} in '{path}': not a printable name")
    return found
