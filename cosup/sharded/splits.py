"""Splits of the rows of a manifest, without looking at other rows.

The manifest names them, or they are drawn by a hash of the seed and the sample's id, so that any
process finds the split of any row. Shares are met on average, not exactly as in a run that lists
its samples.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosup.data.section import DataSection, SplitShares
from cosup.data.sources.base import SPLIT_NAMES, SPLITS
from cosup.data.sources.manifest_rows import Rows
from cosup.data.splits import ALL_LABELLED, auto_shares, check_names
from cosup.errors import MISSING, UserError

__all__ = ["Found", "SplitPlan", "plan_splits"]

Names = NDArray[np.object_]


@dataclass
class Found:
    """What the rows of a manifest hold. splits: the number of rows by name of the split, and
    whether they have a label."""

    labels: set[str]
    domains: set[str]
    splits: Counter[tuple[str, bool]]
    grouped: bool = False

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return self.splits.total()

    @property
    def named(self) -> bool:
        """Return whether any row names its split."""
        return any(name for name, _ in self.splits)

    @property
    def unlabelled(self) -> bool:
        """Return whether any row has no label."""
        return any(not labelled for _, labelled in self.splits)


@dataclass(frozen=True)
class SplitPlan:
    """How rows get their splits.

    named: by the manifest; its `train` is divided by `shares`. Else labelled rows are drawn by
    `shares`. Rows that have neither a label nor a split are student_train.
    """

    named: bool
    shares: Mapping[str, float]
    seed: int

    @property
    def draws_student_train(self) -> bool:
        """Whether it depends on the seed which rows are student_train."""
        return 0 < self.shares.get("student_train", 0.0) < 1

    def splits(self, rows: Rows) -> Names:
        """Return the split of each row, "" for none."""
        count = len(rows)
        labels = rows.texts.get("label") or [""] * count
        labelled = np.fromiter((bool(label) for label in labels), bool, count)
        result = np.full(count, "", dtype=object)
        drawn = labelled
        if self.named:
            given = rows.texts.get("split") or [""] * count
            result[:] = [SPLIT_NAMES.get(name, name) for name in given]
            drawn = (result == "train") & labelled
            result[result == "train"] = ""
        places = np.flatnonzero(drawn)
        if len(places):
            result[places] = self._drawn(_units(rows, places))
        result[(result == "") & ~labelled] = "student_train"
        return result

    def _drawn(self, units: Names) -> Names:
        """Return the split of each unit (a sample or a group), by its hash."""
        from pandas.util import hash_array

        key = hashlib.sha256(f"splits {self.seed}".encode()).hexdigest()[:16]
        place = hash_array(units, hash_key=key) / 2.0**64
        ends = np.cumsum(list(self.shares.values()))
        # Rounded sums of shares may end below 1.
        ends[-1] = 1.0 if ends[-1] > 1 - 1e-9 else ends[-1]
        names = np.asarray([*self.shares, ""], dtype=object)
        return np.asarray(names[np.searchsorted(ends, place, side="right")], dtype=object)


def plan_splits(section: DataSection, found: Found, seed: int, teacher_train: bool) -> SplitPlan:
    """Return how the rows get their splits. teacher_train: that split is wanted.

    Raise `UserError`, keyed within `data`, if the settings and the manifest do not fit.
    """
    absent = section.absent_splits(teacher_train)
    if section.splits == "given" or (section.splits == "auto" and found.named):
        given = {name for name, _ in found.splits}
        if section.splits == "given":
            check_names(given, SPLITS, "given", "auto, or shares")
            return SplitPlan(True, {"student_train": 1.0}, seed)
        check_names(given, (*SPLITS, *SPLIT_NAMES), MISSING, "or shares")
        return SplitPlan(True, _shares_of_train(found, "teacher_train" in absent), seed)
    if found.grouped and found.unlabelled:
        raise UserError(
            "must be {allowed}: a group may have rows with and without a label, and which, no "
            "shard knows of another",
            key="splits",
            allowed="those of a column of the manifest where it has groups and rows without label",
        )
    if isinstance(section.splits, SplitShares):
        return SplitPlan(False, section.splits.model_dump(), seed)
    return SplitPlan(False, auto_shares(found.unlabelled, absent), seed)


def _shares_of_train(found: Found, without_teachers: bool) -> dict[str, float]:
    """Return the shares by which the labelled rows of `train` are divided."""
    given = {name for name, _ in found.splits}
    unlabelled = any((name, False) in found.splits for name in ("student_train", "train", ""))
    shares = {name: ALL_LABELLED[name] for name in ("teacher_train", "student_train")}
    if without_teachers or "teacher_train" in given:
        del shares["teacher_train"]
    if "student_train" in given or unlabelled:
        del shares["student_train"]
    shares = shares or {"student_train": 1.0}
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def _units(rows: Rows, places: NDArray[np.int64]) -> Names:
    """Return the group of these rows, or the id of those without one."""
    ids, groups = rows.ids, rows.texts.get("group")
    names = [groups[p] or f"({ids[p]})" if groups else f"({ids[p]})" for p in places.tolist()]
    return np.asarray(names, dtype=object)
