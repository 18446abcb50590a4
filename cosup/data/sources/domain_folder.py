"""A folder per domain with a folder per class in each (DomainBed, PACS, DomainNet)."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cosup.data.images import FileImages
from cosup.data.sources.base import Collection, Source, coded, collect, ordered_names
from cosup.data.sources.files import class_images, folders
from cosup.errors import UserError, unknown_name

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
