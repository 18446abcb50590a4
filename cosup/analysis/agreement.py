"""Who agrees with whom on student_train: what a run tells of its sources without any true label."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from cosup import words
from cosup.analysis.arrays import names_in_order, rows_of
from cosup.analysis.drawing import Cell, Matrix, View
from cosup.analysis.figure import Excerpt, Figure, Unavailable
from cosup.analysis.records import Run
from cosup.words import percent

__all__ = ["AGREEMENT_FIGURE", "AgreementSums", "agreement_sentence"]

MOST_SOURCES = 23
"""With the labels, a heat map has at most 24 columns."""
LABELS = "labels"


@dataclass
class AgreementSums:
    """Sums over samples of who says the same, of S sources (the student last), then the final
    labels, then the assigned annotations.

    same, both: [S + 2, S + 2] int64, samples on which two of them say the same, and something.
    unanimous, several: those with at least two answering teachers, and on which all of these say
    the same. asked: [S] those assigned to each source. samples: all.
    """

    same: Tensor
    both: Tensor
    asked: Tensor
    unanimous: int
    several: int
    samples: int

    @staticmethod
    def of(said: Tensor, labels: Tensor, annotations: Tensor, asked: Tensor) -> "AgreementSums":
        """Return the sums over n samples.

        said: [n, S] classes by the sources, the student last (-1: no answer). labels: [n] final
        labels of the run. annotations: [n] assigned annotations of the last round (-1: none).
        asked: [n] index of the assigned teacher.
        """
        columns = torch.cat([said, labels[:, None], annotations[:, None]], dim=1).T
        spoken = columns >= 0
        teachers = said[:, :-1]
        several = (teachers >= 0).sum(1) > 1
        least = teachers.masked_fill(teachers < 0, torch.iinfo(teachers.dtype).max).amin(1)
        return AgreementSums(
            torch.stack([((columns == own) & spoken & (own >= 0)).sum(1) for own in columns]),
            torch.stack([(spoken & own).sum(1) for own in spoken]),
            torch.bincount(asked[asked >= 0], minlength=said.shape[1]),
            int(((teachers.amax(1) == least) & several).sum()),
            int(several.sum()),
            len(said),
        )

    def include(self, other: "AgreementSums") -> None:
        """Add the sums over other samples."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def numbers(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the shares of samples on which sources, student, annotations and labels agree.

        names: of the sources, the student last. A share is over the samples on which both say
        something; None if there are none.

        student_and_labels, student_and_annotations. unanimous: the share of the samples with at
        least two answering teachers on which all of them say the same. sources: for each, `asked`
        (the share of the samples that are assigned to it), `labels`, `annotations`, `student`, and
        `others`, with every other source by name.
        """
        student, labels, annotations = range(len(names) - 1, len(names) + 2)
        return {
            "student_and_labels": self._share(student, labels),
            "student_and_annotations": self._share(student, annotations),
            "unanimous": self.unanimous / self.several if self.several else None,
            "sources": {
                name: {
                    "asked": int(self.asked[place]) / max(1, self.samples),
                    "labels": self._share(place, labels),
                    "annotations": self._share(place, annotations),
                    "student": self._share(place, student),
                    "others": {
                        other: self._share(place, there)
                        for there, other in enumerate(names[:-1])
                        if there != place
                    },
                }
                for place, name in enumerate(names)
            },
        }

    def _share(self, one: int, other: int) -> float | None:
        both = int(self.both[one, other])
        return int(self.same[one, other]) / both if both else None


def agreement_table(run: Run) -> pd.DataFrame:
    """Make the table of agreement: a row per pair of sources, and of a source and the labels.

    Columns: source (the student last), other (a later source, or `labels`: the final ones), share
    (of the samples on which both say something; null without any).
    """
    found = run.summary.get("agreement")
    if not found:
        raise Unavailable("the run has no agreement: it is not finished, or of an earlier version")
    names = list(found["sources"])
    rows = []
    for place, (source, numbers) in enumerate(found["sources"].items()):
        others = {**numbers["others"], names[-1]: numbers["student"]}
        rows += [(source, other, others[other]) for other in names[place + 1 :]]
        rows.append((source, LABELS, numbers["labels"]))
    table = pd.DataFrame(rows, columns=["source", "other", "share"])
    return table.astype({"share": "float64"})


def agreement_sentence(run: Run, table: pd.DataFrame | None = None) -> str:
    """Say how often the sources are of one mind, and the student with them; "" without records."""
    found = run.summary.get("agreement")
    if not found:
        return ""
    text = ""
    if found["unanimous"] is not None:
        text = (
            f"Where at least two teachers answer, they are of one mind on "
            f"{percent(found['unanimous'])} of the samples. "
        )
    with_labels = found["student_and_labels"]
    if with_labels is None:
        return text.strip()
    own = "" if found["cross_fitted"] else ", on which it was trained"
    return f"{text}The student agrees with {percent(with_labels)} of the final labels{own}."


def draw_agreement(table: pd.DataFrame) -> list[View]:
    """Draw a heat map of who agrees with whom."""
    sources = names_in_order(table["source"])
    shown = sources[:MOST_SOURCES]
    columns = [*shown, LABELS]
    share = {(str(row["source"]), str(row["other"])): row["share"] for row in rows_of(table)}
    cells = [[_cell(name, other, share) for other in columns] for name in shown]
    left_out = ""
    if len(sources) > len(shown):
        left_out = f"Shown are the first {len(shown)} of {len(sources)} sources."
    return [Matrix(shown, columns, cells, "source", "the same as, %", left_out=left_out)]


def _cell(name: str, other: str, share: dict[tuple[str, str], Any]) -> Cell:
    if name == other:
        return Cell(None, "", name)
    # A pair has one row, of its earlier source.
    value = share.get((name, other), share.get((other, name)))
    if value is None or words.missing(value):
        return Cell(None, words.NONE, f"{name} and {other}: no sample on which both speak")
    return Cell(float(value), words.in_percent(value, 0), f"{name} and {other}: {percent(value)}")


AGREEMENT_FIGURE = Figure(
    "agreement",
    "Who agrees with whom",
    agreement_table,
    agreement_sentence,
    draw_agreement,
    "On the samples of student_train on which both say something. No true label is read.",
    Excerpt(("source", "other", "share")),
    optional=True,
)
