"""List the image files that a command line names: files, folders, globs and tables."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cosup.data.sources.files import FILE_TYPES, IMAGE_ENDINGS, images_below
from cosup.data.sources.table import CSV, PARQUET, SampleRows, read_table
from cosup.errors import Mistakes, UserError

__all__ = ["list_images"]


def list_images(given: Iterable[str]) -> list[str]:
    """Return the paths of the images that arguments name, in their order, each of them once.

    An argument is an image file, a folder (all images at any depth), a glob (`**` for any depth),
    or a table (CSV or Parquet) with a column `path`, whose relative paths start from its folder.
    Files are recognised by their endings; their content is not looked at. Raise `UserError` with
    every argument that names nothing.
    """
    mistakes = Mistakes()
    found: dict[str, None] = {}
    for argument in given:
        with mistakes.caught():
            found.update(dict.fromkeys(_named_by(argument)))
    mistakes.raise_all()
    return list(found)


def _named_by(argument: str) -> Iterator[str]:
    if os.path.isdir(argument):
        yield from _in_folder(argument)
    elif os.path.exists(argument):
        yield from _in_table(argument) if _is_table(argument) else (argument,)
    elif glob.has_magic(argument):
        yield from _in_glob(argument)
    else:
        raise UserError(
            "no file or folder {value}",
            value=argument,
            allowed="image files, folders, globs, or tables with a column path",
        )


def _in_folder(folder: str) -> list[str]:
    try:
        below = images_below(Path(folder))
    except UserError as error:
        raise error.at(()) from None  # it is about no setting here
    if not below:
        raise UserError("no image in this folder", value=folder, allowed=f"folders of {FILE_TYPES}")
    return [os.path.join(folder, path) for path in below]


def _in_table(file: str) -> list[str]:
    paths = SampleRows(file, "", read_table(file)).column("path")
    return [os.path.join(os.path.dirname(file), path) for path in paths]


def _in_glob(pattern: str) -> Iterator[str]:
    """Yield the image files that match, and the images in the folders that match."""
    matches = sorted(glob.glob(pattern, recursive=True))
    images = [path for path in matches if Path(path).suffix.lower() in IMAGE_ENDINGS]
    below = [
        os.path.join(path, image)
        for path in matches
        if os.path.isdir(path)
        for image in images_below(Path(path))
    ]
    if not images and not below:
        raise UserError("no image matches {value}", value=pattern, allowed=FILE_TYPES)
    yield from sorted({*(os.path.normpath(path) for path in (*images, *below))})


def _is_table(path: str) -> bool:
    return Path(path).suffix.lower() in CSV + PARQUET
