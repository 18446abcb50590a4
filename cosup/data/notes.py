"""What is unusual about the samples of a run, in sentences: what is not used or not there.

`cosup plan` shows all of them; a run logs them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cosup.controls import NO_TEST
from cosup.data.checks import lacking_classes
from cosup.data.section import DataSection
from cosup.data.sources.base import TABLE_COLUMNS, Collection
from cosup.data.splits import names_splits
from cosup.words import listed, noun, plural

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Note", "split_notes"]

CAN_DO_WITHOUT = ("student_train", "validation", "test")
"""Splits that a class may lack in. What teacher_train needs depends on the teachers' scopes."""


@dataclass(frozen=True)
class Note:
    """A sentence about the samples. is_warning: it may well be a mistake."""

    text: str
    is_warning: bool = False


def split_notes(
    collection: Collection, table: "pd.DataFrame", section: DataSection, teacher_train: bool
) -> tuple[Note, ...]:
    """Return what is unusual about the splits (`table`) of a collection.

    teacher_train: whether that split is wanted.
    """
    return (
        *_lacking(table, collection.classes),
        *_unread_teacher_train(table, teacher_train),
        *_without_test(table, section),
        *_ignored_splits(collection, section),
        *_unused(table),
        *_unread_columns(collection, section),
    )


def _lacking(table: "pd.DataFrame", classes: tuple[str, ...]) -> list[Note]:
    notes = []
    for split in CAN_DO_WITHOUT:
        if (table["split"] == split).any():
            lacking = [f"'{classes[index]}'" for index in lacking_classes(table, classes, split)]
            if lacking:
                kind = noun(len(lacking), "class")
                notes.append(Note(f"{split} has no sample of {kind} {listed(lacking)}", True))
    return notes


def _unread_teacher_train(table: "pd.DataFrame", teacher_train: bool) -> list[Note]:
    count = int((table["split"] == "teacher_train").sum())
    if teacher_train or not count:
        return []
    text = f"no teacher is trained on the {plural(count, 'sample')} of teacher_train"
    return [Note(f"{text}; data.splits can give them to other splits", True)]


def _without_test(table: "pd.DataFrame", section: DataSection) -> list[Note]:
    if section.few_shot is not None or (table["split"] == "test").any():
        return []
    return [Note(NO_TEST, True)]


def _ignored_splits(collection: Collection, section: DataSection) -> list[Note]:
    if isinstance(section.splits, str) or not names_splits(collection):
        return []
    return [Note("the source names splits, which the shares of data.splits replace")]


def _unused(table: "pd.DataFrame") -> list[Note]:
    unused = table["split"] == ""
    notes = []
    for of_kind, kind in (
        (table["label"] >= 0, "labelled sample"),
        (table["label"] < 0, "unlabelled sample"),
    ):
        count = int((unused & of_kind).sum())
        if count:
            notes.append(Note(f"{plural(count, kind)} {'is' if count == 1 else 'are'} in no split"))
    return notes


def _unread_columns(collection: Collection, section: DataSection) -> list[Note]:
    read = {*TABLE_COLUMNS, section.group_by}
    unread = [f"'{name}'" for name in collection.table.columns if name not in read]
    if not unread:
        return []
    return [Note(f"nothing reads the {noun(len(unread), 'column')} {listed(unread)} of the table")]
