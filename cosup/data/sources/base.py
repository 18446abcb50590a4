"""The contract of sources, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from cosup.data.images import Images
from cosup.errors import UserError

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

    table: pd.DataFrame
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
