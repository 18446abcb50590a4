"""Join an annotation table with the samples of shards, in parts of bounded size.

The rows of the table and the ids of the manifest are divided by a hash into parts on disk, so that
equal ids (or equal file names, by rules that look at these) are in one part. Each part is joined by
itself, by the rule that is best for the whole file. Answers on samples of shards are divided again,
by shards. Sums over the parts tell what an ordinary run tells of a table.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cosup.config.external import ExternalSection, Match
from cosup.data.images import Ints
from cosup.errors import Mistakes, about
from cosup.probabilities import ProbTable
from cosup.sharded.sample_ids import ManifestIds, SamplePart
from cosup.sharded.spill import Spill, parts_of
from cosup.sharded.store import table_of, tensors_of
from cosup.sharded.table_part import ASKED, COMMON, Repeated, TablePart
from cosup.sharded.table_tally import Answered, Tally
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.table import Lookup, TableRead
from cosup.teachers.table_errors import external_of
from cosup.teachers.tables.answers import (
    Answers,
    LabelAnswers,
    ProbabilityAnswers,
    class_codes,
    no_answers,
)
from cosup.teachers.tables.matching import Matched, best_rule, shared_part, too_few
from cosup.teachers.tables.reading import probability_reader
from cosup.teachers.tables.scan import Scan, VoteChunk, scan_errors, stream_votes
from cosup.teachers.tables.votes import repeated_error

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TableJoin"]

Numbers = NDArray[np.signedinteger[Any]]

ANSWERS = ("label", "confidence", "place", "who", "shard")
"""Columns of answers that are divided by shards, beside those of probabilities."""


class TableJoin:
    """The join of a file.

    specs: the teachers that are its annotators; one of probabilities. parts: of what is spilled,
    below `folder`.
    """

    def __init__(
        self,
        scan: Scan,
        specs: Sequence[TeacherSpec],
        ids: ManifestIds,
        classes: Sequence[str],
        folder: Path,
    ) -> None:
        self.scan = scan
        self.specs = specs
        self.ids = ids
        self.classes = classes
        self.folder = folder
        self.soft = scan.form == "probabilities"
        self.section = external_of(specs[0])
        self.answers = Spill(folder / "by-shard", ids.parts)
        """The answers on samples of shards, divided by the number of the shard."""
        self._none: pa.Table | None = None

    def run(self) -> list[TableRead]:
        """Join; return what is read for each teacher, with its answers on the listed samples.

        Raise the errors of an ordinary run: of those in several parts, the first part's.
        """
        if not self.soft:
            mistakes = Mistakes()
            for spec in self.specs:
                mistakes.add(scan_errors(self.scan, *self._asked(spec)))
            mistakes.raise_all()
        rows = Spill(self.folder / "rows", self.ids.parts)
        self._read(lambda table: rows.add(table, self._parts_of(table, "exact")))
        rule, rows = self._matched_by(rows)
        tally = self._joined(rows, rule)
        how = Matched(rule, np.empty(0, np.int64)).how
        return tally.reads(how, self.lookup, self._first_absent)

    def lookup(self, number: int, answers: "pa.Table", samples: int) -> Lookup:
        """Return a teacher's answers on so many samples. answers: some rows of `answers`."""
        count, path = answers.num_rows, self.scan.path
        places = torch.full((samples,), -1)
        places[torch.from_numpy(answers.column("place").to_numpy().astype(np.int64))] = (
            torch.arange(count)
        )
        common = (
            path,
            self.scan.form,
            pd.Index([]),
            np.empty(0, np.int64),
            np.arange(count, dtype=np.int32),
        )
        found: Answers
        if self.soft:
            content = answers.select([n for n in answers.column_names if n not in ANSWERS])
            probs = ProbTable.from_tensors(len(self.classes), tensors_of(content))
            found = ProbabilityAnswers(*common, probs)
        else:
            scope = self.specs[number].classes
            support = np.full(len(self.classes), scope is None)
            support[list(scope or ())] = True
            sure = None
            if "confidence" in answers.column_names:
                sure = answers.column("confidence").to_numpy()
            labels = answers.column("label").to_numpy().astype(np.int64)
            found = LabelAnswers(*common, labels, sure, support)
        return Lookup(found, places)

    def answers_of(self, part: int) -> "pa.Table":
        """Return a part of the answers on samples of shards."""
        found = self.answers.read(part)
        assert self._none is not None, "before it is joined"
        return self._none if found is None else found

    def _asked(
        self, spec: TeacherSpec
    ) -> tuple[ExternalSection, Sequence[str], Sequence[int] | None, bool]:
        external = external_of(spec)
        return external, self.classes, spec.classes, external.missing == "abstain"

    def _read(self, add: Callable[["pa.Table"], None]) -> None:
        """Read the file in chunks of rows."""
        if self.soft:
            self._read_probabilities(add)
            return

        def add_chunk(chunk: VoteChunk) -> None:
            for table in _rows_of(chunk):
                add(table)

        stream_votes(self.section, self.classes, self.scan, add_chunk)

    def _read_probabilities(self, add: Callable[["pa.Table"], None]) -> None:
        (spec,) = self.specs
        reader, chunks = probability_reader(*self._asked(spec))
        answered, first = False, 1
        for ids, probs in reader.each(chunks):
            given = (probs.top()[1] > 0).numpy()
            answered = answered or bool(given.any())
            row = np.arange(first, first + len(ids))
            content, first = table_of(probs.tensors()), first + len(ids)
            add(_rows(ids, row, np.zeros_like(row), np.where(given, 0, -1), content))
        if not answered:
            raise no_answers(reader.path)

    def _parts_of(self, rows: "pa.Table", rule: Match) -> Ints:
        encoded = rows.column("id").combine_chunks().dictionary_encode()
        keys = map(shared_part(rule), encoded.dictionary.to_pylist())
        found: Ints = parts_of(list(keys), self.ids.parts)[encoded.indices.to_numpy()]
        return found

    def _matched_by(self, exact: Spill) -> tuple[Match, Spill]:
        """Return the rule by which ids are matched, and the rows divided for it."""
        spills = {True: exact}

        def divided(rule: Match) -> Spill:
            is_exact = rule == "exact"
            if is_exact not in spills:
                spills[is_exact] = self._by_names(exact)
            return spills[is_exact]

        def count(rule: Match) -> int:
            return sum(part.matching(rule) for part in self._each(divided(rule), rule, COMMON))

        if self.section.match != "auto":  # there is nothing to count
            return self.section.match, divided(self.section.match)
        total = sum(TablePart(rows, SamplePart.none()).total for _, rows in exact.each(COMMON))
        rule = best_rule(None, total, count)
        return rule, divided(rule)

    def _by_names(self, exact: Spill) -> Spill:
        """Divide the rows anew, by the file names in their ids."""
        found = Spill(self.folder / "rows-by-name", exact.parts)
        for _, rows in exact.each():
            found.add(rows, self._parts_of(rows, "stem"))
        return found

    def _each(
        self, spill: Spill, rule: Match, columns: Sequence[str] | None = None
    ) -> Iterator[TablePart]:
        for number, rows in spill.each(columns):
            yield TablePart(rows, self.ids.part(number, rule == "exact"))

    def _joined(self, rows: Spill, rule: Match) -> Tally:
        """Count what the parts tell, and divide the answers by shards. Raise `UserError` for rows
        that repeat others, for ids that are ambiguous, and if few match."""
        tally, total, hits = Tally(self.specs, self.ids), 0, 0
        teachers, codes = self._teachers_and_classes()
        repeated: list[Repeated] = []
        for part in self._each(rows, rule):
            if (again := part.repeated(self.scan.annotators)) is not None:
                repeated.append(again)
            with about(f"annotation table {self.section.annotations}"):
                matched = part.matched(rule)
            total, hits = (
                total + part.total,
                hits + int(part.rows_of_ids[matched.places >= 0].sum()),
            )
            who = np.where(part.annotator == ASKED, -1, teachers[part.annotator])
            at = np.flatnonzero(who >= 0)
            labels = part.rows.column("label").to_numpy()[at]
            shard, answers = tally.add(Answered(part, at, who[at], codes[labels]), matched)
            self.answers.add(answers, shard % self.answers.parts)
            self._none = answers.schema.empty_table()
        if repeated:
            first = min(repeated)
            count = sum(one.rows for one in repeated)
            places = first.first, first.row
            raise repeated_error(self.scan.path, first.who, first.sample, places, count)
        if too_few(hits, total, self.section.unmatched == "ignore"):
            with about(f"annotation table {self.section.annotations}"):
                raise self._few(rows, rule, hits, total)
        return tally

    def _teachers_and_classes(self) -> tuple[Ints, Ints]:
        """Return the position of the teacher of each annotator (-1: none), and the class of each
        label, with that of no label last."""
        if self.soft:
            return np.zeros(1, np.int64), np.array([0, -1])
        teachers = np.full(len(self.scan.annotators), -1, dtype=np.int64)
        for number, spec in enumerate(self.specs):
            name = external_of(spec).annotator
            teachers[0 if name is None else self.scan.annotators.index(name)] = number
        return teachers, np.append(class_codes(self.scan, self.classes), -1)

    def _few(self, rows: Spill, rule: Match, hits: int, total: int) -> Exception:
        """Return the error that few rows match, with examples of the first part without all."""
        for part in self._each(rows, rule, COMMON):
            matched = part.matched(rule)
            if (matched.places < 0).any():
                asked = None if self.section.match == "auto" else self.section.match
                return part.known.few(matched, part.ids, hits, total, asked)
        raise AssertionError("some row matches no sample")

    def _first_absent(self, number: int, shard: int) -> str:
        """Return the first sample of a shard without a row of a teacher."""
        data = self.ids.shards.reader.read(self.ids.shards.shards[shard])
        rows = self.answers_of(shard % self.answers.parts)
        who, shards = (rows.column(name).to_numpy() for name in ("who", "shard"))
        there = rows.column("place").to_numpy()[(who == number) & (shards == shard)]
        left = np.setdiff1d(np.arange(len(data)), there)
        return str(data.sample_ids(left[:1])[0])


def _rows_of(chunk: VoteChunk) -> Iterator["pa.Table"]:
    """Yield the answers of a chunk, with `COMMON` and the confidence; and all of its rows, where
    each is about all annotators."""
    import pyarrow as pa

    ids = np.asarray(chunk.ids, dtype=object)
    sure = chunk.confidence
    content = pa.table({} if sure is None else {"confidence": sure})
    yield _rows(ids[chunk.sample], chunk.row, chunk.annotator, chunk.label, content)
    if chunk.asked is not None:
        samples, row = chunk.asked
        content = pa.table({} if sure is None else {"confidence": np.ones(len(row), np.float32)})
        none = np.full(len(row), ASKED)
        yield _rows(ids[samples], row, none, none, content)


def _rows(
    ids: Sequence[str] | NDArray[np.object_],
    row: Ints,
    annotator: Numbers,
    label: Numbers,
    content: "pa.Table",
) -> "pa.Table":
    import pyarrow as pa

    columns = [
        pa.array(ids, pa.string()),
        pa.array(row.astype(np.int64)),
        pa.array(annotator.astype(np.int32)),
        pa.array(label.astype(np.int32)),
    ]
    return pa.table([*columns, *content.columns], [*COMMON, *content.column_names])
