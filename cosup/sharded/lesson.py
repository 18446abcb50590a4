"""What a student of a sharded run learns in a round, and what such a student does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cosup.losses.base import Objective
from cosup.models.section import TrainingSection
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.sharded.deciding import RoundProducts
from cosup.sharded.shards import Shard
from cosup.sharded.store import FOLD, WEIGHT, Product, ShardStore
from cosup.sharded.work import Executor, Samples, Work

__all__ = ["Block", "Lesson", "ShardSamples", "ShardStudent", "State", "Trained"]

State = Mapping[str, Tensor]
"""The tensors of a student, on the CPU."""


class Trained(NamedTuple):
    """A trained student. folds: with cross-fitting one more for each fold, which was trained on the
    samples outside it."""

    state: State
    folds: tuple[State, ...] = ()


class Block(NamedTuple):
    """Samples: features [n, D], targets (n rows), weights [n], folds [n] int64."""

    features: Tensor
    targets: ProbTable
    weights: Tensor
    folds: Tensor

    def take(self, rows: Tensor) -> "Block":
        """Return these samples."""
        return Block(
            self.features[rows], self.targets.take(rows), self.weights[rows], self.folds[rows]
        )

    @staticmethod
    def join(parts: Sequence["Block"]) -> "Block":
        """Return the samples of several blocks."""
        features, targets, weights, folds = zip(*parts, strict=True)
        return Block(
            torch.cat(features), ProbTable.concat(targets), torch.cat(weights), torch.cat(folds)
        )


@dataclass(frozen=True)
class ShardSamples:
    """The samples of shards that are kept.

    source: what reads their images. features: product of a head's inputs. kept: their number in
    each shard. kept_by_fold: and in each fold of it; empty without folds. left_out: the fold whose
    samples are left out, if any.
    """

    source: Samples
    features: Product
    products: RoundProducts
    shards: tuple[Shard, ...]
    kept: tuple[int, ...]
    kept_by_fold: tuple[tuple[int, ...], ...] = ()
    left_out: int | None = None

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
        """Return the number of folds; 0 without cross-fitting."""
        return len(self.kept_by_fold[0]) if self.kept_by_fold else 0

    def outside(self, fold: int) -> "ShardSamples":
        """Return the samples that are not in this fold."""
        counts = zip(self.kept, self.kept_by_fold, strict=True)
        kept = tuple(whole - by_fold[fold] for whole, by_fold in counts)
        return replace(self, kept=kept, left_out=fold)

    def marks(self, shard: Shard) -> tuple[Tensor, Tensor]:
        """Return the weights [n] of all samples of a shard, 0 of those that are not kept, and their
        folds [n] int64, 0 without cross-fitting."""
        found = self.store.tensors(self.products.weights, shard.number)
        weights, folds = found[WEIGHT], found[FOLD].to(torch.int64)
        return weights if self.left_out is None else weights * (folds != self.left_out), folds

    def targets(self, shard: Shard) -> ProbTable:
        """Return what the student is to learn of all samples of a shard."""
        return self.store.probs(self.products.targets, shard.number)

    def features_of(self, shard: Shard) -> Tensor:
        """Return the features [n, D] of all samples of a shard."""
        return self.store.tensors(self.features, shard.number)["features"]

    def read(self, shard: Shard) -> Block:
        """Return the kept samples of a shard."""
        weights, folds = self.marks(shard)
        whole = Block(self.features_of(shard), self.targets(shard), weights, folds)
        return whole.take(torch.nonzero(weights > 0)[:, 0])


@dataclass(frozen=True)
class Lesson:
    """What a student learns in a round.

    name: of the round. objective: what it minimises. total: number of all samples, also of those
    that are not kept. start: the student to start from, or None.
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
        """Train it on a lesson, and one more for each fold of its samples.

        Raise `RunError` for a loss that is not finite.
        """
        ...

    def predicting(self, lesson: Lesson, trained: Trained, product: Product) -> Work[Any]:
        """Return the work that predicts shards, each sample by the student of its fold if there are
        folds, and writes the product."""
        ...

    def predict_test(self, trained: Trained) -> ProbTable:
        """Predict the test split."""
        ...
