"""Answers of a person who reviewed images: read them from a file, and use them in a sample table.

Images that were chosen at random measure: they become the split `test` where there is none, else
`validation`. The labels of all others are known in student_train.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cosup.cells import from_cells, single_values
from cosup.data.images import Ints
from cosup.data.sources.table import PARQUET
from cosup.errors import UserError, in_short, raise_all, unknown_name, unknown_of_many
from cosup.words import plural

__all__ = [
    "NOT_REVIEWED",
    "RANDOM",
    "Answer",
    "Applied",
    "apply_answers",
    "check_answers",
    "read_answers",
]

RANDOM = "random"
"""The reason of images that measure."""
MOST_ERRORS = 20
"""Mistakes of a file that are listed."""
MOST_LISTED = 20
"""Class names that an error lists."""


@dataclass(frozen=True)
class Answer:
    """One row of a file of answers, as text. row: its number in the file, from 1 below the head."""

    row: int
    sample_id: str
    label: str
    reason: str = ""


def read_answers(path: Path) -> list[Answer]:
    """Read a table (CSV or Parquet) with the columns `sample_id` and `label`, maybe `reason`.

    A CSV may have commas, semicolons or tabs, and a byte order mark, as Excel writes it. Raises
    `UserError` for a file that cannot be read or lacks a column.
    """
    where = f"answers {path}"
    if not path.is_file():
        raise UserError("no file {value}", value=str(path))
    try:
        is_parquet = path.suffix in PARQUET
        table = single_values(pd.read_parquet(path)) if is_parquet else _read_csv(path)
    except UserError as error:
        raise error.moved(where=where) from None
    except Exception as error:  # pyarrow's own, OSError, ValueError, pandas' parser
        raise UserError(f"cannot be read: {in_short(error)}", where=where) from None
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise UserError(f"two columns are called '{twice[0]}'", where=where)
    for column in ("sample_id", "label"):
        if column not in table:
            found = ", ".join(map(str, table.columns[:10]))
            raise UserError(f"no column '{column}' (found: {found})", where=where)
    ids, labels = (_texts(table[column]) for column in ("sample_id", "label"))
    reasons = _texts(table["reason"]) if "reason" in table else [""] * len(table)
    return [
        Answer(row, *texts)
        for row, texts in enumerate(zip(ids, labels, reasons, strict=True), start=1)
        if any(texts)
    ]


def _read_csv(path: Path) -> pd.DataFrame:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252")  # Excel's "CSV" in western Europe and America
    if not text.strip():
        raise UserError("is empty")
    separator = max(",;\t", key=text.splitlines()[0].count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows = [row for row in lines if any(row)]
    wide = next((row for row in rows if len(row) > len(rows[0])), None)
    if wide is not None:
        raise UserError(f"a row has more fields than the header: {separator.join(wide)[:80]}")
    filled = [row + [""] * (len(rows[0]) - len(row)) for row in rows[1:]]
    return from_cells(pd.DataFrame(filled, columns=rows[0], dtype=object))


def _texts(column: "pd.Series[str]") -> list[str]:
    return [text.strip() for text in column.astype("str").fillna("").tolist()]


def check_answers(
    answers: Sequence[Answer],
    classes: Sequence[str],
    known: Callable[[str], UserError | None],
    where: str,
) -> dict[str, int]:
    """Return the class of each sample that has an answer; a blank label is none.

    Letters may differ in case if one class alone fits. known: returns what is wrong with a
    sample_id. Raises `UserErrors` with every mistake: an unknown sample, a sample with two rows, an
    unknown class.
    """
    place = {name: index for index, name in enumerate(classes)}
    folded: dict[str, list[int]] = {}
    for number, name in enumerate(classes):
        folded.setdefault(name.casefold(), []).append(number)
    found: dict[str, int] = {}
    errors: list[UserError] = []
    first: dict[str, int] = {}
    for answer in answers:
        at = f"{where}, row {answer.row}"
        error = known(answer.sample_id)
        if answer.sample_id in first:
            problem = f"sample '{answer.sample_id}' is in row {first[answer.sample_id]} too"
            error = UserError(problem, allowed="one row per sample")
        first.setdefault(answer.sample_id, answer.row)
        alike = folded.get(answer.label.casefold(), [])
        index = place.get(answer.label, alike[0] if len(alike) == 1 else None)
        if error is None and index is None and answer.label:
            error = _unknown_class(answer.label, classes)
        if error is not None:
            errors.append(error.moved(where=at))
        elif index is not None:
            found[answer.sample_id] = index
    if len(errors) > MOST_ERRORS:
        more = f"and {plural(len(errors) - MOST_ERRORS, 'more mistake')}"
        errors = [*errors[:MOST_ERRORS], UserError(more, where=where)]
    raise_all(errors)
    return found


def _unknown_class(label: str, classes: Sequence[str]) -> UserError:
    if len(classes) <= MOST_LISTED:
        return unknown_name("class", label, classes)
    return unknown_of_many("class", label, classes, f"one of the {len(classes)} classes, or blank")


@dataclass(frozen=True)
class Applied:
    """How the answers of reviewed images are used.

    measuring: samples whose answers measure, in the split `split`. labels: samples of student_train
    whose label is known. set_aside: samples that are of a group with a measuring one.
    """

    split: str = ""
    measuring: int = 0
    labels: int = 0
    set_aside: int = 0

    @property
    def total(self) -> int:
        """The number of answers used."""
        return self.measuring + self.labels

    @property
    def sentence(self) -> str:
        """How the answers are used, in words."""
        parts = []
        if self.measuring:
            parts.append(f"{self.measuring} measure ({self.split})")
        if self.labels:
            parts.append(f"{self.labels} are labels of student_train")
        text = f"{plural(self.total, 'reviewed image')}: {' and '.join(parts)}"
        if not self.set_aside:
            return text
        return f"{text}; {plural(self.set_aside, 'image')} of the same groups are not used"


NOT_REVIEWED = Applied()
"""No answer is used."""


def apply_answers(
    table: pd.DataFrame,
    classes: Sequence[str],
    answers: Sequence[Answer],
    *,
    where: str,
    grouped: bool,
    measure: bool,
) -> tuple[pd.DataFrame, Applied]:
    """Use answers in a sample table (sample_id, label, given, group, split).

    Returns the table with the splits and labels of measuring images changed, and with the other
    answers in a column `reviewed` (int64, -1 for none): were they labels, what is measured on known
    labels of student_train would be measured on contested images alone. Also returns what was used
    how. where: the file. grouped: whether groups must stay in one split. measure: False uses the
    random answers as the others. Raises `UserError` for wrong answers, and if nothing is left of
    student_train.
    """
    said = _said(table, classes, answers, where)
    split = table["split"].to_numpy(object).copy()
    random = [answer.sample_id for answer in answers if answer.reason == RANDOM and measure]
    measures = (said >= 0) & table["sample_id"].isin(random).to_numpy(bool)
    aside = np.zeros(len(table), bool)
    if grouped:
        shared = table["group"].isin(table["group"][measures]).to_numpy(bool)
        aside = shared & (split == "student_train") & ~measures
    role = "validation" if (split == "test").any() else "test"
    split[measures], split[aside] = role, ""
    reviewed = np.where(split == "student_train", said, -1)
    count = int(measures.sum())
    if not (split == "student_train").any():
        raise UserError(
            f"with {plural(count, 'image')} that measure, and those of their groups, no sample of "
            "student_train is left",
            where=where,
        )
    known = {name: np.where(measures, said, table[name]) for name in ("label", "given")}
    table = table.assign(split=pd.Series(split, dtype="str"), reviewed=reviewed, **known)
    labels = int((reviewed >= 0).sum())
    return table, Applied(role if count else "", count, labels, int(aside.sum()))


def _said(
    table: pd.DataFrame, classes: Sequence[str], answers: Sequence[Answer], where: str
) -> Ints:
    """Return the class [N] that each sample has as its answer, -1 without one."""
    split_of = dict(zip(table["sample_id"], table["split"], strict=True))

    def fault(name: str) -> UserError | None:
        if name not in split_of:
            return unknown_of_many("sample", name, split_of, "sample ids of student_train")
        if split_of[name] == "student_train":
            return None
        at = split_of[name] or "no split"
        return UserError(f"sample '{name}' is in {at}", allowed="student_train")

    found = check_answers(answers, classes, fault, where)
    if not found:
        raise UserError("has no answer: every label is blank", where=where)
    return np.array([found.get(name, -1) for name in table["sample_id"]], dtype=np.int64)
