"""What a student of a sharded run learns in a round, and what such a student does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cosup.losses.base import Objective
from cosup.models.training_section import TrainingSection
from cosup.models.watch import OnStep
from cosup.models.weights import hash_tensors
from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator
from cosup.sharded.deciding import RoundProducts
from cosup.sharded.shards import Shard
from cosup.sharded.store import FOLD, LABEL, WEIGHT, Product, ShardStore
from cosup.sharded.work import Executor, Samples, Work

__all__ = [
    "PREDICTIONS",
    "Block",
    "LabelledRows",
    "Lesson",
    "ShardSamples",
    "ShardStudent",
    "State",
    "Subsets",
    "Trained",
    "predict_shards",
    "predictions_of",
    "write_predictions",
]

PREDICTIONS = "predictions"
"""Kind of products: of a student's class probabilities."""
State = Mapping[str, Tensor]
"""The tensors of a student, on the CPU."""


class Trained(NamedTuple):
    """A trained student. folds: one more for each of the subsets of its samples; with cross-fitting
    they are those outside each fold."""

    state: State
    folds: tuple[State, ...] = ()


@dataclass(frozen=True)
class Block:
    """Samples: features [n, D], targets (n rows), weights [n], labels [n] int64 (-1 unknown) and
    folds [n] int64."""

    features: Tensor
    targets: ProbTable
    weights: Tensor
    labels: Tensor
    folds: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def take(self, rows: Tensor) -> "Block":
        """Return these samples."""
        return Block(
            self.features[rows],
            self.targets.take(rows),
            self.weights[rows],
            self.labels[rows],
            self.folds[rows],
        )

    @staticmethod
    def join(parts: Sequence["Block"]) -> "Block":
        """Return the samples of several blocks."""
        return Block(
            torch.cat([part.features for part in parts]),
            ProbTable.concat([part.targets for part in parts]),
            torch.cat([part.weights for part in parts]),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.folds for part in parts]),
        )

    def with_labelled(self, more: "LabelledRows") -> "Block":
        """Return the samples, and after them labelled ones, which have no annotation."""
        return Block(
            torch.cat([self.features, more.features]),
            self.targets.with_abstentions(len(more)),
            torch.cat([self.weights, torch.ones(len(more))]),
            torch.cat([self.labels, more.labels]),
            torch.cat([self.folds, more.folds]),
        )


@dataclass(frozen=True)
class LabelledRows:
    """Labelled samples that a student learns from beside those of shards; they lie in memory.

    rows: [M] of the table of listed samples. labels, folds: [M] int64, of known labels alone.
    features: [M, D] of a head's inputs; D is 0 for a network, which reads the images.
    """

    rows: Tensor
    labels: Tensor
    folds: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor | slice) -> "LabelledRows":
        """Return these samples."""
        parts = self.rows, self.labels, self.folds, self.features
        return LabelledRows(*(part[rows] for part in parts))

    def shares(self, counts: Sequence[int], seed: int, number: int) -> list[Tensor]:
        """Return which of the samples each window of a pass has: each sample once in a pass, and
        in every window as many as its share of all other samples.

        counts: other samples of each window. number: of the pass, which has an order of its own.
        """
        order = torch.randperm(len(self), generator=torch_generator(seed, "labelled", number))
        ends = torch.tensor([0, *counts]).cumsum(0) * len(self) // sum(counts)
        return [order[start:stop] for start, stop in pairwise(ends.tolist())]


@dataclass(frozen=True)
class Subsets:
    """Subsets of samples, each of which one more student is trained on.

    folds: of each subset. inside: whether it has the samples of its fold, or else all others.
    """

    folds: tuple[int, ...] = ()
    inside: bool = False

    def __len__(self) -> int:
        return len(self.folds)

    @staticmethod
    def outside(folds: int) -> "Subsets":
        """Return those of cross-fitting: outside each of so many folds."""
        return Subsets(tuple(range(folds)))

    def has(self, place: int, folds: Tensor) -> Tensor:
        """Return which samples [n] bool of these folds [n] a subset has."""
        own = folds == self.folds[place]
        return own if self.inside else ~own

    def sums(self, by_fold: Tensor) -> Tensor:
        """Return sums [S, ...] over the samples of each subset from those of each fold [F, ...]."""
        own = by_fold[list(self.folds)]
        return own if self.inside else by_fold.sum(0) - own


@dataclass(frozen=True)
class ShardSamples:
    """The samples of shards that are kept, and labelled samples beside them.

    source: what reads their images. features: product of a head's inputs. kept: their number in
    each shard. kept_by_fold: and in each fold of it; empty without folds. labelled: None without
    any. subsets: of them, which are learned too. only: the place of the subset that is all there
    is, if any.
    """

    source: Samples
    features: Product
    products: RoundProducts
    shards: tuple[Shard, ...]
    kept: tuple[int, ...]
    kept_by_fold: tuple[tuple[int, ...], ...] = ()
    labelled: LabelledRows | None = None
    subsets: Subsets = Subsets()
    only: int | None = None

    def __len__(self) -> int:
        return sum(self.kept) + (0 if self.labelled is None else len(self.labelled))

    @property
    def store(self) -> ShardStore:
        """Return the store of what is computed of them."""
        return self.source.store

    @property
    def used(self) -> list[Shard]:
        """Return the shards of which some sample is kept."""
        return [shard for shard, kept in zip(self.shards, self.kept, strict=True) if kept]

    @property
    def folds(self) -> int:
        """Return the number of folds; 0 without any."""
        return len(self.kept_by_fold[0]) if self.kept_by_fold else 0

    def subset(self, place: int) -> "ShardSamples":
        """Return the samples of a subset."""
        counts = map(torch.tensor, self.kept_by_fold)
        kept = tuple(int(self.subsets.sums(by_fold)[place]) for by_fold in counts)
        labelled = self.labelled
        if labelled is not None:
            labelled = labelled.take(self.subsets.has(place, labelled.folds))
        return replace(self, kept=kept, labelled=labelled, only=place)

    def marks(self, shard: Shard) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights [n] of all samples of a shard, 0 of those that are not kept, their
        labels [n] int64 (-1 unknown), and their folds [n] int64, 0 without any."""
        found = self.store.tensors(self.products.weights, shard.number)
        weights, folds = found[WEIGHT], found[FOLD].to(torch.int64)
        if self.only is not None:
            weights = weights * self.subsets.has(self.only, folds)
        return weights, found.get(LABEL, torch.full_like(folds, -1)), folds

    def targets(self, shard: Shard) -> ProbTable:
        """Return what the student is to learn of all samples of a shard."""
        return self.store.probs(self.products.targets, shard.number)

    def features_of(self, shard: Shard) -> Tensor:
        """Return the features [n, D] of all samples of a shard."""
        return self.store.tensor(self.features, shard.number, "features")

    def read(self, shard: Shard) -> Block:
        """Return the kept samples of a shard."""
        whole = Block(self.features_of(shard), self.targets(shard), *self.marks(shard))
        return whole.take(torch.nonzero(whole.weights > 0)[:, 0])


@dataclass(frozen=True)
class Lesson:
    """What a student learns in a round.

    name: of the round. objective: what it minimises. total: number of all samples, also of those
    that are not kept, and of labelled ones. start: the student to start from, or None.
    """

    name: str
    samples: ShardSamples
    objective: Objective
    num_classes: int
    total: int
    seed: int
    start: State | None = None

    def steps(self, training: TrainingSection) -> int:
        """Return the number of optimiser steps, which rejected samples do not shorten (CSL)."""
        return training.total_steps(self.total)


class ShardStudent(Protocol):
    """A student that learns from shards. It is known by its tensors."""

    @property
    def training(self) -> TrainingSection:
        """Return the settings of its training."""
        ...

    def fit(self, lesson: Lesson, executor: Executor, on_step: OnStep | None) -> Trained:
        """Train it on a lesson, and one more on each of the subsets of its samples.

        Raise `RunError` for a loss that is not finite.
        """
        ...

    def predicting(
        self,
        source: Samples,
        features: Product,
        trained: Trained,
        product: Product,
        folds: Product | None = None,
    ) -> Work[Any]:
        """Return the work that predicts shards, each sample by the student of its fold if there are
        folds, and writes the product.

        source, features: as of `ShardSamples`. folds: the product that has the samples' folds.
        """
        ...

    def predict_test(self, trained: Trained) -> ProbTable:
        """Predict the test samples, set by set: the test split, and shifted sets after it."""
        ...


def predictions_of(lesson: Lesson, trained: Trained) -> Product:
    """Return the product of what a student predicts of all samples of its lesson."""
    hashes = [hash_tensors(dict(state)) for state in (trained.state, *trained.folds)]
    targets = lesson.samples.products.targets
    return Product.of(PREDICTIONS, lesson.name, *vars(targets).values(), *hashes)


def predict_shards(
    student: ShardStudent, lesson: Lesson, trained: Trained, executor: Executor
) -> Product:
    """Predict the shards that are not predicted yet; return the product."""
    product = predictions_of(lesson, trained)
    write_predictions(student, lesson.samples, trained, product, executor)
    return product


def write_predictions(
    student: ShardStudent,
    samples: ShardSamples,
    trained: Trained,
    product: Product,
    executor: Executor,
) -> None:
    """Predict the shards of some samples that are not predicted yet, and write the product."""
    folds = samples.products.weights
    work = student.predicting(samples.source, samples.features, trained, product, folds)
    for _ in executor.run(work, samples.store.missing(product, samples.shards)):
        pass
