"""The contract of sources, and what they share.

Rotations as domains: every image of a set in each of several rotations.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosup.data.images import ArrayImages, Images
from cosup.errors import UserError

if TYPE_CHECKING:  # the config imports sources for their settings, and needs no pandas
    import pandas as pd

SPLITS = ("teacher_train", "student_train", "validation", "test")
COLUMNS = ("sample_id", "label", "domain", "group", "split", "image")


@dataclass(frozen=True)
class Collection:
    """What a source found, before splits are drawn.

    table: a row per sample with sample_id (str), label (int64, -1 unknown), domain (int64), group
    (str), split (as the source names it, "" where it says nothing), image (int64 index into
    `images`), and any further columns that `data.group_by` may name.
    grouped: whether `group` means anything. official_test: the rows whose split is "test" are the
    set's own test part, and no other row may be tested on. roles: "base", "validation" or "novel"
    for each class, where the set is made for few-shot learning.
    """

    table: "pd.DataFrame"
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    images: Images
    grouped: bool = False
    official_test: bool = False
    roles: tuple[str, ...] | None = None


class Source(ABC):
    """Finds samples. A subclass is a dataclass whose fields are its settings."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    @abstractmethod
    def load(self) -> Collection:
        """List all samples; `UserError` names the folder or file that is not as it should be."""


def collect(
    sample_ids: Sequence[str],
    labels: Sequence[int] | np.ndarray[Any, Any],
    classes: Sequence[str],
    images: Images,
    *,
    domain: Sequence[int] | np.ndarray[Any, Any] | None = None,
    domains: Sequence[str] = ("all",),
    group: Sequence[str] | None = None,
    split: Sequence[str] | None = None,
    official_test: bool = False,
    further: Mapping[str, Sequence[str]] | None = None,
) -> Collection:
    """A collection from columns; the n-th row shows the n-th image."""
    import pandas as pd

    count = len(sample_ids)
    table = pd.DataFrame(
        {
            "sample_id": pd.Series(list(sample_ids), dtype="str"),
            "label": np.asarray(labels, dtype=np.int64),
            "domain": np.zeros(count, np.int64) if domain is None else np.asarray(domain, np.int64),
            "group": pd.Series(list(sample_ids if group is None else group), dtype="str"),
            "split": pd.Series([""] * count if split is None else list(split), dtype="str"),
            "image": np.arange(count, dtype=np.int64),
        }
    )
    for name, values in (further or {}).items():
        table[name] = pd.Series(list(values), dtype="str")
    return Collection(
        table, tuple(classes), tuple(domains), images, group is not None, official_test
    )


def ordered_names(names: Iterable[str]) -> list[str]:
    """Distinct names in order: by value if all are whole numbers, else alphabetical."""
    distinct = set(names)
    if all(name.lstrip("-").isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def coded(names: Sequence[str], order: Sequence[str], what: str) -> list[int]:
    """The place of each name in `order`; `UserError` for an unknown one, which is a `what`."""
    place = {name: index for index, name in enumerate(order)}
    for name in names:
        if name not in place:
            raise UserError(f"{what} '{name}' is not among {', '.join(order)}")
    return [place[name] for name in names]


def check_angles(angles: Sequence[float]) -> None:
    """`UserError` unless there are angles (degrees), no two of them alike or of one name."""
    if not angles:
        raise UserError("rotations: []: give at least one angle in degrees")
    turns = {angle % 360 for angle in angles}
    if min(len(turns), len(set(_names(angles)))) < len(angles):
        raise UserError(f"rotations: {list(angles)}: two angles are the same")


def rotated(found: Collection, angles: Sequence[float]) -> Collection:
    """All samples of a collection, rotation after rotation (degrees, counter-clockwise).

    found: grey images in memory, all of one domain. A rotation is a domain, `rotANGLE`; a sample
    is called `ID@ANGLE`, and the rotations of one image are in its group, so that no split divides
    them. Images keep their size; what turns in from outside is black.
    """
    import pandas as pd

    assert isinstance(found.images, ArrayImages)
    assert len(found.domains) == 1
    names, count = _names(angles), len(found.table)
    table = pd.concat([found.table] * len(names), ignore_index=True)
    ends = np.repeat([f"@{name}" for name in names], count)
    return replace(
        found,
        table=table.assign(
            sample_id=table["sample_id"] + pd.Series(ends, dtype="str"),
            domain=np.repeat(np.arange(len(names)), count),
            image=np.arange(len(table), dtype=np.int64),
        ),
        domains=tuple(f"rot{name}" for name in names),
        images=ArrayImages(found.images.name, _turned(found.images.pixels, angles)),
        grouped=True,
    )


def _names(angles: Sequence[float]) -> list[str]:
    return [f"{angle:g}" for angle in angles]


def _turned(pixels: NDArray[np.uint8], angles: Sequence[float]) -> NDArray[np.uint8]:
    """[A * N, H, W] from [N, H, W]; quarter turns of square images move pixels, and no more."""
    turned = np.empty((len(angles), *pixels.shape), np.uint8)  # filled in place: sets are large
    for angle, copies in zip(angles, turned, strict=True):
        for image, copy in zip(pixels, copies, strict=True):
            copy[:] = np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC))
    return turned.reshape(-1, *pixels.shape[1:])
