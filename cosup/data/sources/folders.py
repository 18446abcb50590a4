"""Image files in a folder per class, or in a folder per domain with a folder per class in each."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cosup.data.images import FileImages
from cosup.data.sources.base import (
    Collection,
    Columns,
    Names,
    Source,
    collect,
    name_indices,
    ordered_names,
)
from cosup.data.sources.files import (
    SPLIT_FOLDERS,
    check_folder,
    class_images,
    folders,
    with_unlabelled,
)
from cosup.errors import UserError, in_short, unknown_name
from cosup.progress import working_on
from cosup.words import printable

log = logging.getLogger(__name__)

LISTS = ("train", "test")
"""DomainNet's lists of each domain."""
LISTING = "listing images:"
"""What takes long in a folder of many."""


@dataclass
class ImageFolder(Source):
    """Images in `root/class/*` or `root/split/class/*`; sample ids are paths below root.

    The second form is assumed if all folders in root are named train, val, valid, validation, test,
    teacher_train or student_train and contain folders. `data.splits: given` needs the names of
    cosup's splits; with shares, all images are pooled and split anew.
    """

    root: str
    """The folder."""
    unlabelled: str | None = None
    """A folder of images without labels, which join student_train; it may be in `root`."""

    def peek(self) -> Names:
        """Return the names of the class folders."""
        root = Path(self.root)
        check_folder(self.unlabelled)
        found = [
            n for part in self._splits() or [""] for n in folders(root / part, self.unlabelled)
        ]
        return Names(tuple(ordered_names(found)), ("all",))

    def _splits(self) -> list[str]:
        """Return the folders of splits in root; empty if its folders are those of classes.

        Raise `UserError` if there is no folder.
        """
        root, skip = Path(self.root), self.unlabelled
        names = folders(root, skip)
        if not names:
            raise UserError(
                "no folder of a class in this folder",
                key="root",
                value=self.root,
                allowed="a folder with root/class/image files (or data.source: images)",
            )
        by_split = all(name in SPLIT_FOLDERS and folders(root / name, skip) for name in names)
        return names if by_split else []

    def load(self) -> Collection:
        """List all images below the class folders."""
        root, skip, found_splits = Path(self.root), self.unlabelled, self._splits()
        if found_splits:
            log.info("data.root: '%s' has splits: %s", root, ", ".join(found_splits))
        paths, labels, splits = [], [], []
        names = [(split, n) for split in found_splits or [""] for n in folders(root / split, skip)]
        with working_on(LISTING) as advance:
            for split, name in names:
                images = class_images(root / split / name, skip)
                paths += [Path(split, name, image).as_posix() for image in images]
                labels += [name] * len(images)
                splits += [split] * len(images)
                advance(len(images))
        classes = ordered_names(labels)
        ids = list(map(printable, paths))
        columns = Columns(ids, name_indices(labels, classes), split=splits)
        found = collect(columns, FileImages(root, paths), classes)
        return with_unlabelled(found, root, self.unlabelled)


@dataclass
class DomainFolder(Source):
    """Images in `root/domain/class/*` or `root/split/domain/class/*`; sample ids are paths below
    root.

    The second form is assumed if all folders in root have names of splits (as for `image_folder`)
    and hold folders of folders. If DomainNet's lists `DOMAIN_train.txt` and `DOMAIN_test.txt`
    (lines of `path label`) are in root, the samples are those of the lists.
    """

    root: str
    """The folder."""
    domains: list[str] | None = None
    """Domains to use, in this order; null uses all, sorted."""
    official_test: bool = True
    """With lists: test on all samples of the `_test` lists and on no others. The other splits
    divide the `_train` lists in proportion to their shares."""
    unlabelled: str | None = None
    """A folder of images without labels, with a folder per domain, which join student_train; it may
    be in `root`."""

    def peek(self) -> Names:
        """Return the domains, and the classes unless they are in lists."""
        check_folder(self.unlabelled)
        found = self._found()
        domains = tuple(self._chosen(found.domains()))
        return Names(found.classes(domains), domains)

    def _found(self) -> "_Lists | _Tree":
        root = Path(self.root)
        lists = {path.name: path for part in LISTS for path in _list_files(root, part)}
        return _Lists(lists) if lists else _Tree.of(root, self.unlabelled)

    def load(self) -> Collection:
        """List all images, domain by domain."""
        root, tree = Path(self.root), self._found()
        known = tree.domains()
        domains = self._chosen(known)
        rows: list[_Row] = []
        with working_on(LISTING) as advance:
            for name in domains:
                found_rows = tree.rows(name)
                rows += found_rows
                advance(len(found_rows))
        lists = isinstance(tree, _Lists)
        classes = _class_order(rows) if lists else ordered_names(row.label for row in rows)
        paths = [row.path for row in rows]
        official = lists and self.official_test and {row.part for row in rows} == set(LISTS)
        split = [row.part if not lists or (official and row.part == "test") else "" for row in rows]
        columns = Columns(
            list(map(printable, paths)),
            name_indices([row.label for row in rows], classes),
            domain=name_indices([row.domain for row in rows], domains),
            split=split,
        )
        images = FileImages(root, paths)
        found = collect(columns, images, classes, domains, official_test=official)
        return with_unlabelled(found, root, self.unlabelled, set(known) - set(domains))

    def _chosen(self, known: list[str]) -> list[str]:
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


@dataclass(frozen=True)
class _Row:
    """A sample. part: of a list or split; number and line (its place in a file) are of a list."""

    path: str
    label: str
    domain: str
    part: str = ""
    number: int = -1
    line: str = ""


@dataclass(frozen=True)
class _Tree:
    """Folders of domains, in root or in folders of splits, with folders of classes in them."""

    root: Path
    splits: tuple[str, ...]
    skip: str | None

    @classmethod
    def of(cls, root: Path, skip: str | None) -> "_Tree":
        """Return the tree below root. It has splits if all folders are named so, and hold folders
        of folders."""
        names = folders(root, skip)
        for name in names:
            inner = folders(root / name, skip) if name in SPLIT_FOLDERS else []
            if not inner or not all(folders(root / name / one, skip) for one in inner):
                return cls(root, ("",), skip)
        return cls(root, tuple(names), skip)

    def domains(self) -> list[str]:
        return sorted(
            {name for part in self.splits for name in folders(self.root / part, self.skip)}
        )

    def classes(self, domains: Sequence[str]) -> tuple[str, ...] | None:
        """Return the names of the folders in those of domains; None if there is none."""
        places = [self.root / split / domain for split in self.splits for domain in domains]
        found = [name for place in places if place.is_dir() for name in folders(place, self.skip)]
        return tuple(ordered_names(found)) or None

    def rows(self, domain: str) -> list[_Row]:
        return [row for split in self.splits for row in self._of_split(split, domain)]

    def _of_split(self, split: str, domain: str) -> list[_Row]:
        folder = self.root / split / domain
        if split and not folder.is_dir():
            return []
        labels = folders(folder, self.skip)
        if not labels:
            raise UserError("no folder of a class in this domain", key="root", value=str(folder))
        return [
            _Row(PurePosixPath(split, domain, label, image).as_posix(), label, domain, split)
            for label in labels
            for image in class_images(folder / label, self.skip)
        ]


@dataclass(frozen=True)
class _Lists:
    """DomainNet's lists, by file name."""

    files: Mapping[str, Path]

    def domains(self) -> list[str]:
        return sorted({path.stem.rsplit("_", 1)[0] for path in self.files.values()})

    def classes(self, domains: Sequence[str]) -> None:
        """The lists are not read for it."""

    def rows(self, domain: str) -> list[_Row]:
        names = {part: f"{domain}_{part}.txt" for part in LISTS}
        found = [(part, self.files[name]) for part, name in names.items() if name in self.files]
        return [row for part, path in found for row in _read_list(path, domain, part)]


def _list_files(root: Path, part: str) -> list[Path]:
    folders(root)  # raises if the folder is missing or unreadable
    found = sorted(root.glob(f"*_{part}.txt"))
    return [path for path in found if (root / path.stem.removesuffix(f"_{part}")).is_dir()]


def _read_list(path: Path, domain: str, part: str) -> list[_Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read this list: {in_short(error)}", key="root", value=str(path)
        ) from None
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
