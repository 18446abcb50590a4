"""Look once at all rows of a table without keeping them, and read its answers in a stream.

Who answers, with which labels, and where each label of each is first: all that must be known of a
file before its answers are divided among shards (`cosup.sharded.tables`). Memory does not grow with
the rows; arrays, and JSON with nested objects, are read as a whole.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosup.config.external import ExternalSection, Form
from cosup.data.images import Ints
from cosup.errors import UserError
from cosup.teachers.tables.answers import (
    class_codes,
    no_answers,
    outside_scope,
    unknown_labels,
    without_label,
)
from cosup.teachers.tables.frames import first_chunk, table_error
from cosup.teachers.tables.layout import find_layout
from cosup.teachers.tables.reading import Opened, TableKey, pick_annotator, read_whole, table_key
from cosup.teachers.tables.rows import collect_rows, known_before
from cosup.teachers.tables.votes import ALONE, Codes, VoteCollector, Votes

__all__ = ["Scan", "VoteChunk", "open_scanned", "scan_errors", "scan_table", "stream_votes"]

MOST_TEXTS = 100_000
"""Distinct annotators, or labels, of a file; a column with more is one of something else."""
KEPT = 16
"""Files of which is kept what was found."""


class VoteChunk(NamedTuple):
    """The answers of some rows.

    ids: [u] the distinct sample ids. sample: [n] places in `ids`. annotator, label: [n] their codes
    (-1: no label). row: [n] from 1. confidence: [n], or None if the file has none. asked: places in
    `ids` of all rows, answered or not, and their numbers, where each row is about all annotators.
    """

    ids: Sequence[str]
    sample: NDArray[np.int32]
    annotator: NDArray[np.int32]
    label: NDArray[np.int32]
    row: Ints
    confidence: NDArray[np.float32] | None
    asked: tuple[Ints, Ints] | None


class Use(NamedTuple):
    """How an annotator uses a label: the first row, its sample, and the number of rows."""

    first: int
    sample: str
    rows: int


@dataclass(frozen=True)
class Scan:
    """What was found of a file.

    labels: the distinct labels, as text. uses: by codes of annotator and label (-1: no label).
    answers: the number of answers. votes: all of them, of a file that was read as a whole.
    """

    path: Path
    form: Form
    annotators: tuple[str, ...] = (ALONE,)
    labels: tuple[str, ...] = ()
    uses: dict[tuple[int, int], Use] = field(default_factory=dict, repr=False)
    answers: int = 0
    every_row: bool = False
    votes: Votes | None = field(default=None, repr=False)

    def labels_of(self, annotators: Iterable[str]) -> set[int]:
        """Return the labels that these annotators give, without -1."""
        chosen = {self.annotators.index(name) for name in annotators}
        return {label for who, label in self.uses if who in chosen} - {-1}

    def first_row(self, label: int) -> tuple[int, str, int]:
        """Return the first row with a label, its sample, and the number of such rows."""
        found = [use for (_, other), use in self.uses.items() if other == label]
        first = min(found)
        return first.first, first.sample, sum(use.rows for use in found)


def open_scanned(section: ExternalSection, classes: Sequence[str] | None) -> Opened:
    """Return the form and annotators of a file, as `open_table`, without its answers."""
    found = scan_table(section, classes)
    return Opened(found.form, found.annotators, None)


def scan_table(section: ExternalSection, classes: Sequence[str] | None) -> Scan:
    """Look at all answers of a file; what was found is kept for later calls.

    Of probabilities, the form alone is found. Raises the errors of `open_table`, but for answers
    that are given twice.
    """
    return _scan(table_key(section, classes))


@lru_cache(maxsize=KEPT)
def _scan(key: TableKey) -> Scan:
    path = key.path
    if (whole := read_whole(key)) is not None:
        votes = whole.votes
        if votes is None:
            return Scan(path, whole.form)
        seen = _Seen()
        seen.add(_chunk_of(votes))
        names = votes.annotators, votes.labels
        return Scan(path, votes.form, *names, seen.uses, seen.answers, votes.every_row, votes)
    layout = find_layout(path, key.section, first_chunk(path), key.classes)
    if layout.form == "probabilities":
        return Scan(path, layout.form)
    known, every_row = known_before(layout)
    seen = _Seen()
    stream = VoteStream(path, layout.form, known, every_row, seen.add)
    collect_rows(layout, stream)
    names = stream.checked()
    return Scan(path, layout.form, *names, seen.uses, seen.answers, every_row)


def stream_votes(
    section: ExternalSection, classes: Sequence[str], scan: Scan, sink: "Sink"
) -> None:
    """Read the answers of a file again, with the codes of its scan, and hand each chunk over."""
    if scan.votes is not None:
        sink(_chunk_of(scan.votes))
        return
    key = table_key(section, classes)
    layout = find_layout(key.path, section, first_chunk(key.path), classes)
    collect_rows(layout, VoteStream(key.path, layout.form, *known_before(layout), sink))


def scan_errors(
    scan: Scan,
    section: ExternalSection,
    classes: Sequence[str],
    scope: Sequence[int] | None,
    may_abstain: bool,
) -> list[UserError]:
    """Return what `label_answers` raises for the annotator of an entry."""
    name = pick_annotator(section, Opened(scan.form, scan.annotators, None))
    errors = unknown_labels(scan, [name], classes)
    if errors:
        return errors
    at, codes = scan.annotators.index(name), np.append(class_codes(scan, classes), -1)
    own = [(int(codes[label]), use) for (who, label), use in scan.uses.items() if who == at]
    outside = [(use, c) for c, use in own if c >= 0 and scope is not None and c not in scope]
    if outside:
        use, code = min(outside)
        return [outside_scope(scan.path, use.first, use.sample, classes[code])]
    blank = [use for code, use in own if code < 0]
    if blank and not may_abstain:
        return [without_label(scan.path, min(blank).first, min(blank).sample)]
    return [] if any(code >= 0 for code, _ in own) else [no_answers(scan.path, name)]


Sink = Callable[[VoteChunk], None]


class VoteStream(VoteCollector):
    """Hands over the answers of each chunk of a file, and forgets them."""

    row_type = np.int64

    def __init__(
        self, path: Path, form: Form, annotators: Sequence[str], every_row: bool, sink: Sink
    ) -> None:
        super().__init__(path, form, annotators, every_row)
        self.sink = sink

    def end(self, rows: int) -> None:
        """Hand the rows over that were started last, and go on after them."""
        self.sink(self._chunk())
        super().end(rows)
        self.samples, self.parts, self.in_rows, self.confidence = Codes(), [], [], []
        for what, codes in (("annotators", self.annotators), ("labels", self.labels)):
            if len(codes.of) > MOST_TEXTS:
                raise table_error(self.path, f"names more than {MOST_TEXTS:,} {what}")

    def checked(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the annotators and labels. Raises `UserError` without any row."""
        if not self.rows:
            raise table_error(self.path, "has no rows")
        return self.annotators.texts, self.labels.texts

    def _chunk(self) -> VoteChunk:
        arrays: list[NDArray[Any]] = [
            np.concatenate([part[at] for part in self.parts]) for at in range(4)
        ]
        asked = None
        if self.every_row:
            samples = np.concatenate(self.in_rows).astype(np.int64)
            asked = samples, np.arange(len(samples)) + self.rows + 1
        confidence = np.concatenate(self.confidence) if self.confidence else None
        sample, annotator, label, row = arrays
        return VoteChunk(self.samples.texts, sample, annotator, label, row, confidence, asked)


def _chunk_of(votes: Votes) -> VoteChunk:
    """Return all answers of a file as one chunk."""
    sizes = np.diff(votes.starts)
    annotator = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    ids = [str(name) for name in votes.ids]
    every = np.arange(len(ids))  # a row each, in order
    asked = (every, every + 1) if votes.every_row else None
    row = votes.row.astype(np.int64)
    return VoteChunk(ids, votes.sample, annotator, votes.label, row, votes.confidence, asked)


class _Seen:
    """Counts how annotators use labels."""

    def __init__(self) -> None:
        self.uses: dict[tuple[int, int], Use] = {}
        self.answers = 0

    def add(self, chunk: VoteChunk) -> None:
        """Count the answers of a chunk."""
        self.answers += len(chunk.sample) + (0 if chunk.asked is None else len(chunk.asked[0]))
        keys = chunk.annotator.astype(np.int64) * 2**32 + chunk.label + 1
        order = np.argsort(chunk.row, kind="stable")
        found, first, counts = np.unique(keys[order], return_index=True, return_counts=True)
        for key, at, count in zip(
            found.tolist(), order[first].tolist(), counts.tolist(), strict=True
        ):
            pair = key // 2**32, key % 2**32 - 1
            if pair in self.uses:
                before = self.uses[pair]
                self.uses[pair] = before._replace(rows=before.rows + count)
            else:
                sample = chunk.ids[chunk.sample[at]]
                self.uses[pair] = Use(int(chunk.row[at]), sample, count)
