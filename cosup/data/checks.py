"""Check the splits of a sample table, and note what is unusual in them."""

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import numpy as np

from cosup.data.sources.base import SPLITS, integer_codes
from cosup.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_splits", "lacking_classes"]


def check_splits(
    table: "pd.DataFrame",
    classes: tuple[str, ...],
    wanted: AbstractSet[str],
    grouped: bool,
    *,
    share_train: bool = False,
    few_shot: bool = False,
) -> None:
    """Raise `UserError` unless all is right with the splits.

    There are two classes or more. Each wanted split has samples. Splits that must be empty are
    (teacher_train with share_train, test with few_shot). Labels are known where they are needed. No
    group is in two splits.
    """
    if len(classes) < 2:
        raise UserError(f"only one class ('{''.join(classes)}'); at least 2 are needed")
    counts = table["split"].value_counts()
    for split in SPLITS:
        if split in wanted and counts.get(split, 0) == 0:
            present = ", ".join(f"{name} {counts.get(name, 0)}" for name in SPLITS)
            why = _why_empty(table, split)
            raise UserError(f"no sample in {split} (found: {present}){why}", key="splits")
    for split, setting, active in (
        ("teacher_train", "share_train", share_train),
        ("test", "few_shot", few_shot),
    ):
        if active and counts.get(split, 0):
            raise UserError(
                f"{counts[split]} samples are in {split}; it must be empty", key=setting
            )
    _check_labels(table, share_train)
    if grouped:
        _check_groups(table)


def lacking_classes(table: "pd.DataFrame", classes: tuple[str, ...], split: str) -> list[int]:
    """Return the classes without a sample in a split, ascending; none if it has unknown labels."""
    labels = table.loc[table["split"] == split, "label"].to_numpy(np.int64)
    if (labels < 0).any():
        return []
    counts = np.bincount(labels, minlength=len(classes))
    return [int(index) for index in np.flatnonzero(counts == 0)]


def _why_empty(table: "pd.DataFrame", split: str) -> str:
    """Return why a split has no sample, where that is not plain."""
    labelled = table["label"] >= 0
    if split != "student_train" and not labelled.any():
        return ": no label is known"
    if split == "teacher_train":
        return ": teachers are trained on it"
    if split == "student_train" and ((table["split"] == "") & ~labelled).any():
        return (
            ": every unlabelled sample is in a group with labelled ones, which are in other splits;"
            " shares with some student_train keep such groups together"
        )
    return ""


def _check_labels(table: "pd.DataFrame", share_train: bool) -> None:
    allowed = [""] if share_train else ["student_train", ""]
    unknown = table[(table["label"] < 0) & ~table["split"].isin(allowed)]
    if len(unknown):
        first = unknown.iloc[0]
        rule = (
            "with data.share_train teachers need all labels"
            if share_train
            else "only samples in student_train may have none"
        )
        raise UserError(
            f"sample '{first['sample_id']}' in {first['split']} has no label; {rule}", key="splits"
        )


def _check_groups(table: "pd.DataFrame") -> None:
    used = table[table["split"] != ""]
    pairs = used[["split"]].assign(group=integer_codes(used["group"])).drop_duplicates()
    twice = pairs["group"].duplicated()
    if twice.any():
        name = used["group"][twice.index[twice][0]]
        rows = used[used["group"] == name]
        raise UserError(
            f"group '{name}' is in {' and '.join(dict.fromkeys(rows['split']))}; "
            "a group must be in one split",
            key="splits",
        )
