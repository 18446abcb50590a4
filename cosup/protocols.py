"""The contract of students."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cosup.losses.features import Live
from cosup.probabilities import ProbTable


class Inputs(Protocol):
    """What a student reads, a row per sample: features (a tensor) or images (`ImageRows`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> "Inputs":
        """Some of the rows."""
        ...


class TestInputs(Protocol):
    """What a student is measured on, a row per answer: `Inputs`, or the queries of episodes."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Guidance:
    """What may teach beside the annotations of N samples.

    labels: [N] int64 as given to trainers (-1 unknown), or None where the student sees none.
    teacher: [N] int64, who has the most weight on the sample. live: the level's teachers as
    networks, for losses on feature maps and for annotations of augmented images.
    """

    labels: Tensor | None = None
    teacher: Tensor | None = None
    live: Live | None = None


class Student(ABC):
    """Learns from weighted targets and predicts."""

    @abstractmethod
    def update(
        self,
        inputs: Inputs,
        targets: ProbTable,
        weights: Tensor,
        guidance: Guidance | None = None,
    ) -> None:
        """Train on N inputs with targets over N samples and weights [N] (0: left out).

        Raises `RunError` when the loss is no longer finite.
        """

    @abstractmethod
    def predict(self, inputs: TestInputs) -> ProbTable:
        """Class probabilities of samples it did not train on; of episodes' queries, of the ways.

        Only a head that starts from text can predict before it is updated.
        """

    @abstractmethod
    def predict_own(self, inputs: Inputs) -> ProbTable:
        """Class probabilities of the samples it was updated with (cross-fitted where set)."""

    @abstractmethod
    def fit_parts(
        self, inputs: Inputs, targets: ProbTable, members: Sequence[Tensor]
    ) -> "PartPredictor":
        """Train one student like this per set of rows; this one stays as it is."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything `load_state_dict` needs to predict alike."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the state that `state_dict` gave; `update` then goes on from it."""


class PartPredictor(ABC):
    """Students trained on sets of rows (`fit_parts`)."""

    @abstractmethod
    def predict(self, part: int, inputs: Inputs) -> ProbTable:
        """Class probabilities by the student of this set."""


def by_fold(folds: Tensor, count: int, predict: Callable[[int, Tensor], ProbTable]) -> ProbTable:
    """Cross-fitted predictions of all N samples: `predict(fold, rows)` for the rows of each fold.

    folds: [N] int64 in 0 .. count - 1.
    """
    order = torch.argsort(folds, stable=True)
    parts = []
    for fold in range(count):
        rows = torch.nonzero(folds == fold)[:, 0]
        if len(rows):
            parts.append(predict(fold, rows))
    return ProbTable.concat(parts).take(torch.argsort(order))
