"""Teachers that are annotation tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.settings.teachers import TableKind
from cosup.teachers.base import RowTeacher, Teacher, Training
from cosup.teachers.external import AnnotationTable, file_digest, read_annotations
from cosup.teachers.hierarchy import TeacherSpec

__all__ = ["ANNOTATED", "TableTeacher"]

ANNOTATED = ("student_train", "validation", "test")
"""The splits that teachers annotate; an annotation table needs no rows for teacher_train."""


class TableTeacher(TableKind, RowTeacher):
    """Looks annotations up in its table, by row number of the sample table."""

    def __init__(
        self, spec: TeacherSpec, table: AnnotationTable, data: ImageData, digest: str
    ) -> None:
        super().__init__(spec, len(data.classes), steps=0)
        self.table = table
        self.digest = digest
        names = pd.Index(data.table["sample_id"], dtype="object")
        self.places = torch.from_numpy(table.ids.get_indexer(names).astype(np.int64))
        self._check(data)

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Read the tables. Raises `UserError` for errors in them."""
        return [cls._read(spec, training.data) for spec in specs]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Read every table."""
        cls.train(specs, training)

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """Read the table again."""
        return cls._read(spec, training.data)

    @classmethod
    def _read(cls, spec: TeacherSpec, data: ImageData) -> Teacher:
        assert spec.external is not None
        assert spec.external.annotations is not None
        path = Path(spec.external.annotations)
        abstain = spec.external.missing == "abstain"
        table = read_annotations(path, data.classes, scope=spec.classes, may_abstain=abstain)
        return cls(spec, table, data, file_digest(path))

    def annotate(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C] of rows [B] of the sample table; 0 for missing samples."""
        places = self.places[inputs]
        probs = self.table.probs.dense(places.clamp_min(0))
        return probs * (places >= 0)[:, None]

    def origin(self) -> str:
        """Return a hash of the file."""
        return self.digest

    def _check(self, data: ImageData) -> None:
        """Raise `UserError` unless every sample has a row, or, if it may abstain, some have."""
        where = f"annotation table {self.table.path}"
        assert self.spec.external is not None
        for split in ANNOTATED:
            rows = data.rows(split)
            absent = rows[self.places.numpy()[rows] < 0]
            if not len(absent):
                continue
            first = data.table["sample_id"].iloc[int(absent[0])]
            if len(absent) == len(rows) and split == "student_train":
                raise UserError(
                    f"none of its sample ids (the first is '{self.table.ids[0]}') is in {split}, "
                    f"whose first is '{first}'",
                    where=where,
                )
            if self.spec.external.missing == "error":
                raise UserError(
                    f"has no row for {len(absent)} of {len(rows)} samples of {split}; the first is "
                    f"'{first}'",
                    allowed=f"a row for every sample, or `missing: abstain` for '{self.name}'",
                    where=where,
                )
