"""Tables with a column of probabilities per class: the answers of one annotator, often a model."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.errors import UserError, unknown_name
from cosup.teachers.tables.frames import table_error
from cosup.teachers.tables.layout import Layout, class_of
from cosup.teachers.tables.votes import ALONE, Codes, repeated_error, row_error

if TYPE_CHECKING:  # tables of other forms are checked without torch
    from cosup.probabilities import ProbTable

__all__ = ["ProbabilityReader"]

SUM_TOLERANCE = 0.01
"""Tolerance of the sum of a row's probabilities, which are often rounded; they are rescaled."""
ALLOWED = "finite, not negative, each row summing to 1"


class ProbabilityReader:
    """Checks the chunks of a table, in order, and stores them compactly."""

    def __init__(
        self,
        path: Path,
        layout: Layout,
        classes: Sequence[str],
        scope: Sequence[int] | None,
        may_abstain: bool,
    ) -> None:
        """scope: the classes that the annotator knows (None: all); the probability of others must
        be 0. may_abstain: allow rows whose probabilities are all 0. Raises `UserError`."""
        self.path = path
        self.layout = layout
        self.classes = tuple(classes)
        self.inside = np.full(len(classes), scope is None)
        self.inside[list(scope or ())] = True
        self.may_abstain = may_abstain
        self.columns = self._class_columns(layout.columns)
        self.ids = Codes()
        self.parts: list[ProbTable] = []
        self.rows = 0
        self.forgotten = 0
        """Rows whose ids are not among `ids` any more."""

    def read(self, chunks: Iterable[pd.DataFrame]) -> tuple["pd.Index[Any]", "ProbTable"]:
        """Return the ids [N] and the rows. Raises `UserError`."""
        from cosup.probabilities import ProbTable

        for chunk in chunks:
            self._add(chunk)
        if not self.rows:
            raise table_error(self.path, "has no rows")
        return pd.Index(self.ids.texts, dtype="object"), ProbTable.concat(self.parts)

    def each(self, chunks: Iterable[pd.DataFrame]) -> Iterator[tuple[Sequence[str], "ProbTable"]]:
        """Yield the ids and rows of each chunk, and keep none: whether an id is in two chunks is
        not checked. Raises `UserError`."""
        for chunk in chunks:
            self._add(chunk)
            yield self.ids.texts, self.parts.pop()
            self.ids, self.forgotten = Codes(), self.rows
        if not self.rows:
            raise table_error(self.path, "has no rows")

    def _add(self, chunk: pd.DataFrame) -> None:
        """Check and store the next rows."""
        import torch

        from cosup.probabilities import ProbTable

        self._check_ids(chunk[self.layout.sample_id])
        probs = self._values(chunk)
        outside = np.argwhere((probs > 1e-6) & ~self.inside)
        if len(outside):
            row, index = (int(place) for place in outside[0])
            name = self.classes[index]
            raise self._error(chunk, row, f"class '{name}' is outside the teacher's scope")
        self.parts.append(ProbTable.compress(torch.from_numpy(probs)))
        self.rows += len(chunk)

    def _check_ids(self, column: "pd.Series[Any]") -> None:
        """Store the ids of a chunk; each must be new, so that their codes are the row numbers."""
        codes = self.ids(column)
        held = self.rows - self.forgotten
        for at in np.flatnonzero(codes != np.arange(held, held + len(codes)))[:1]:
            row = self.rows + int(at) + 1
            if codes[at] < 0:
                raise row_error(self.path, row, None, "has no sample_id")
            rows = (self.forgotten + int(codes[at]) + 1, row)
            raise repeated_error(self.path, ALONE, self.ids.texts[codes[at]], rows, 1)

    def _error(
        self, chunk: pd.DataFrame, row: int, problem: str, allowed: str | None = None
    ) -> UserError:
        sample = self.ids.texts[self.rows - self.forgotten + row]
        return row_error(self.path, self.rows + row + 1, sample, problem, allowed)

    def _class_columns(self, columns: Sequence[str]) -> dict[str, int]:
        known = {name: index for index, name in enumerate(self.classes)}
        found: dict[str, int] = {}
        for column in columns:
            index = class_of(column, known)
            if index is None:
                error = unknown_name("class", column, known)
                raise error.moved(where=f"annotation table {self.path}, columns")
            if index in found.values():
                twice = f"has two columns for class '{self.classes[index]}'"
                raise table_error(self.path, twice, "one per class")
            found[column] = index
        absent = [c for c in np.flatnonzero(self.inside) if c not in set(found.values())]
        if absent:
            raise table_error(
                self.path,
                f"has no column for class '{self.classes[absent[0]]}' ({len(absent)} of "
                f"{len(self.classes)} are missing; classes outside the teacher's scope need none)",
            )
        return found

    def _values(self, chunk: pd.DataFrame) -> NDArray[np.float32]:
        """Return probabilities [n, C] float32 that sum to 1, or to 0 to abstain."""
        probs = np.zeros((len(chunk), len(self.classes)), dtype=np.float64)
        for column, index in self.columns.items():
            probs[:, index] = pd.to_numeric(chunk[column], errors="coerce").to_numpy(np.float64)
        bad = np.argwhere(~np.isfinite(probs) | (probs < 0))
        if len(bad):
            row, index = (int(place) for place in bad[0])
            column = next(name for name, of in self.columns.items() if of == index)
            value = chunk[column].iloc[row]
            raise self._error(chunk, row, f"class '{self.classes[index]}' is '{value}'", ALLOWED)
        total = probs.sum(1)
        empty = total == 0 if self.may_abstain else np.zeros(len(total), dtype=bool)
        off = np.flatnonzero((np.abs(total - 1) > SUM_TOLERANCE) & ~empty)
        if len(off):
            row = int(off[0])
            hint = "; `missing: abstain` allows 0" if total[row] == 0 else ""
            problem = f"probabilities sum to {total[row]:g}"
            raise self._error(chunk, row, problem, ALLOWED + hint)
        return np.asarray(probs / np.where(empty, 1, total)[:, None], dtype=np.float32)
