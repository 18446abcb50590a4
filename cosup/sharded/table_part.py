"""A part of an annotation table beside the part of the samples that its ids may be."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.config.external import Match
from cosup.data.images import Ints
from cosup.sharded.sample_ids import SamplePart
from cosup.teachers.tables.matching import NONE, Matched, SampleIds
from cosup.teachers.tables.votes import ALONE, first_repeated

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ASKED", "COMMON", "Repeated", "TablePart"]

ASKED = -1
"""Instead of an annotator: a row of a table whose rows are about all annotators."""
COMMON = ("id", "row", "annotator", "label")
"""Columns of the rows of any table; those of the answers' content follow."""


class Repeated(NamedTuple):
    """A row that repeats an earlier one: the first such row of a part. rows: how many there are."""

    row: int
    first: int
    who: str
    sample: str
    rows: int


class TablePart:
    """Rows of a table (`COMMON` and others), and samples."""

    def __init__(self, rows: "pa.Table", samples: SamplePart) -> None:
        self.rows = rows
        self.samples = samples
        encoded = rows.column("id").combine_chunks().dictionary_encode()
        self.ids = pd.Index(encoded.dictionary.to_pylist(), dtype="object")
        self.sample: Ints = encoded.indices.to_numpy().astype(np.int64)
        self.row: Ints = rows.column("row").to_numpy()
        self.annotator: NDArray[np.int32] = rows.column("annotator").to_numpy()

    @cached_property
    def known(self) -> SampleIds:
        """The ids of the samples."""
        return SampleIds(self.samples.names)

    @cached_property
    def rows_of_ids(self) -> Ints:
        """Rows [U] of each id, as an ordinary run counts them."""
        asked = self.annotator == ASKED
        rows = self.sample[asked] if asked.any() else self.sample
        return np.bincount(rows, minlength=len(self.ids)).astype(np.int64)

    @property
    def total(self) -> int:
        """Return the number of rows."""
        return int(self.rows_of_ids.sum())

    def matching(self, rule: Match) -> int:
        """Return how many rows match a sample by a rule, or several."""
        return int(self.rows_of_ids[self.known.places(rule, self.ids) != NONE].sum())

    def matched(self, rule: Match) -> Matched:
        """Return the place of each id among the samples. Raise `UserError` for an id that could be
        two samples, and for two ids of one sample."""
        found = Matched(rule, self.known.places(rule, self.ids))
        self.known.check_each(found, self.ids)
        return found

    def repeated(self, annotators: Sequence[str]) -> Repeated | None:
        """Return a sample with two rows, or with two answers of one annotator; None without."""
        asked = self.annotator == ASKED
        rows = np.flatnonzero(asked) if asked.any() else np.arange(len(asked))
        who = self.annotator[rows].astype(np.int64)
        found = first_repeated(who * len(self.ids) + self.sample[rows])
        if found is None:
            return None
        first, at = rows[found[0]], rows[found[1]]
        name = ALONE if asked[at] else annotators[self.annotator[at]]
        sample = str(self.ids[self.sample[at]])
        return Repeated(int(self.row[at]), int(self.row[first]), name, sample, found[2])
