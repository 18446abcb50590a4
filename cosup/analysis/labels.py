"""The labels of a run: the final label of each sample of student_train, and its place in a review.

METHODS.md section 11.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cosup.analysis.arrays import Codes, Doubles, categories

__all__ = ["SOURCES", "FinalLabels", "label_numbers", "labels_table", "review_rank"]

TEACHER, STUDENT, BOTH, REVIEW = SOURCES = ("teacher", "student", "both", "review")
"""Whose class a label is: of teachers, of the student, or of both (or of neither: they lead to it
together); or of a person who reviewed the image."""


@dataclass(frozen=True)
class FinalLabels:
    """The final labels of N samples.

    label, runner_up: [N] the most and second most probable class. probability,
    runner_up_probability: [N]. teacher: [N] index of the teacher that speaks most for the label,
    among those whose class it is; -1 if there is none. source: [N] indices of `SOURCES`. teachers:
    names.
    """

    label: Tensor
    probability: Tensor
    runner_up: Tensor
    runner_up_probability: Tensor
    teacher: Tensor
    source: Tensor
    teachers: tuple[str, ...] = ()

    @staticmethod
    def of(
        posterior: Tensor, annotations: Tensor, weights: Tensor, student: Tensor
    ) -> "FinalLabels":
        """Read the labels of n samples from their posterior [n, C].

        annotations: [n, T, C]. weights: [n, T], how much each teacher speaks. student: [n, C].
        """
        probability, label = posterior.topk(2, dim=1)
        said = annotations.argmax(2) == label[:, :1]
        spoken = said & (annotations.amax(2) > 0)
        # A teacher without weight comes after all that have some.
        likely = annotations.gather(2, label[:, :1, None].expand(-1, annotations.shape[1], 1))
        teacher = ((weights + 1e-6 * likely[:, :, 0]) * spoken + 1e-9 * spoken).argmax(1)
        by_teacher, by_student = spoken.any(1), student.argmax(1) == label[:, 0]
        source = torch.full_like(teacher, SOURCES.index(BOTH))
        source[by_teacher & ~by_student] = SOURCES.index(TEACHER)
        source[by_student & ~by_teacher] = SOURCES.index(STUDENT)
        return FinalLabels(
            label[:, 0],
            probability[:, 0],
            label[:, 1],
            probability[:, 1],
            teacher.masked_fill(~by_teacher, -1),
            source,
        )

    def with_reviewed(self, reviewed: Tensor | None) -> "FinalLabels":
        """Return the labels with the classes [N] that a person gave (-1: none), as certain ones."""
        if reviewed is None:
            return self
        known = reviewed >= 0
        return replace(
            self,
            label=torch.where(known, reviewed, self.label),
            runner_up=torch.where(known & (self.label != reviewed), self.label, self.runner_up),
            probability=self.probability.masked_fill(known, 1.0),
            runner_up_probability=self.runner_up_probability.masked_fill(known, 0.0),
            teacher=self.teacher.masked_fill(known & (self.label != reviewed), -1),
            source=self.source.masked_fill(known, SOURCES.index(REVIEW)),
        )

    @staticmethod
    def concat(parts: Sequence["FinalLabels"], teachers: tuple[str, ...]) -> "FinalLabels":
        """Return the labels of several batches, one after another."""
        names = [field.name for field in fields(FinalLabels) if field.name != "teachers"]
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return FinalLabels(**columns, teachers=teachers)


def labels_table(
    final: FinalLabels, decisions: pd.DataFrame, classes: Sequence[str]
) -> pd.DataFrame:
    """Make `labels.parquet`: a row per sample of student_train, in the order of the decisions.

    Columns: sample_id, label, probability (by the posterior of all sources), source (teacher,
    student or both: whose class it is; review: a person's), teacher (that speaks most for it; null
    if none has it as its class), kept, rejected_by (whether the filters of the last round kept its
    annotation, and which one did not; null: kept), runner_up, runner_up_probability, review_rank
    (1: look at it first).
    """
    probability = final.probability.numpy().astype(np.float32)
    runner_up = final.runner_up_probability.numpy().astype(np.float32)
    return pd.DataFrame(
        {
            "sample_id": decisions["sample_id"].astype("str"),
            "label": categories(final.label.numpy(), classes),
            "probability": probability,
            "source": categories(final.source.numpy(), SOURCES),
            "teacher": categories(final.teacher.numpy(), final.teachers),
            "kept": decisions["kept"].to_numpy(bool),
            "rejected_by": decisions["rejected_by"],
            "runner_up": categories(final.runner_up.numpy(), classes),
            "runner_up_probability": runner_up,
            "review_rank": review_rank(probability, runner_up),
        }
    )


def review_rank(probability: Any, runner_up: Any) -> Codes:
    """Return the rank [N] from 1 in which labels are worth a look: the least probable first.

    Of equal ones that with the more probable runner-up comes first, then the earlier sample.
    """
    order = np.lexsort((-np.asarray(runner_up), np.asarray(probability)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def label_numbers(
    table: pd.DataFrame, true_label: "pd.Series[Any]", classes: Sequence[str]
) -> dict[str, Any]:
    """Return what the summary says of the labels.

    samples. estimated_right: the mean probability of the labels, an estimate of the share of right
    ones. accuracy: the measured share, null where no true label is known. source: the share of
    labels of teachers, of the student, of both and of a review. by_class: for each class, the
    samples that have it as their label and the mean probability of these labels.
    """
    probability = table["probability"].to_numpy(np.float64)
    known = true_label.notna().to_numpy(bool)
    right = (table["label"].astype("str") == true_label.astype("str")).to_numpy(bool)[known]
    return {
        "samples": len(table),
        "estimated_right": float(probability.mean()),
        "accuracy": float(right.mean()) if len(right) else None,
        "source": {name: float((table["source"] == name).mean()) for name in SOURCES},
        "by_class": {
            name: _of_class(probability[(table["label"] == name).to_numpy(bool)])
            for name in classes
        },
    }


def _of_class(probability: Doubles) -> dict[str, Any]:
    mean = float(probability.mean()) if len(probability) else None
    return {"samples": len(probability), "estimated_right": mean}
