"""The answers in a file: who says what of which sample, as numbers that refer to distinct texts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.config.external import Form
from cosup.data.images import Ints
from cosup.errors import UserError
from cosup.teachers.tables.frames import table_error
from cosup.teachers.tables.layout import text_of

__all__ = [
    "ALONE",
    "Codes",
    "VoteCollector",
    "Votes",
    "first_repeated",
    "repeated_error",
    "row_error",
]

MOST_TOLD = 5
"""The most errors of one kind that are reported for one file."""

ALONE = ""
"""The annotator of a file that names none."""

Int32s = NDArray[np.int32]


def row_error(
    path: Path,
    row: int,
    sample: str | None,
    problem: str,
    allowed: str | None = None,
) -> UserError:
    """Return an error about a row of a file, counted from 1."""
    place = "" if sample is None else f", sample '{sample}'"
    return UserError(problem, allowed=allowed, where=f"annotation table {path}, row {row}{place}")


@dataclass(frozen=True)
class Votes:
    """All answers of a file, sorted by annotator, else in the order of the file.

    ids: [U] its distinct sample ids. annotators: A names; (`ALONE`,) where it names none. labels:
    the distinct labels, as text. every_row: each row is about all annotators. starts: [A + 1] where
    the answers of each begin. sample, label, row: [R] places in `ids` and `labels` (-1: no answer),
    and rows from 1. confidence: [R], or None if the file has none.
    """

    path: Path
    form: Form
    ids: "pd.Index[Any]"
    annotators: tuple[str, ...]
    labels: tuple[str, ...]
    every_row: bool
    starts: Ints
    sample: Int32s
    label: Int32s
    row: Int32s
    confidence: NDArray[np.float32] | None

    @cached_property
    def rows_of_ids(self) -> Ints:
        """Return the rows [U] of each sample id."""
        if self.every_row:
            return np.ones(len(self.ids), dtype=np.int64)
        return np.bincount(self.sample, minlength=len(self.ids)).astype(np.int64)

    def part(self, annotator: str) -> slice:
        """Return the answers of one annotator."""
        at = self.annotators.index(annotator)
        return slice(int(self.starts[at]), int(self.starts[at + 1]))

    def labels_of(self, annotators: Iterable[str]) -> set[int]:
        """Return the labels that these annotators give, without -1."""
        found: set[int] = set()
        for annotator in annotators:
            found |= set(np.unique(self.label[self.part(annotator)]).tolist())
        return found - {-1}

    def first_row(self, label: int) -> tuple[int, str, int]:
        """Return the first row with a label, its sample, and the number of such rows."""
        places = np.flatnonzero(self.label == label)
        first = int(places[self.row[places].argmin()])
        return int(self.row[first]), str(self.ids[self.sample[first]]), len(places)


def first_repeated(keys: Ints) -> tuple[int, int, int] | None:
    """Return the place of the first key that was there before, where it was first, and the number
    of such keys; as (where it was first, its place, number). None if all keys are distinct."""
    again = np.flatnonzero(pd.Series(keys).duplicated().to_numpy())
    if not len(again):
        return None
    at = int(again[0])
    return int(np.flatnonzero(keys == keys[at])[0]), at, len(again)


def repeated_error(
    path: Path, who: str, sample: str, rows: tuple[int, int], count: int
) -> UserError:
    """Return the error for a sample that is in two rows, or that one annotator answers twice.

    who: the annotator; `ALONE` if each sample has one row. count: all rows that repeat another.
    """
    places = f"rows {rows[0]} and {rows[1]}"
    more = f", and {count - 1:,} more rows are such" if count > 1 else ""
    if who == ALONE:
        return table_error(path, f"sample '{sample}' is in {places}{more}", "one row per sample")
    found = f"annotator '{who}' answers sample '{sample}' twice, in {places}{more}"
    return table_error(path, found, "one answer of each per sample")


class Codes:
    """Numbers for distinct texts, in the order of their first appearance."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.of: dict[str, int] = {text: code for code, text in enumerate(known)}

    def __call__(self, values: "pd.Series[Any]", blank: Sequence[str] = ("",)) -> Int32s:
        """Return the code [n] of each value; -1 for missing ones and those in `blank`."""
        local, found = pd.factorize(values)
        codes = np.full(len(found) + 1, -1, dtype=np.int32)  # the last: missing values
        for at, value in enumerate(found.tolist()):
            text = text_of(value)
            if text not in blank:
                codes[at] = self.of.setdefault(text, len(self.of))
        return codes[local]

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the texts, by code."""
        return tuple(self.of)


class VoteCollector:
    """Gathers the answers of a file, a chunk at a time, and checks them."""

    row_type: type[np.signedinteger[Any]] = np.int32
    """Of the numbers of rows."""

    def __init__(
        self, path: Path, form: Form, annotators: Sequence[str] = (), every_row: bool = False
    ) -> None:
        """annotators: those that are known before the first row. every_row: each row is about all
        of them; the answers that they do not give are not stored."""
        self.path = path
        self.form = form
        self.every_row = every_row
        self.samples, self.labels, self.annotators = Codes(), Codes(), Codes(annotators)
        self.rows = 0
        self.in_rows: list[Int32s] = []
        self.parts: list[tuple[Int32s, ...]] = []
        self.confidence: list[NDArray[np.float32]] = []

    def start(self, ids: "pd.Series[Any]") -> Int32s:
        """Return the codes of the next rows' samples. Raises `UserError` for a blank one."""
        codes = self.samples(ids)
        blank = np.flatnonzero(codes < 0)
        if len(blank):
            raise row_error(self.path, self.rows + int(blank[0]) + 1, None, "has no sample_id")
        if self.every_row:
            self.in_rows.append(codes)
        return codes

    def add(
        self,
        sample: Int32s,
        annotator: Int32s,
        labels: "pd.Series[Any]",
        confidence: "pd.Series[Any] | None" = None,
        blank: Sequence[str] = ("",),
    ) -> None:
        """Store one answer [n] for each of the rows that were started last, or none (`blank`)."""
        label = self.labels(labels, blank)
        row = np.arange(self.rows + 1, self.rows + 1 + len(sample), dtype=self.row_type)
        bad = np.flatnonzero(annotator < 0)
        if len(bad):
            at = int(bad[0])
            raise self._error(int(row[at]), int(sample[at]), "has no annotator")
        if confidence is not None:
            self.confidence.append(self._confidence(confidence, sample))
        arrays = (sample, annotator, label, row)
        if self.every_row:
            given = label >= 0
            arrays = (sample[given], annotator[given], label[given], row[given])
            if confidence is not None:
                self.confidence[-1] = self.confidence[-1][given]
        self.parts.append(arrays)

    def end(self, rows: int) -> None:
        """Go on after these rows."""
        self.rows += rows

    def finish(self) -> Votes:
        """Return all answers. Raises `UserError` without any row, and for answers given twice."""
        if not self.rows:
            raise table_error(self.path, "has no rows")
        sample, annotator, label, row = (
            np.concatenate([part[at] for part in self.parts]) for at in range(4)
        )
        confidence = np.concatenate(self.confidence) if self.confidence else None
        self._check_distinct(sample, annotator, row)
        names = self.annotators.texts
        starts = np.concatenate([[0], np.bincount(annotator, minlength=len(names)).cumsum()])
        if len(names) > 1:
            order = np.argsort(annotator, kind="stable")
            sample, label, row = sample[order], label[order], row[order]
            confidence = None if confidence is None else confidence[order]
        return Votes(
            self.path,
            self.form,
            pd.Index(self.samples.texts, dtype="object"),
            names,
            self.labels.texts,
            self.every_row,
            starts.astype(np.int64),
            sample,
            label,
            row,
            confidence,
        )

    def _check_distinct(self, sample: Int32s, annotator: Int32s, row: Int32s) -> None:
        """Raise `UserError` for a sample with two rows, or two answers of one annotator."""
        if self.every_row:
            sample, annotator = np.concatenate(self.in_rows), np.zeros(self.rows, dtype=np.int32)
            row = np.arange(1, self.rows + 1, dtype=np.int32)
        found = first_repeated(annotator.astype(np.int64) * len(self.samples.of) + sample)
        if found is None:
            return
        first, at, count = found
        who = ALONE if self.every_row else self.annotators.texts[annotator[at]]
        name, rows = self.samples.texts[sample[at]], (int(row[first]), int(row[at]))
        raise repeated_error(self.path, who, name, rows, count)

    def _confidence(self, column: "pd.Series[Any]", sample: Int32s) -> NDArray[np.float32]:
        """Return the probabilities [n] of answers; 1 where none is given."""
        given = column.notna().to_numpy() & (column.astype("str") != "").to_numpy(bool)
        values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        values = np.where(given, values, 1.0)
        with np.errstate(invalid="ignore"):
            bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
        if len(bad):
            at = int(bad[0])
            row = self.rows + at + 1
            problem = f"confidence is '{column.iloc[at]}'"
            raise self._error(row, int(sample[at]), problem, "from 0 to 1, or blank")
        return values.astype(np.float32)

    def _error(self, row: int, sample: int, problem: str, allowed: str | None = None) -> UserError:
        return row_error(self.path, row, self.samples.texts[sample], problem, allowed)
