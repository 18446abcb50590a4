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

from cosup import words
from cosup.analysis.arrays import Codes, Doubles, categories, codes, highest_and_lowest, rows_of
from cosup.analysis.drawing import BarRow, Bars, Segment, View
from cosup.analysis.figure import Excerpt, Figure, Unavailable
from cosup.analysis.records import Run
from cosup.words import percent

__all__ = [
    "LABELS_FIGURE",
    "NOT_LABELLED",
    "SOURCES",
    "FinalLabels",
    "LabelSums",
    "label_sentence",
    "labels_table",
    "review_rank",
]

MOST_CLASSES = 24
NOT_LABELLED = "the run has no labels: it is not finished, or of an earlier version of cosup"

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


@dataclass
class LabelSums:
    """Sums over samples with a final label.

    probability: [C] float64, of the labels, by the class of the label; samples: [C]; known, right:
    [C], those whose true label is known, and those whose label is the true one. source: [4] labels
    by whose class they are (`SOURCES`).
    """

    probability: Doubles
    samples: Codes
    known: Codes
    right: Codes
    source: Codes

    @staticmethod
    def of(
        table: pd.DataFrame, true_label: "pd.Series[Any]", classes: Sequence[str]
    ) -> "LabelSums":
        """Return the sums of a table of labels. true_label: of its samples, null if unknown."""
        names = list(classes)
        label, source = codes(table["label"], names), codes(table["source"], list(SOURCES))
        truth, size = codes(true_label, names), len(names)
        known, probability = truth >= 0, table["probability"].to_numpy(np.float64)
        return LabelSums(
            np.bincount(label, weights=probability, minlength=size).astype(np.float64),
            np.bincount(label, minlength=size),
            np.bincount(label[known], minlength=size),
            np.bincount(label[known & (label == truth)], minlength=size),
            np.bincount(source, minlength=len(SOURCES)),
        )

    def include(self, other: "LabelSums") -> None:
        """Add the sums over other samples."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def numbers(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return what the summary says of the labels.

        samples. estimated_right: the mean probability of the labels, an estimate of the share of
        right ones. accuracy: the measured share, null where no true label is known. source: the
        share of labels of teachers, of the student, of both and of a review. by_class: for each
        class the same of the samples that have it as their label.
        """
        total = max(1, int(self.samples.sum()))
        return {
            **self._rightness(np.arange(len(classes))),
            "source": {name: int(n) / total for name, n in zip(SOURCES, self.source, strict=True)},
            "by_class": {
                name: self._rightness(np.array([place])) for place, name in enumerate(classes)
            },
        }

    def _rightness(self, chosen: Codes) -> dict[str, Any]:
        """Return how many labels of the chosen classes there are and how many are right, by
        estimate and as measured."""
        samples, known = int(self.samples[chosen].sum()), int(self.known[chosen].sum())
        probability, right = float(self.probability[chosen].sum()), int(self.right[chosen].sum())
        return {
            "samples": samples,
            "estimated_right": probability / samples if samples else None,
            "accuracy": right / known if known else None,
        }


def label_sentence(run: Run) -> str:
    """Say where the labels are, and how many of them are right; "" for a run without them."""
    found = run.summary.get("labels")
    if not found:
        return ""
    measured = found["accuracy"]
    right = f"about {percent(found['estimated_right'])} of them are right by estimate"
    if measured is not None:
        right += f", {percent(measured)} as measured"
    place, first = run.files.labels.path.name, ", and review_rank has the least sure ones first"
    if run.sharded:
        place, first = str(run.files.shard_labels.relative_to(run.path)), ""
    return (
        f"{place} has a label for every sample of student_train "
        f"({found['samples']:,}); {right}{first}."
    )


def label_classes_table(run: Run) -> pd.DataFrame:
    """Make the table of the labels of the run, a row per class.

    Columns: class, samples (that have it as their label), share (of all), estimated_right (the mean
    probability of these labels), accuracy (measured; null without true labels).
    """
    found = run.summary.get("labels")
    if not found:
        raise Unavailable(NOT_LABELLED)
    total = max(1, found["samples"])
    rows = [
        {"class": name, **one, "share": one["samples"] / total}
        for name, one in found["by_class"].items()
    ]
    columns = ["class", "samples", "share", "estimated_right", "accuracy"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[2:], "float64"))


def label_classes_sentence(run: Run, table: pd.DataFrame) -> str:
    """Say how many labels are right, whose they are, and which class is rarest."""
    shares = run.summary["labels"]["source"]
    rarest = table.sort_values("samples", kind="stable").iloc[0]
    return (
        f"{label_sentence(run)} {percent(shares[BOTH])} are the class of a teacher and of the "
        f"student, {percent(shares[TEACHER])} of teachers alone, {percent(shares[STUDENT])} of the "
        f"student alone. The rarest class is {rarest['class']} ({percent(rarest['share'])})."
    )


def draw_label_classes(table: pd.DataFrame) -> list[View]:
    """Draw how often each class is given, and how many of these labels are probably right."""
    shown, left_out = highest_and_lowest(table, "samples", MOST_CLASSES, "class")
    most = max(float(shown["share"].max()), 1e-9)
    rows = [
        BarRow(
            str(row["class"]),
            [
                Segment(
                    float(row["share"]) / most,
                    "both",
                    f"{row['class']}: {percent(row['share'])} of the labels",
                )
            ],
            words.count(row["samples"]),
            words.in_percent(row["estimated_right"]),
            note="" if words.missing(row["accuracy"]) else f"measured {percent(row['accuracy'])}",
        )
        for row in rows_of(shown)
    ]
    return [Bars(rows, "samples", "right by estimate, %", left_out=left_out)]


LABELS_FIGURE = Figure(
    "labels",
    "Labels of student_train",
    label_classes_table,
    label_classes_sentence,
    draw_label_classes,
    "The labels that the run gives, by all sources and the student together. The "
    "estimate is their mean probability; it does not see where all sources err alike.",
    Excerpt(("class", "samples", "share", "estimated_right", "accuracy"), ends="samples"),
    optional=True,
)
