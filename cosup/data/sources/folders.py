"""Listing folders of images.

A folder per class, perhaps below a folder per split.

A folder per domain with a folder per class in each (DomainBed, PACS, DomainNet).
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cosup.data.images import FileImages
from cosup.data.sources.base import SPLITS, Collection, Source, coded, collect, ordered_names
from cosup.errors import UserError, unknown_name

log = logging.getLogger(__name__)

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


SPLIT_FOLDERS = frozenset({*SPLITS, "train", "val", "valid"})


@dataclass
class ImageFolder(Source):
    """`root/class/*`, or `root/split/class/*`; a sample is called by its path below root.

    It is the second form if every folder in root is named train, val, valid, validation, test,
    teacher_train or student_train and itself holds folders. With `splits: given` these must be
    named as cosup's splits; with shares all images are pooled and split anew.
    """

    root: str
    """The folder."""

    def load(self) -> Collection:
        """All images below the class folders."""
        root = Path(self.root)
        names = folders(root)
        if not names:
            raise UserError(
                f"data.root: folder '{root}' holds no folder of a class (root/class/image)"
            )
        by_split = all(name in SPLIT_FOLDERS and folders(root / name) for name in names)
        if by_split:
            log.info("data.root: '%s' holds splits: %s", root, ", ".join(names))
        paths, labels, splits = [], [], []
        for split in names if by_split else [""]:
            for name in folders(root / split):
                found = [
                    Path(split, name, image).as_posix()
                    for image in class_images(root / split / name)
                ]
                paths += found
                labels += [name] * len(found)
                splits += [split] * len(found)
        classes = ordered_names(labels)
        label = coded(labels, classes, "class")
        return collect(paths, label, classes, FileImages(root, paths), split=splits)


PARTS = ("train", "test")


@dataclass
class DomainFolder(Source):
    """`root/domain/class/*`; a sample is called by its path below root.

    Where DomainNet's lists `DOMAIN_train.txt` and `DOMAIN_test.txt` (lines of `path label`) lie
    beside the domains' folders, the samples are those listed.
    """

    root: str
    """The folder."""
    domains: list[str] | None = None
    """Use these domains only, in this order; null takes all, sorted."""
    official_test: bool = True
    """Where there are lists: test on all samples of the `_test` lists and on no others. The other
    splits then divide the `_train` lists in proportion to their shares."""

    def load(self) -> Collection:
        """All images of the domains, domain after domain."""
        root = Path(self.root)
        lists = {path.name: path for part in PARTS for path in _lists(root, part)}
        domains = self._chosen(root, lists)
        rows = [row for name in domains for row in self._domain(root, name, lists)]
        classes = _class_order(rows) if lists else ordered_names(row.label for row in rows)
        paths = [row.path for row in rows]
        official = self.official_test and {row.part for row in rows} == set(PARTS)
        return collect(
            paths,
            coded([row.label for row in rows], classes, "class"),
            classes,
            FileImages(root, paths),
            domain=coded([row.domain for row in rows], domains, "domain"),
            domains=domains,
            split=[row.part if official and row.part == "test" else "" for row in rows],
            official_test=official,
        )

    def _chosen(self, root: Path, lists: dict[str, Path]) -> list[str]:
        listed = {path.stem.rsplit("_", 1)[0] for path in lists.values()}
        known = sorted(listed) if lists else folders(root)
        if not known:
            raise UserError(f"data.root: folder '{root}' holds no domain (root/domain/class/image)")
        for name in self.domains or []:
            if name not in known:
                raise UserError(f"data.domains: {unknown_name('domain', name, known)}")
        if self.domains is not None and len(set(self.domains)) < max(1, len(self.domains)):
            raise UserError(
                f"data.domains: {self.domains}: give each domain once, and at least one"
            )
        return self.domains or known

    def _domain(self, root: Path, name: str, lists: dict[str, Path]) -> "list[_Row]":
        if lists:
            parts = [part for part in PARTS if f"{name}_{part}.txt" in lists]
            return [
                row for part in parts for row in _listed(lists[f"{name}_{part}.txt"], name, part)
            ]
        labels = folders(root / name)
        if not labels:
            raise UserError(f"data.root: domain '{root / name}' holds no folder of a class")
        return [
            _Row(PurePosixPath(name, label, image).as_posix(), label, name)
            for label in labels
            for image in class_images(root / name / label)
        ]


@dataclass(frozen=True)
class _Row:
    path: str
    label: str
    domain: str
    part: str = ""
    number: int = -1
    line: str = ""


def _lists(root: Path, part: str) -> list[Path]:
    folders(root)  # says so if the folder is missing or can't be read
    found = sorted(root.glob(f"*_{part}.txt"))
    return [path for path in found if (root / path.stem.removesuffix(f"_{part}")).is_dir()]


def _listed(path: Path, domain: str, part: str) -> list[_Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.root: can't read the list '{path}': {error}") from None
    rows = []
    for position, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image, _, number = line.strip().rpartition(" ")
        if not number.isdecimal() or len(PurePosixPath(image).parts) < 2:
            raise UserError(
                f"'{path}' line {position}: '{line.strip()[:80]}' "
                "is not 'domain/class/image number'"
            )
        label = PurePosixPath(image).parent.name
        rows.append(_Row(image, label, domain, part, int(number), f"'{path}' line {position}"))
    if not rows:
        raise UserError(f"data.root: the list '{path}' names no image")
    return rows


def _class_order(rows: list[_Row]) -> list[str]:
    """Class names in the order of the lists' numbers; each number must go with one name."""
    name_of: dict[int, str] = {}
    number_of: dict[str, int] = {}
    for row in rows:
        name = name_of.setdefault(row.number, row.label)
        number = number_of.setdefault(row.label, row.number)
        if name != row.label or number != row.number:
            raise UserError(
                f"{row.line}: class '{row.label}' has number {row.number}, but number {row.number} "
                f"is class '{name}' and '{row.label}' is number {number} elsewhere"
            )
    return [name_of[number] for number in sorted(name_of)]
