"""Teachers that are annotators of a table."""

import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosup import words
from cosup.config.external import Form
from cosup.data.images import Ints
from cosup.data.table import ImageData
from cosup.errors import Mistakes
from cosup.settings.teachers import TableKind
from cosup.teachers.base import RowTeacher, Teacher, Training
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.table_errors import check_rows, external_of, no_sample, two_answers
from cosup.teachers.tables.answers import Answers
from cosup.teachers.tables.checks import match_rows, read_entry
from cosup.teachers.tables.frames import file_digest
from cosup.teachers.tables.matching import Matched, SampleIds

__all__ = [
    "ANNOTATED",
    "Lookup",
    "TableCounts",
    "TableRead",
    "TableTeacher",
    "first_id",
    "table_teachers",
]

ANNOTATED = ("student_train", "validation", "test")
"""The splits that teachers annotate; an annotation table needs no rows for teacher_train."""


@dataclass(frozen=True)
class TableCounts:
    """What became of the rows of an annotator.

    rows: those of its table. matched, unmatched: of these, whether their id is that of a sample of
    the data, and matched_by: how, in words. abstained: samples on which it gives no answer, of the
    `annotated` ones, those of the splits that teachers annotate.
    """

    rows: int
    matched: int
    unmatched: int
    abstained: int
    annotated: int
    matched_by: str

    def __str__(self) -> str:
        lost = f", {words.count(self.unmatched)} of none" if self.unmatched else ""
        return (
            f"{words.plural(self.rows, 'row')}, {words.count(self.matched)} of a sample "
            f"({self.matched_by}){lost}; annotated {words.count(self.annotated - self.abstained)} "
            f"of {words.plural(self.annotated, 'sample')}"
        )


@dataclass(frozen=True)
class Lookup:
    """Where the answers on samples are. places: [N] answer of each sample, -1 without one."""

    answers: Answers
    places: Tensor

    def probs(self, rows: Tensor) -> Tensor:
        """Return probabilities [B, C] of rows [B] of the samples; 0 for those without an answer."""
        places = self.places[rows]
        if not len(self.answers.sample):
            classes = self.answers.dense(places[:0]).shape[1]
            return torch.zeros(len(rows), classes)
        return self.answers.dense(places.clamp_min(0)) * (places >= 0)[:, None]


@dataclass(frozen=True)
class TableRead:
    """What is read of a table for one annotator."""

    lookup: Lookup
    counts: TableCounts

    @property
    def form(self) -> Form:
        """The form of the table."""
        return self.lookup.answers.form


class TableTeacher(TableKind, RowTeacher):
    """Looks an annotator's answers up in its table, by row number of the sample table."""

    def __init__(
        self,
        spec: TeacherSpec,
        num_classes: int,
        digest: str,
        read: Callable[[], TableRead],
    ) -> None:
        """digest: hashes of the files. read: called when an answer is needed first."""
        super().__init__(spec, num_classes, steps=0)
        self.digest = digest
        self._read = read

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Read the tables. Raises `UserError` for errors in them."""
        return [cls.of(spec, training) for spec in specs]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Read every table. Raises all errors together."""
        table_teachers([specs], training.data)

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """Read the table again."""
        return cls.of(spec, training)

    @classmethod
    def of(cls, spec: TeacherSpec, training: Training) -> "TableTeacher":
        """Return the teacher of an annotator; its table is read by `training.tables`, if given."""
        if training.tables is None:
            return cls.read(spec, training.data)
        classes, digest = len(training.data.classes), table_digest(spec)
        return cls(spec, classes, digest, partial(training.tables, spec))

    @classmethod
    def read(cls, spec: TeacherSpec, data: ImageData) -> "TableTeacher":
        """Read the answers of an annotator, and find their samples. Raises `UserError`."""
        external = external_of(spec)
        answers = read_entry(external, data.classes, spec.classes)
        matched = match_rows(external, answers, _sample_ids(data))
        found = _table_read(spec, answers, matched, data)
        return cls(spec, len(data.classes), table_digest(spec), lambda: found)

    @cached_property
    def table(self) -> TableRead:
        """What is read of its table."""
        return self._read()

    @property
    def counts(self) -> TableCounts:
        """What became of its rows."""
        return self.table.counts

    def annotate(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C] of rows [B] of the sample table; 0 for missing samples."""
        return self.table.lookup.probs(inputs)

    def looking_up(self, lookup: Lookup) -> "TableTeacher":
        """Return this teacher with its answers on other samples."""
        found = TableTeacher(
            self.spec, self.num_classes, self.digest, lambda: TableRead(lookup, self.counts)
        )
        found.temperature = self.temperature
        return found

    def origin(self) -> str:
        """Return hashes of the files, and what is read of them."""
        external = external_of(self.spec)
        about = external.model_dump(
            mode="json", include={"annotator", "form", "columns", "ids", "match"}
        )
        return f"{self.digest} {json.dumps(about)}"


def table_digest(spec: TeacherSpec) -> str:
    """Return the hashes of an annotator's files."""
    external = external_of(spec)
    files = [Path(file) for file in (external.annotations, external.ids) if file is not None]
    return " ".join(map(file_digest, files))


def _table_read(
    spec: TeacherSpec, answers: Answers, matched: Matched, data: ImageData
) -> TableRead:
    """Find an annotator's answers on the samples, and count. Raises `UserError` for two answers on
    a sample, and for samples without a row.

    matched: the places of the table's ids among the samples.
    """
    rows = matched.places[answers.sample]
    places = _places(spec, answers, rows, data)
    annotated = np.concatenate([data.rows(split) for split in ANNOTATED])
    there = places[annotated]
    answered = int((answers.given()[there] & (there >= 0)).sum())
    total, hit, samples = len(rows), int((rows >= 0).sum()), len(annotated)
    counts = TableCounts(total, hit, total - hit, samples - answered, samples, matched.how)
    first = str(answers.ids[answers.sample[0]])
    if not hit:
        raise no_sample(spec, first)
    for split in ANNOTATED:
        own = data.rows(split)
        absent = own[places[own] < 0]
        check_rows(spec, split, len(absent), len(own), partial(first_id, data, absent), first)
    return TableRead(Lookup(answers, torch.from_numpy(places)), counts)


def first_id(data: ImageData, rows: Ints) -> str:
    """Return the id of the first of these rows."""
    return data.sample_ids(rows[:1])[0]


def _places(spec: TeacherSpec, answers: Answers, rows: Ints, data: ImageData) -> Ints:
    """Return the answer [N] of each sample, -1 without one.

    rows: [n] sample of each answer, negative or beyond the samples for none of them. Raises
    `UserError` for two answers on a sample.
    """
    used = (rows >= 0) & (rows < len(data))
    places = np.full(len(data), -1, dtype=np.int64)
    numbers = np.flatnonzero(used)
    places[rows[numbers]] = numbers
    again = numbers[places[rows[numbers]] != numbers]
    if len(again):
        name = data.sample_ids(rows[again[:1]])[0]
        one, other = (
            str(answers.ids[answers.sample[at]]) for at in (again[0], places[rows[again[0]]])
        )
        raise two_answers(spec, name, one, other)
    return places


def table_teachers(
    hierarchy: Sequence[Sequence[TeacherSpec]], data: ImageData
) -> list[TableTeacher]:
    """Return the teachers of a hierarchy that are annotators of a table.

    Raises `UserError` for the errors of all of them together.
    """
    found, mistakes = [], Mistakes()
    for spec in (spec for level in hierarchy for spec in level):
        if spec.external is not None and spec.external.simulate is None:
            with mistakes.caught():
                found.append(TableTeacher.read(spec, data))
    mistakes.raise_all()
    return found


_last: tuple[weakref.ref[ImageData], SampleIds] | None = None


def _sample_ids(data: ImageData) -> SampleIds:
    """Return the ids of the data, and those of samples that this run leaves out, ready to be
    matched; they are kept for the next table."""
    global _last
    if _last is None or _last[0]() is not data:
        others = [part for part in (data.novel, data.novel_validation) if part is not None]
        left = [*data.broken, *data.left_out]
        left += [name for part in others for name in part.table["sample_id"]]
        _last = (weakref.ref(data), SampleIds(list(data.table["sample_id"]), left))
    return _last[1]
