"""Image files in a folder per class, or in a folder per domain with a folder per class in each."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cosup.data.images import FileImages
from cosup.data.sources.base import (
    SPLIT_NAMES,
    SPLITS,
    Collection,
    Columns,
    Names,
    Source,
    collect,
    name_indices,
    ordered_names,
)
from cosup.errors import UserError, unknown_name

log = logging.getLogger(__name__)

IMAGE_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "avif", "jp2"),
    )
)
SPLIT_FOLDERS = frozenset({*SPLITS, *SPLIT_NAMES})
LISTS = ("train", "test")
"""DomainNet's lists of each domain."""


def folders(path: Path) -> list[str]:
    """Return the sorted names of the folders in `path`, without hidden ones.

    Raise `UserError` about `root` if `path` is missing, no folder, or unreadable.
    """
    return sorted(entry.name for entry in _entries(path) if entry.is_dir())


def images_below(path: Path) -> list[str]:
    """Return the sorted paths, relative to `path`, of all image files at any depth.

    Images are recognised by their ending; the content is checked when they are decoded.
    """
    return sorted(os.path.relpath(found, path) for found in _image_files(path, set()))


def class_images(path: Path) -> list[str]:
    """Return `images_below(path)`; raise `UserError` if there are none."""
    found = images_below(path)
    if not found:
        raise UserError(
            "no image in this folder",
            key="root",
            value=str(path),
            allowed="folders of jpg, png, gif, webp, tif, bmp, ... files",
        )
    return found


@dataclass
class ImageFolder(Source):
    """Images in `root/class/*` or `root/split/class/*`; sample ids are paths below root.

    The second form is assumed if all folders in root are named train, val, valid, validation, test,
    teacher_train or student_train and contain folders. `splits: given` needs the names of cosup's
    splits; with shares, all images are pooled and split anew.
    """

    root: str
    """The folder."""

    def peek(self) -> Names:
        """Return the names of the class folders."""
        root = Path(self.root)
        found = [name for split in self._splits() or [""] for name in folders(root / split)]
        return Names(tuple(ordered_names(found)), ("all",))

    def _splits(self) -> list[str]:
        """Return the folders of splits in root; empty if its folders are those of classes.

        Raises `UserError` if there is no folder.
        """
        root = Path(self.root)
        names = folders(root)
        if not names:
            raise UserError(
                "no folder of a class in this folder",
                key="root",
                value=self.root,
                allowed="a folder with root/class/image files",
            )
        by_split = all(name in SPLIT_FOLDERS and folders(root / name) for name in names)
        return names if by_split else []

    def load(self) -> Collection:
        """List all images below the class folders."""
        root, found_splits = Path(self.root), self._splits()
        if found_splits:
            log.info("data.root: '%s' has splits: %s", root, ", ".join(found_splits))
        paths, labels, splits = [], [], []
        for split in found_splits or [""]:
            for name in folders(root / split):
                found = [
                    Path(split, name, image).as_posix()
                    for image in class_images(root / split / name)
                ]
                paths += found
                labels += [name] * len(found)
                splits += [split] * len(found)
        classes = ordered_names(labels)
        columns = Columns(paths, name_indices(labels, classes), split=splits)
        return collect(columns, FileImages(root, paths), classes)


@dataclass
class DomainFolder(Source):
    """Images in `root/domain/class/*`; sample ids are paths below root.

    If DomainNet's lists `DOMAIN_train.txt` and `DOMAIN_test.txt` (lines of `path label`) are in
    root, the samples are those of the lists.
    """

    root: str
    """The folder."""
    domains: list[str] | None = None
    """Domains to use, in this order; null uses all, sorted."""
    official_test: bool = True
    """With lists: test on all samples of the `_test` lists and on no others. The other splits
    divide the `_train` lists in proportion to their shares."""

    def peek(self) -> Names:
        """Return the domains, and the classes unless they are in lists."""
        root = Path(self.root)
        lists = self._lists()
        domains = self._chosen(root, lists)
        if lists:
            return Names(domains=tuple(domains))
        found = [name for domain in domains for name in folders(root / domain)]
        return Names(tuple(ordered_names(found)) if found else None, tuple(domains))

    def _lists(self) -> dict[str, Path]:
        root = Path(self.root)
        return {path.name: path for part in LISTS for path in _list_files(root, part)}

    def load(self) -> Collection:
        """List all images, domain by domain."""
        root, lists = Path(self.root), self._lists()
        domains = self._chosen(root, lists)
        rows = [row for name in domains for row in self._domain(root, name, lists)]
        classes = _class_order(rows) if lists else ordered_names(row.label for row in rows)
        paths = [row.path for row in rows]
        official = self.official_test and {row.part for row in rows} == set(LISTS)
        columns = Columns(
            paths,
            name_indices([row.label for row in rows], classes),
            domain=name_indices([row.domain for row in rows], domains),
            split=[row.part if official and row.part == "test" else "" for row in rows],
        )
        return collect(columns, FileImages(root, paths), classes, domains, official_test=official)

    def _chosen(self, root: Path, lists: dict[str, Path]) -> list[str]:
        listed = {path.stem.rsplit("_", 1)[0] for path in lists.values()}
        known = sorted(listed) if lists else folders(root)
        if not known:
            raise UserError(
                "no domain in this folder",
                key="root",
                value=self.root,
                allowed="a folder with root/domain/class/image files",
            )
        for name in self.domains or []:
            if name not in known:
                raise unknown_name("domain", name, known, key="domains")
        if self.domains is not None and len(set(self.domains)) < max(1, len(self.domains)):
            raise UserError(
                "a domain is given twice, or there is none",
                key="domains",
                value=self.domains,
                allowed="each domain once, and at least one",
            )
        return self.domains or known

    def _domain(self, root: Path, name: str, lists: dict[str, Path]) -> "list[_Row]":
        if lists:
            parts = [part for part in LISTS if f"{name}_{part}.txt" in lists]
            return [
                row for part in parts for row in _read_list(lists[f"{name}_{part}.txt"], name, part)
            ]
        labels = folders(root / name)
        if not labels:
            raise UserError(
                "no folder of a class in this domain", key="root", value=str(root / name)
            )
        return [
            _Row(PurePosixPath(name, label, image).as_posix(), label, name)
            for label in labels
            for image in class_images(root / name / label)
        ]


@dataclass(frozen=True)
class _Row:
    """A sample; number and line (its place in a file) are those of a list."""

    path: str
    label: str
    domain: str
    part: str = ""
    number: int = -1
    line: str = ""


def _list_files(root: Path, part: str) -> list[Path]:
    folders(root)  # raises if the folder is missing or unreadable
    found = sorted(root.glob(f"*_{part}.txt"))
    return [path for path in found if (root / path.stem.removesuffix(f"_{part}")).is_dir()]


def _read_list(path: Path, domain: str, part: str) -> list[_Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read this list: {error}", key="root", value=str(path)) from None
    rows = []
    for position, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image, _, number = line.strip().rpartition(" ")
        place = f"'{path}' line {position}"
        if not number.isdecimal() or len(PurePosixPath(image).parts) < 2:
            raise UserError(
                f"{place}: {{value}} is not 'domain/class/image number'",
                key="root",
                value=line.strip(),
            )
        label = PurePosixPath(image).parent.name
        rows.append(_Row(image, label, domain, part, int(number), place))
    if not rows:
        raise UserError("no image in this list", key="root", value=str(path))
    return rows


def _class_order(rows: list[_Row]) -> list[str]:
    """Return class names in the order of the lists' numbers; each number must have one name."""
    name_of: dict[int, str] = {}
    number_of: dict[str, int] = {}
    for row in rows:
        name = name_of.setdefault(row.number, row.label)
        number = number_of.setdefault(row.label, row.number)
        if name != row.label or number != row.number:
            raise UserError(
                f"{row.line}: class {{value}} has number {row.number}, but elsewhere number "
                f"{row.number} is class '{name}' and '{row.label}' has number {number}",
                key="root",
                value=row.label,
            )
    return [name_of[number] for number in sorted(name_of)]


def _image_files(path: Path, visited: set[tuple[int, int]]) -> Iterator[str]:
    stat = path.stat()
    # Links are followed, and a link to a folder above would never end.
    if (stat.st_dev, stat.st_ino) in visited:
        return
    visited.add((stat.st_dev, stat.st_ino))
    for entry in _entries(path):
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
        # Sample ids are written to tables, which only hold Unicode.
        if not entry.name.isprintable():
            raise UserError(
                f"rename {{value}} in '{path}': not a printable name", key="root", value=entry.name
            )
    return found
