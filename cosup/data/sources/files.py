"""Image files in folders: those of classes, and those without labels beside them."""

import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from cosup.data.images import FileImages
from cosup.data.sources.base import SPLIT_NAMES, SPLITS, TABLE_COLUMNS, Collection
from cosup.errors import UserError, unknown_name
from cosup.words import printable

IMAGE_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "avif", "jp2"),
    )
)
SPLIT_FOLDERS = frozenset({*SPLITS, *SPLIT_NAMES})
FILE_TYPES = "jpg, png, gif, webp, tif, bmp, ... files"

Inode = tuple[int, int]
"""Device and number of a folder, the same by every path to it."""


def folders(path: Path, skip: str | None = None) -> list[str]:
    """Return the sorted names of the folders in `path`, without hidden ones.

    skip: a folder to leave out. Raise `UserError` about `root` if `path` is missing, no folder, or
    unreadable.
    """
    found = [entry for entry in _entries(path) if entry.is_dir()]
    left_out = _inodes(skip)
    if left_out:
        found = [entry for entry in found if _inode(Path(entry.path)) not in left_out]
    return sorted(entry.name for entry in found)


def images_below(path: Path, skip: str | None = None) -> list[str]:
    """Return the sorted paths, relative to `path`, of all image files at any depth.

    skip: a folder to leave out. Images are recognised by their ending; the content is checked when
    they are decoded, and names that cannot be printed count as broken then.
    """
    left_out = _inodes(skip) - _inodes(str(path))
    return sorted(os.path.relpath(found, path) for found in _image_files(path, left_out))


def class_images(path: Path, skip: str | None = None) -> list[str]:
    """Return `images_below(path, skip)`; raise `UserError` if there are none."""
    found = images_below(path, skip)
    if not found:
        raise UserError(
            "no image in this folder",
            key="root",
            value=str(path),
            allowed=f"folders of {FILE_TYPES}",
        )
    return found


def check_folder(unlabelled: str | None) -> None:
    """Raise `UserError` about `unlabelled` unless it is a folder that can be read, or None."""
    if unlabelled is not None:
        try:
            _entries(Path(unlabelled))
        except UserError as error:
            raise error.at(("unlabelled",)) from None


def with_unlabelled(
    found: Collection,
    root: str | Path,
    folder: str | None,
    left_out: AbstractSet[str] = frozenset(),
) -> Collection:
    """Return a collection of image files, and the other images below a folder, without labels.

    root: the folder that the collection's paths start from. folder: `data.unlabelled`; None adds
    nothing. left_out: domains whose images are not used. Sample ids are paths below root, or else
    start with the folder's name. Where there are domains, the folder has a folder of each.
    Raise `UserError` about `unlabelled`.
    """
    import pandas as pd

    if folder is None:
        return found
    paths, ids = _other_images(found, root, folder)
    domain = [0] * len(paths)
    if len(found.domains) > 1 or left_out:
        domain = [_domain_of(path, folder, found.domains, left_out) for path in paths]
    used = [number for number, place in enumerate(domain) if place >= 0]
    names = pd.Series([ids[number] for number in used], dtype="str")
    taken = names[names.isin(found.table["sample_id"])]
    if len(taken):
        raise UserError(
            f"its image '{taken.iloc[0]}' has the sample_id of another sample; rename the folder",
            key="unlabelled",
            value=folder,
        )
    count = len(found.images)
    more = pd.DataFrame(
        {
            "sample_id": names,
            "label": np.full(len(used), -1, np.int64),
            "domain": np.asarray([domain[number] for number in used], np.int64),
            "group": "(" + names + ")",
            "split": pd.Series([""] * len(used), dtype="str"),
            "image": np.arange(count, count + len(used), dtype=np.int64),
        }
    )
    others = [name for name in found.table.columns if name not in TABLE_COLUMNS]
    more = more.assign(**dict.fromkeys(others, pd.Series([""] * len(used), dtype="str")))
    assert isinstance(found.images, FileImages)
    files = [
        *(os.path.join(root, path) for path in found.images.paths),
        *(os.path.join(folder, paths[number]) for number in used),
    ]
    table = pd.concat([found.table, more], ignore_index=True)
    return replace(found, table=table, images=FileImages("", files))


def _other_images(found: Collection, root: str | Path, folder: str) -> tuple[list[str], list[str]]:
    """Return the paths below a folder of the images that a collection lacks, and their ids."""
    assert isinstance(found.images, FileImages)
    check_folder(folder)
    paths = images_below(Path(folder))
    real_root, real_folder = os.path.realpath(root), os.path.realpath(folder)
    known = {os.path.normpath(os.path.join(real_root, path)) for path in found.images.paths}
    new = [path for path in paths if os.path.join(real_folder, path) not in known]
    if not new:
        raise UserError(
            "every image below this folder has a label" if paths else "no image below this folder",
            key="unlabelled",
            value=folder,
            allowed=f"a folder of {FILE_TYPES}",
        )
    above = os.path.relpath(real_folder, real_root)
    if PurePosixPath(above).parts[:1] == (os.pardir,):
        above = os.path.basename(real_folder)
    return new, [printable(PurePosixPath(above, path).as_posix()) for path in new]


def _domain_of(path: str, folder: str, domains: tuple[str, ...], left_out: AbstractSet[str]) -> int:
    """Return the index of the domain that the first folder of a path names; -1 if left out."""
    first, *rest = PurePosixPath(path).parts
    if not rest:
        raise UserError(
            f"has an image '{first}' outside the folders of domains",
            key="unlabelled",
            value=folder,
            allowed=f"the folders {', '.join(domains)}",
        )
    if first in left_out:
        return -1
    if first not in domains:
        raise unknown_name(f"domain in '{folder}'", first, domains, key="unlabelled")
    return domains.index(first)


def _inodes(path: str | None) -> set[Inode]:
    return {_inode(Path(path))} if path is not None and os.path.isdir(path) else set()


def _inode(path: Path) -> Inode:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _image_files(path: Path, visited: set[Inode]) -> Iterator[str]:
    entries = _entries(path)
    # Links are followed, and a link to a folder above would never end.
    inode = _inode(path)
    if inode in visited:
        return
    visited.add(inode)
    for entry in entries:
        if entry.is_dir():
            yield from _image_files(Path(entry.path), visited)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_ENDINGS:
            yield entry.path


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            found = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except FileNotFoundError:
        raise UserError("no folder {value}", key="root", value=str(path)) from None
    except NotADirectoryError:
        raise UserError("not a folder", key="root", value=str(path)) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", key="root", value=str(path)) from None
    for entry in found:
        # Folders name classes and domains. Files are set aside as broken ones are (`FileImages`).
        if not entry.name.isprintable() and entry.is_dir():
            raise UserError(
                f"rename {{value}} in '{path}': not a printable name", key="root", value=entry.name
            )
    return found
