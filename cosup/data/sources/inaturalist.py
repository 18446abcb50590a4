"""iNaturalist's competition datasets as published: images, and lists in COCO format."""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.data.images import FileImages
from cosup.data.sources.base import Collection, Columns, Names, Source, collect
from cosup.data.sources.files import folders
from cosup.errors import UserError, in_short

log = logging.getLogger(__name__)

LIST_PARTS = ("train", "val")


@dataclass
class INaturalist(Source):
    """`root/train2018.json` and `val2018.json` (or another year; 2021 has no year in the names),
    and the images at the paths that the lists name, below root.

    If `root/categories.json` exists, species are named as in it (2018 and 2019 published the names
    later). Classes without an image are left out. Sample ids are paths below root.
    """

    root: str
    """The folder."""
    year: int = 2018
    """The competition's year, as in the names of the lists."""
    official_test: bool = True
    """Test on all images of the val list and on no others (the test list has no labels). The other
    splits divide the train list in proportion to their shares. False pools both."""

    def peek(self) -> Names:
        """Check that the lists exist."""
        folders(Path(self.root))
        for part in LIST_PARTS:
            self._list_path(Path(self.root), part)
        return Names(domains=("all",))

    def load(self) -> Collection:
        """List the images of the train list, then those of the val list."""
        root = Path(self.root)
        folders(root)  # raises if the folder is missing or unreadable
        lists = {part: _read_coco(self._list_path(root, part)) for part in LIST_PARTS}
        paths = [path for found in lists.values() for path, _ in found.rows]
        species = [category for found in lists.values() for _, category in found.rows]
        known = {key: name for found in lists.values() for key, name in found.names.items()}
        known.update(_published_names(root / "categories.json"))
        order = sorted(set(species))
        if len(order) < len(known):
            log.info("%d of %d classes have no image here", len(known) - len(order), len(known))
        place = {category: index for index, category in enumerate(order)}
        tested = len(lists["val"].rows)
        columns = Columns(
            paths,
            [place[category] for category in species],
            split=[""] * (len(paths) - tested) + ["test" if self.official_test else ""] * tested,
        )
        return collect(
            columns,
            FileImages(root, paths),
            _distinct([known[category] for category in order], order),
            official_test=self.official_test,
        )

    def _list_path(self, root: Path, part: str) -> Path:
        wanted = (root / f"{part}{self.year}.json", root / f"{part}.json")
        found = [path for path in wanted if path.is_file()]
        if not found:
            problem = f"no file {{value}} (data.year: {self.year})"
            raise UserError(problem, key="root", value=str(wanted[0]))
        return found[0]


@dataclass(frozen=True)
class _CocoList:
    rows: list[tuple[str, int]]
    """Path and category of each image."""
    names: dict[int, str]


def _read_coco(path: Path) -> _CocoList:
    def error(problem: str) -> UserError:
        return UserError(problem, key="root", value=str(path))

    tree = _parse_json(path)
    try:
        files = {int(item["id"]): str(item["file_name"]) for item in tree["images"]}
        names = {int(item["id"]): _category_name(item) for item in tree["categories"]}
        rows = [
            (files[int(item["image_id"])], int(item["category_id"])) for item in tree["annotations"]
        ]
    except (KeyError, TypeError, ValueError) as reason:
        raise error(
            "not a list in COCO format (images, annotations, categories): "
            f"{type(reason).__name__} {reason}"
        ) from None
    for file, category in rows:
        if category not in names:
            raise error(f"image '{file}' has category {category}, which is not listed")
    if not rows:
        raise error("no annotation in this list")
    return _CocoList(rows, names)


def _published_names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    try:
        return {int(item["id"]): _category_name(item) for item in _parse_json(path)}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            "not a list of categories (id, name)", key="root", value=str(path)
        ) from None


def _parse_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {in_short(error)}", key="root", value=str(path)) from None


def _category_name(category: dict[str, Any]) -> str:
    return str(category.get("name") or category["id"])


def _distinct(names: list[str], numbers: list[int]) -> list[str]:
    """Add the category's number to names that occur twice."""
    count = Counter(names)
    return [
        f"{name} ({number})" if count[name] > 1 else name
        for name, number in zip(names, numbers, strict=True)
    ]
