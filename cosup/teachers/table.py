"""Teachers that are annotators of a table."""

import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosup import words
from cosup.config.external import ExternalSection
from cosup.data.images import Ints
from cosup.data.table import ImageData
from cosup.errors import Mistakes, UserError
from cosup.settings.teachers import TableKind
from cosup.teachers.base import RowTeacher, Teacher, Training
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.tables.answers import Answers
from cosup.teachers.tables.checks import match_rows, read_entry
from cosup.teachers.tables.frames import file_digest
from cosup.teachers.tables.matching import Matched, SampleIds

__all__ = ["ANNOTATED", "TableCounts", "TableTeacher", "table_teachers"]

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


class TableTeacher(TableKind, RowTeacher):
    """Looks an annotator's answers up in its table, by row number of the sample table."""

    def __init__(
        self,
        spec: TeacherSpec,
        answers: Answers,
        matched: Matched,
        data: ImageData,
        digest: str,
    ) -> None:
        """matched: the places of the table's ids among the samples. digest: hashes of the files.

        Raises `UserError`.
        """
        super().__init__(spec, len(data.classes), steps=0)
        self.answers = answers
        self.matched = matched
        self.digest = digest
        rows = matched.places[answers.sample]
        self.places = torch.from_numpy(self._places(rows, data))
        self.counts = self._counts(rows, data)
        self._check(data)

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Read the tables. Raises `UserError` for errors in them."""
        return [cls.read(spec, training.data) for spec in specs]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Read every table. Raises all errors together."""
        table_teachers([specs], training.data)

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """Read the table again."""
        return cls.read(spec, training.data)

    @classmethod
    def read(cls, spec: TeacherSpec, data: ImageData) -> "TableTeacher":
        """Read the answers of an annotator, and find their samples. Raises `UserError`."""
        external = _external(spec)
        answers = read_entry(external, data.classes, spec.classes)
        matched = match_rows(external, answers, _sample_ids(data))
        files = [Path(file) for file in (external.annotations, external.ids) if file is not None]
        return cls(spec, answers, matched, data, " ".join(map(file_digest, files)))

    def annotate(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C] of rows [B] of the sample table; 0 for missing samples."""
        places = self.places[inputs]
        probs = self.answers.dense(places.clamp_min(0))
        return probs * (places >= 0)[:, None]

    def origin(self) -> str:
        """Return hashes of the files, and what is read of them."""
        external = _external(self.spec)
        about = external.model_dump(
            mode="json", include={"annotator", "form", "columns", "ids", "match"}
        )
        return f"{self.digest} {json.dumps(about)}"

    def _places(self, rows: Ints, data: ImageData) -> Ints:
        """Return the answer [N] of each sample, -1 without one.

        rows: [n] sample of each answer, negative or beyond the samples for none of them. Raises
        `UserError` for two answers on a sample.
        """
        used = (rows >= 0) & (rows < len(data))
        places = np.full(len(data), -1, dtype=np.int64)
        answers = np.flatnonzero(used)
        places[rows[answers]] = answers
        again = answers[places[rows[answers]] != answers]
        if len(again):
            name = data.sample_ids(rows[again[:1]])[0]
            one, other = (
                self.answers.ids[self.answers.sample[at]]
                for at in (again[0], places[rows[again[0]]])
            )
            problem = f"answers sample '{name}' twice: as '{one}' and as '{other}'"
            raise UserError(problem, where=self._where)
        return places

    def _counts(self, rows: Ints, data: ImageData) -> TableCounts:
        annotated = np.concatenate([data.rows(split) for split in ANNOTATED])
        places = self.places.numpy()[annotated]
        answered = int((self.answers.given()[places] & (places >= 0)).sum())
        matched = int((rows >= 0).sum())
        total, samples = len(rows), len(annotated)
        lost = total - matched
        return TableCounts(total, matched, lost, samples - answered, samples, self.matched.how)

    @property
    def _where(self) -> str:
        annotator = _external(self.spec).annotator
        who = "" if annotator is None else f", annotator '{annotator}'"
        return f"annotation table {self.answers.path}{who}"

    def _check(self, data: ImageData) -> None:
        """Raise `UserError` unless every sample has a row, or, if it may abstain, some have."""
        if not self.counts.matched:
            first = self.answers.ids[self.answers.sample[0]]
            raise UserError(f"none of its ids, such as '{first}', is a sample's", where=self._where)
        may_abstain = _external(self.spec).missing == "abstain"
        for split in ANNOTATED:
            rows = data.rows(split)
            absent = rows[self.places.numpy()[rows] < 0]
            if not len(absent):
                continue
            first = data.sample_ids(absent[:1])[0]
            # An annotator of a crowd may have answered other samples, as with `data.limit`.
            alone = _external(self.spec).annotator is None
            if len(absent) == len(rows) and split == "student_train" and (alone or not may_abstain):
                name = self.answers.ids[self.answers.sample[0]]
                raise UserError(
                    f"none of its sample ids (the first is '{name}') is in {split}, whose first is "
                    f"'{first}'",
                    where=self._where,
                )
            if not may_abstain:
                raise UserError(
                    f"has no row for {len(absent)} of {len(rows)} samples of {split}; the first is "
                    f"'{first}'",
                    allowed=f"a row for every sample, or `missing: abstain` for '{self.name}'",
                    where=self._where,
                )


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


def _external(spec: TeacherSpec) -> ExternalSection:
    assert spec.external is not None
    return spec.external


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
