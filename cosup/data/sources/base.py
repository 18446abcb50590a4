"""The interface of data sources, and functions that they share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator

from cosup.data.images import ArrayImages, Images, Ints, RotatedImages
from cosup.errors import UserError, unknown_name

if TYPE_CHECKING:  # configs are checked against sources, and that must not need pandas
    import pandas as pd

SPLITS = ("teacher_train", "student_train", "validation", "test")
SPLIT_NAMES = {"train": "train", "val": "validation", "valid": "validation"}
"""Other names of splits in sources, and what they mean; `train` is for teachers and student."""
KEPT_BYTES = 2**25
"""Rotated images of at most this size in all are kept in memory for the next listing."""
TABLE_COLUMNS = ("sample_id", "label", "domain", "group", "split", "image")


@dataclass(frozen=True)
class Collection:
    """The samples of a source before splits are drawn.

    table: one row per sample with sample_id (str), label (int64, -1 unknown), domain (int64), group
    (str), split (as named by the source, "" if unknown), image (int64 index into `images`), and
    further str columns that `data.group_by` may name.
    grouped: whether the column `group` is meaningful. official_test: the rows with split "test" are
    the official test part, and no other row may be used for testing. roles: "base", "validation" or
    "novel" per class, for few-shot datasets.
    """

    table: "pd.DataFrame"
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    images: Images
    grouped: bool = False
    official_test: bool = False
    roles: tuple[str, ...] | None = None

    def without(self, sample_ids: Iterable[str]) -> "Collection":
        """Return the collection without these samples."""
        kept = ~self.table["sample_id"].isin(list(sample_ids))
        return replace(self, table=self.table[kept].reset_index(drop=True))

    def grouped_by(self, column: str) -> "Collection":
        """Return the collection with the groups of a column; `UserError` if there is none."""
        known = set(self.table.columns) - {"sample_id", "label", "split", "image"}
        if not self.grouped:
            known.discard("group")
        if column not in known:
            raise unknown_name("column", column, known, key="group_by")
        if column == "group":
            return self
        names = self.table[column].astype("str")
        # A sample without a group is a group of its own.
        names = names.where(names != "", "(" + self.table["sample_id"] + ")")
        return replace(self, table=self.table.assign(group=names), grouped=True)

    def of_classes(self, chosen: Sequence[int], *, unlabelled: bool = False) -> "Collection":
        """Return the samples of these classes, renumbered 0, 1, ... in this order.

        unlabelled: keep samples without a label as well. Splits of an official test part are
        dropped, because that part holds images of base and novel classes alike.
        """
        place = np.full(len(self.classes) + 1, -1, np.int64)
        place[list(chosen)] = np.arange(len(chosen))
        label = self.table["label"].to_numpy(np.int64)
        renumbered = place[label]
        kept = (renumbered >= 0) | ((label < 0) & unlabelled)
        table = self.table.assign(label=renumbered)[kept].reset_index(drop=True)
        classes = tuple(self.classes[index] for index in chosen)
        if self.official_test:
            table["split"] = ""
        return replace(self, table=table, classes=classes, official_test=False, roles=None)


ClassName = Annotated[
    str,
    BeforeValidator(
        lambda name: str(name) if type(name) is int else name, json_schema_input_type=str | int
    ),
]
"""The name of a class. YAML reads some as numbers."""


@dataclass(frozen=True)
class Names:
    """The names of a task's classes and domains, in their order; None where they are not known."""

    classes: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None


class Source(ABC):
    """A place that samples come from. Subclasses are dataclasses whose fields are the settings.

    A subclass imports heavy packages (torch, pandas, torchvision) inside its functions, because
    configs are checked against its fields without loading any sample.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    def peek(self) -> Names:
        """Return the names that are known at once, without listing samples.

        Raise `UserError` for a folder or a file that is missing. By default nothing is looked at.
        """
        return Names()

    @abstractmethod
    def load(self) -> Collection:
        """List all samples; raise `UserError` with the setting's name as key, such as `root`."""


@dataclass(frozen=True)
class Columns:
    """Columns of a sample table, one value per sample.

    label: indices of classes, -1 unknown. domain: indices of domains; None is 0 for all. group and
    split: names; None if there are none. extra: further columns by name.
    """

    sample_id: Sequence[str]
    label: Sequence[int] | np.ndarray[Any, Any]
    domain: Sequence[int] | None = None
    group: Sequence[str] | None = None
    split: Sequence[str] | None = None
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


def collect(
    columns: Columns,
    images: Images,
    classes: Sequence[str],
    domains: Sequence[str] = ("all",),
    *,
    official_test: bool = False,
) -> Collection:
    """Return a collection from columns; row n has image n."""
    import pandas as pd

    count = len(columns.sample_id)
    group = columns.sample_id if columns.group is None else columns.group
    split = [""] * count if columns.split is None else columns.split
    domain = [0] * count if columns.domain is None else columns.domain
    table = pd.DataFrame(
        {
            "sample_id": pd.Series(list(columns.sample_id), dtype="str"),
            "label": np.asarray(columns.label, dtype=np.int64),
            "domain": np.asarray(domain, dtype=np.int64),
            "group": pd.Series(list(group), dtype="str"),
            "split": pd.Series(list(split), dtype="str"),
            "image": np.arange(count, dtype=np.int64),
        }
    )
    for name, values in columns.extra.items():
        table[name] = pd.Series(list(values), dtype="str")
    grouped = columns.group is not None
    return Collection(table, tuple(classes), tuple(domains), images, grouped, official_test)


def ordered_names(names: Iterable[str]) -> list[str]:
    """Return the distinct names, sorted as numbers if all are whole numbers, else as text."""
    distinct = set(names)
    if all(name.lstrip("-").isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def name_indices(names: Sequence[str], order: Sequence[str]) -> list[int]:
    """Return the index of each name in `order`."""
    index = {name: position for position, name in enumerate(order)}
    return [index[name] for name in names]


def check_angles(angles: Sequence[float]) -> None:
    """Raise `UserError` unless there are angles (degrees) within a turn, all different and of
    different names. Each makes a copy of all images, so there are at most 360."""
    allowed = "1 to 360 angles in degrees, from -360 to 360"
    if not 1 <= len(angles) <= 360 or any(abs(angle) > 360 for angle in angles):
        raise UserError("must be {allowed}", key="rotations", value=list(angles), allowed=allowed)
    turns = {angle % 360 for angle in angles}
    if min(len(turns), len(set(_angle_names(angles)))) < len(angles):
        raise UserError("two angles are the same", key="rotations", value=list(angles))


def rotated(found: Collection, angles: Sequence[float]) -> Collection:
    """Return all samples of a collection in each rotation (degrees, counter-clockwise).

    found: grey images in memory, all of one domain. Each rotation is a domain, `rotANGLE`. Sample
    ids are `ID@ANGLE`, and the rotations of one image are a group, so that no split divides them.
    Images keep their size; uncovered corners are black.
    """
    import pandas as pd

    assert isinstance(found.images, ArrayImages)
    assert len(found.domains) == 1
    names, count = _angle_names(angles), len(found.table)
    table = pd.concat([found.table] * len(names), ignore_index=True)
    ends = np.repeat([f"@{name}" for name in names], count)
    return replace(
        found,
        table=table.assign(
            sample_id=table["sample_id"] + pd.Series(ends, dtype="str"),
            domain=np.repeat(np.arange(len(names)), count),
            image=np.arange(len(table), dtype=np.int64),
        ),
        domains=angle_domains(angles),
        images=_rotated_images(found.images, angles),
        grouped=True,
    )


def integer_codes(values: "pd.Series[str]") -> Ints:
    """Return [N] numbers, equal for equal values, in the order of first appearance."""
    import pandas as pd

    return pd.factorize(values)[0].astype(np.int64)


def angle_domains(angles: Sequence[float]) -> tuple[str, ...]:
    """Return the domains of images in these rotations, as `rotated` names them."""
    return tuple(f"rot{name}" for name in _angle_names(angles))


def _angle_names(angles: Sequence[float]) -> list[str]:
    return [f"{angle:g}" for angle in angles]


def _rotated_images(images: ArrayImages, angles: Sequence[float]) -> RotatedImages:
    """Return the images in these rotations; of a small set those that this process has rotated, as
    every run lists its samples twice."""
    if len(angles) * images.pixels.nbytes > KEPT_BYTES:
        return RotatedImages(images.name, images.pixels, angles)
    pixels = images.pixels
    return _kept_images(images.name, pixels.tobytes(), pixels.shape, tuple(map(float, angles)))


@lru_cache(maxsize=4)
def _kept_images(
    name: str, content: bytes, shape: tuple[int, ...], angles: tuple[float, ...]
) -> RotatedImages:
    return RotatedImages(name, np.frombuffer(content, np.uint8).reshape(shape), angles)
