"""Contracts between the rounds and what they train: students, their inputs, and live teachers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator

TINIEST = torch.finfo(torch.float32).tiny
"""Replaces probability 0 before a logarithm (log: -87.3)."""

MapShape = tuple[int, int, int]
"""Channels, height and width of a feature map."""


@dataclass(frozen=True)
class NetworkOutput:
    """Outputs of a network for B images.

    logits: [B, C] (of a live teacher: log-probabilities, log(`TINIEST`) for 0). maps: feature maps
    of its stages in order, each [B, channels, height, width]. embedding: [B, D], the input of its
    classifier.
    """

    logits: Tensor
    maps: tuple[Tensor, ...] = ()
    embedding: Tensor | None = None


@dataclass(frozen=True)
class FeatureShapes:
    """Shapes of the feature maps and the embedding size of a network (0: none)."""

    maps: tuple[MapShape, ...] = ()
    embedding: int = 0
    names: tuple[str, ...] = field(default=(), compare=False)

    @property
    def text(self) -> str:
        """The shapes of the maps as text: `64x8x8, 128x4x4`."""
        return ", ".join("x".join(map(str, shape)) for shape in self.maps) or "none"


class TeacherNetworks(Protocol):
    """The teachers of a level as networks, run on images while the student trains."""

    @property
    def shapes(self) -> FeatureShapes:
        """Shapes of the features of each of them."""

    def __call__(self, pixels: Tensor, teacher: Tensor) -> NetworkOutput:
        """Run teacher [B] (int64) on each image [B, 3, H, W] with values in 0 .. 255."""


class Inputs(Protocol):
    """Inputs of a student, a row per sample: features (a tensor) or images (`ImageRows`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> "Inputs":
        """Return some of the rows."""
        ...


class TestInputs(Protocol):
    """Test inputs of a student, a row per prediction: `Inputs`, or the queries of episodes."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class TestSets:
    """The test split and shifted test sets, one after the other."""

    parts: tuple[TestInputs, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))


def predict_sets(inputs: TestInputs, predict: Callable[[TestInputs], ProbTable]) -> ProbTable:
    """Return predictions of test inputs; of several sets those of each, so that no set changes
    another's."""
    parts = inputs.parts if isinstance(inputs, TestSets) else (inputs,)
    return ProbTable.concat([predict(part) for part in parts])


@dataclass(frozen=True)
class Guidance:
    """Supervision of N samples beside their annotations.

    labels: [N] int64 as given to trainers (-1 unknown), or None where the student may not use them.
    teacher: [N] int64, the teacher with the most weight. live: the teachers of the level as
    networks, for losses on feature maps and for annotations of augmented images. mixture: [N, T],
    the weights by which the teachers' annotations of augmented images are mixed; a row of zeros
    keeps the stored annotation. None asks `teacher` alone.
    """

    labels: Tensor | None = None
    teacher: Tensor | None = None
    live: TeacherNetworks | None = None
    mixture: Tensor | None = None


class Student(ABC):
    """Base of students: train on weighted targets, and predict."""

    @abstractmethod
    def update(
        self,
        inputs: Inputs,
        targets: ProbTable,
        weights: Tensor,
        guidance: Guidance | None = None,
    ) -> None:
        """Train on N inputs with N targets and weights [N] (0: left out).

        Raises `RunError` if the loss is not finite.
        """

    @classmethod
    def update_together(cls, updates: Sequence["Update"]) -> None:
        """Update several students of this class, with the results of one `update` after another.

        Students that can share the work of their trainings override it.
        """
        for update in updates:
            update.run()

    @abstractmethod
    def predict(self, inputs: TestInputs) -> ProbTable:
        """Return class probabilities of samples outside its training set (or of queries' ways).

        Before `update`, only a head that starts from text features can predict.
        """

    def predict_test(self, inputs: TestInputs) -> ProbTable:
        """Return `predict`, of several sets as `predict_sets`."""
        return predict_sets(inputs, self.predict)

    @abstractmethod
    def predict_own(self, inputs: Inputs) -> ProbTable:
        """Return class probabilities of its training samples (cross-fitted if it has folds)."""

    @abstractmethod
    def fit_parts(
        self, inputs: Inputs, targets: ProbTable, members: Sequence[Tensor]
    ) -> "PartPredictor":
        """Train a new student like this one on each set of rows; this one does not change."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the state for `load_state_dict`."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state returned by `state_dict`; `update` then continues from it."""


@dataclass(frozen=True)
class Update:
    """The arguments of a call of `Student.update`."""

    student: Student
    inputs: Inputs
    targets: ProbTable
    weights: Tensor
    guidance: Guidance | None = None

    def run(self) -> None:
        """Update the student."""
        self.student.update(self.inputs, self.targets, self.weights, self.guidance)


Found = TypeVar("Found")

Lessons = Generator[Update, None, Found]
"""Trainings of one student after another: yields each update, goes on when it has been run, and
returns what the students predict. Several can so be run in lockstep, their students together."""


def advance(lessons: Lessons[Found]) -> Update | Found:
    """Return the next update, to be run before the next call; after the last one the result."""
    try:
        return next(lessons)
    except StopIteration as end:
        result: Found = end.value
        return result


def run_lessons(lessons: Lessons[Found]) -> Found:
    """Run the updates one by one, and return the result."""
    while isinstance(step := advance(lessons), Update):
        step.run()
    return step


class PartPredictor(ABC):
    """Students trained on sets of rows by `Student.fit_parts`."""

    @abstractmethod
    def predict(self, part: int, inputs: Inputs) -> ProbTable:
        """Return class probabilities of the student trained on this set."""


def by_fold(folds: Tensor, count: int, predict: Callable[[int, Tensor], ProbTable]) -> ProbTable:
    """Return cross-fitted predictions of all N samples: `predict(fold, rows)` of each fold's rows.

    folds: [N] int64 in 0 .. count - 1.
    """
    order = torch.argsort(folds, stable=True)
    parts = []
    for fold in range(count):
        rows = torch.nonzero(folds == fold)[:, 0]
        if len(rows):
            parts.append(predict(fold, rows))
    return ProbTable.concat(parts).take(torch.argsort(order))


def folds_of(groups: Tensor, count: int, seed: int) -> Tensor:
    """Return the fold [N] of each sample: groups are kept whole, folds about equally large."""
    _, index = torch.unique(groups, return_inverse=True)
    size = int(index.max()) + 1
    order = torch.randperm(size, generator=torch_generator(seed, "folds"))
    fold = torch.empty(size, dtype=torch.int64)
    fold[order] = torch.arange(size) % count
    return fold[index]
