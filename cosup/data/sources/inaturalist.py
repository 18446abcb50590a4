"""iNaturalist's competition sets, as they are published: images and lists in COCO's form."""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.data.images import FileImages
from cosup.data.sources.base import Collection, Source, collect
from cosup.data.sources.folders import folders
from cosup.errors import UserError

log = logging.getLogger(__name__)

PARTS = ("train", "val")


@dataclass
class INaturalist(Source):
    """`root/train2018.json` and `val2018.json` (other years alike; 2021's bear no year) with the
    images where they say, below root.

    Where `root/categories.json` is there, species get their names from it (2018 and 2019 published
    them later). Classes without an image are left out. A sample is called by its path below root.
    """

    root: str
    """The folder."""
    year: int = 2018
    """The competition's year, as in the lists' names."""
    official_test: bool = True
    """Test on all images of the val list and on no others (the test list has no labels). The other
    splits then divide the train list in proportion to their shares. False pools both."""

    def load(self) -> Collection:
        """The train list's images, then those of val."""
        root = Path(self.root)
        folders(root)  # says so if the folder is missing or can't be read
        lists = {part: _read_list(self._path(root, part)) for part in PARTS}
        paths = [path for found in lists.values() for path, _ in found.rows]
        species = [category for found in lists.values() for _, category in found.rows]
        known = {key: name for found in lists.values() for key, name in found.names.items()}
        known.update(_published_names(root / "categories.json"))
        order = sorted(set(species))
        if len(order) < len(known):
            log.info("%d of %d classes have no image here", len(known) - len(order), len(known))
        place = {category: index for index, category in enumerate(order)}
        tested = len(lists["val"].rows)
        return collect(
            paths,
            [place[category] for category in species],
            _distinct([known[category] for category in order], order),
            FileImages(root, paths),
            split=[""] * (len(paths) - tested) + ["test" if self.official_test else ""] * tested,
            official_test=self.official_test,
        )

    def _path(self, root: Path, part: str) -> Path:
        wanted = (root / f"{part}{self.year}.json", root / f"{part}.json")
        found = [path for path in wanted if path.is_file()]
        if not found:
            raise UserError(f"data.root: no file '{wanted[0]}' (data.year: {self.year})")
        return found[0]


@dataclass(frozen=True)
class _List:
    rows: list[tuple[str, int]]
    """Path and category of each image."""
    names: dict[int, str]


def _read_list(path: Path) -> _List:
    tree = _read_json(path)
    try:
        files = {int(item["id"]): str(item["file_name"]) for item in tree["images"]}
        names = {int(item["id"]): _name(item) for item in tree["categories"]}
        rows = [
            (files[int(item["image_id"])], int(item["category_id"])) for item in tree["annotations"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"'{path}' is no list in COCO's form (images, annotations, categories): "
            f"{type(error).__name__} {error}"
        ) from None
    for file, category in rows:
        if category not in names:
            raise UserError(f"'{path}': image '{file}' has category {category}, which isn't listed")
    if not rows:
        raise UserError(f"'{path}' holds no annotation")
    return _List(rows, names)


def _published_names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    try:
        return {int(item["id"]): _name(item) for item in _read_json(path)}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"'{path}' is no list of categories (id, name)") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"data.root: can't read '{path}': {reason}") from None


def _name(category: dict[str, Any]) -> str:
    return str(category.get("name") or category["id"])


def _distinct(names: list[str], numbers: list[int]) -> list[str]:
    """Names that occur twice get their category's number."""
    count = Counter(names)
    return [
        f"{name} ({number})" if count[name] > 1 else name
        for name, number in zip(names, numbers, strict=True)
    ]
