"""The answers of one annotator, as classes of the task or as probabilities."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.config.external import Form
from cosup.data.images import Ints
from cosup.errors import UserError, raise_all, unknown_name
from cosup.teachers.tables.frames import table_error
from cosup.teachers.tables.layout import NO_ANSWER, class_of
from cosup.teachers.tables.votes import ALONE, MOST_TOLD, Votes, row_error

if TYPE_CHECKING:  # tables are checked before a run, and that must not need torch
    from torch import Tensor

    from cosup.probabilities import ProbTable

__all__ = [
    "Answers",
    "LabelAnswers",
    "LabelUses",
    "ProbabilityAnswers",
    "class_codes",
    "label_answers",
    "no_answers",
    "outside_scope",
    "unknown_labels",
    "without_label",
]

UNKNOWN = -2


@dataclass(frozen=True)
class Answers(ABC):
    """The rows of one annotator in a file.

    ids: [U] distinct sample ids of the file. rows_of_ids: [U] rows of each, of all annotators.
    sample: [n] place in `ids` of each row of this annotator; each sample has one at most. Of
    `wide` and `matrix`, the rows of an annotator are those that it answers.
    """

    path: Path
    form: Form
    ids: "pd.Index[Any]"
    rows_of_ids: Ints
    sample: NDArray[np.int32]

    @abstractmethod
    def given(self) -> NDArray[np.bool_]:
        """Return [n] whether a row has an answer."""

    @abstractmethod
    def dense(self, rows: "Tensor | None" = None) -> "Tensor":
        """Return probabilities [B, C] float32 of rows (None: all), 0 without an answer."""


@dataclass(frozen=True)
class LabelAnswers(Answers):
    """labels: [n] classes, -1 for none. confidence: [n] probabilities of these, None for 1.
    support: [C] bool classes in the scope."""

    labels: Ints
    confidence: NDArray[np.float32] | None
    support: NDArray[np.bool_]

    def given(self) -> NDArray[np.bool_]:
        """Return [n] whether a row has an answer."""
        return self.labels >= 0

    def dense(self, rows: "Tensor | None" = None) -> "Tensor":
        """Return probabilities [B, C]: the confidence for the label, and the rest spread evenly
        over the other classes in the scope."""
        import torch

        every, support = torch.arange(len(self.labels)), torch.from_numpy(self.support)
        rows = every if rows is None else rows
        labels = torch.from_numpy(self.labels)[rows]
        at = labels.clamp_min(0)[:, None]
        if self.confidence is None or int(support.sum()) == 1:
            probs = torch.zeros(len(rows), len(support)).scatter_(1, at, 1.0)
        else:
            sure = torch.from_numpy(self.confidence)[rows][:, None]
            others = support.float()[None].expand(len(rows), -1)
            probs = (others * (1 - sure) / (support.sum() - 1)).scatter(1, at, sure)
        return probs * (labels >= 0)[:, None]


@dataclass(frozen=True)
class ProbabilityAnswers(Answers):
    """probs: the rows, all zero for those without an answer."""

    probs: "ProbTable"

    def given(self) -> NDArray[np.bool_]:
        """Return [n] whether a row has an answer."""
        return (self.probs.top()[1] > 0).numpy()

    def dense(self, rows: "Tensor | None" = None) -> "Tensor":
        """Return probabilities [B, C]."""
        return self.probs.dense(rows)


def label_answers(
    votes: Votes,
    annotator: str,
    classes: Sequence[str],
    scope: Sequence[int] | None,
    may_abstain: bool,
) -> LabelAnswers:
    """Return the answers of one annotator of a file.

    scope: the classes that it knows (None: all). may_abstain: allow rows without a label. Raises
    `UserError` for labels that are no class or outside the scope, and if it answers nothing.
    """
    raise_all(unknown_labels(votes, [annotator], classes))
    part = votes.part(annotator)
    codes = class_codes(votes, classes)
    labels = np.append(codes, -1)[votes.label[part]]
    support = np.full(len(classes), scope is None)
    support[list(scope or ())] = True
    raise_all(islice(_bad_rows(votes, part, labels, support, classes, may_abstain), 1))
    if not (labels >= 0).any():
        raise no_answers(votes.path, annotator)
    sure = votes.confidence
    return LabelAnswers(
        votes.path,
        votes.form,
        votes.ids,
        votes.rows_of_ids,
        votes.sample[part],
        labels.astype(np.int64),
        None if sure is None else sure[part].copy(),
        support,
    )


class LabelUses(Protocol):
    """The labels of a file, and who uses them: of all its answers, or what a look at them told."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def form(self) -> Form:
        """The form of the file."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """The distinct labels, as text."""
        ...

    def labels_of(self, annotators: Iterable[str]) -> set[int]:
        """Return the labels that these annotators give, without -1."""
        ...

    def first_row(self, label: int) -> tuple[int, str, int]:
        """Return the first row with a label, its sample, and the number of such rows."""
        ...


def unknown_labels(
    votes: LabelUses, annotators: Iterable[str], classes: Sequence[str]
) -> list[UserError]:
    """Return an error for each label of these annotators that is no class, but for many alike."""
    codes, errors = class_codes(votes, classes), []
    used = sorted(votes.labels_of(annotators))
    for code in (code for code in used if codes[code] == UNKNOWN):
        row, sample, count = votes.first_row(code)
        error = unknown_name("class", votes.labels[code], classes)
        more = f" and {count - 1} more" if count > 1 else ""
        place = f"annotation table {votes.path}, row {row}{more}, sample '{sample}'"
        errors.append(error.moved(where=place))
    if len(errors) > MOST_TOLD:
        left = len(errors) - MOST_TOLD
        errors[MOST_TOLD:] = [table_error(votes.path, f"has {left} more unknown classes")]
    return errors


def class_codes(votes: LabelUses, classes: Sequence[str]) -> Ints:
    """Return the class of each label of a file: -1 for no answer, `UNKNOWN` for none of ours."""
    known = {name: index for index, name in enumerate(classes)}
    found = []
    for label in votes.labels:
        index = class_of(label, known, by_index=votes.form == "matrix")
        if index is None:
            index = -1 if label.removesuffix(".0") == NO_ANSWER else UNKNOWN
        found.append(index)
    return np.array(found, dtype=np.int64)


def _bad_rows(
    votes: Votes,
    part: slice,
    labels: Ints,
    support: NDArray[np.bool_],
    classes: Sequence[str],
    may_abstain: bool,
) -> Iterator[UserError]:
    """Yield the errors of an annotator's rows; not in the order of the rows."""
    rows, samples = votes.row[part], votes.sample[part]
    for at in np.flatnonzero((labels >= 0) & ~support[np.maximum(labels, 0)]).tolist():
        name = str(votes.ids[samples[at]])
        yield outside_scope(votes.path, int(rows[at]), name, classes[labels[at]])
    for at in np.flatnonzero(labels < 0).tolist() if not may_abstain else ():
        yield without_label(votes.path, int(rows[at]), str(votes.ids[samples[at]]))


def outside_scope(path: Path, row: int, sample: str, name: str) -> UserError:
    """Return the error for the name of a class that the annotator does not know."""
    return row_error(path, row, sample, f"class '{name}' is outside the teacher's scope")


def without_label(path: Path, row: int, sample: str) -> UserError:
    """Return the error for a row without an answer."""
    return row_error(path, row, sample, "has no label", "no label with `missing: abstain`")


def no_answers(path: Path, annotator: str = ALONE) -> UserError:
    """Return the error for an annotator without any answer."""
    who = "" if annotator == ALONE else f"annotator '{annotator}' "
    return table_error(path, f"{who}answers nothing", "at least one answer")
