"""What a student of a sharded run learns in a round, and what such a student does.

Order of the samples: each pass takes the shards in a seeded random order, gathers consecutive ones
into windows of at least `WINDOW` samples, and shuffles the samples within a window, by the same
seed. What is left of a window is less than a batch, and comes first in the next one. If all kept
samples fit into one window it is read once, and every pass shuffles all of them: the batches of a
head are then those of `cosup.models.fit`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cosup.losses.base import Objective
from cosup.models.section import TrainingSection
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator
from cosup.sharded.deciding import RoundProducts
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Executor, Samples, Work

__all__ = ["WINDOW", "Block", "Lesson", "ShardSamples", "ShardStudent", "State"]

State = Mapping[str, Tensor]
"""The tensors of a student, on the CPU."""
WINDOW = 2**16
"""Samples in memory from which batches are drawn: 100 MiB of 768 features, and their targets."""


class Block(NamedTuple):
    """Samples: features [n, D], targets (n rows), weights [n]."""

    features: Tensor
    targets: ProbTable
    weights: Tensor

    def take(self, rows: Tensor) -> "Block":
        """Return these samples."""
        return Block(self.features[rows], self.targets.take(rows), self.weights[rows])

    @staticmethod
    def join(parts: Sequence["Block"]) -> "Block":
        """Return the samples of several blocks."""
        features, targets, weights = zip(*parts, strict=True)
        return Block(torch.cat(features), ProbTable.concat(targets), torch.cat(weights))


@dataclass(frozen=True)
class ShardSamples:
    """The samples of shards that are kept.

    source: what reads their images. features: product of a head's inputs. kept: their number in
    each shard.
    """

    source: Samples
    features: Product
    products: RoundProducts
    shards: tuple[Shard, ...]
    kept: tuple[int, ...]

    @property
    def store(self) -> ShardStore:
        """Return the store of what is computed of them."""
        return self.source.store

    @property
    def used(self) -> list[Shard]:
        """Return the shards of which some sample is kept."""
        return [shard for shard, kept in zip(self.shards, self.kept, strict=True) if kept]

    def weights(self, shard: Shard) -> Tensor:
        """Return the weights of all samples of a shard; 0: not kept."""
        return self.store.tensors(self.products.weights, shard.number)["weight"]

    def targets(self, shard: Shard) -> ProbTable:
        """Return what the student is to learn of all samples of a shard."""
        return self.store.probs(self.products.targets, shard.number)

    def read(self, shard: Shard) -> Block:
        """Return the kept samples of a shard."""
        weights = self.weights(shard)
        features = self.store.tensors(self.features, shard.number)["features"]
        whole = Block(features, self.targets(shard), weights)
        return whole.take(torch.nonzero(weights > 0)[:, 0])

    def batches(self, size: int, seed: int, window: int = WINDOW) -> Iterator[Block]:
        """Yield batches of `size` samples without end, in the order that the module describes."""
        generator = torch_generator(seed, "batches", 0)
        left: list[Block] = []
        for block in self._windows(generator, window):
            order = torch.randperm(len(block.weights), generator=generator)
            ordered = Block.join([*left, block.take(order)])
            count = len(ordered.weights)
            rows = torch.arange(count)
            for start in range(0, count - size + 1, size):
                yield ordered.take(rows[start : start + size])
            left = [ordered.take(rows[count - count % size :])]

    def _windows(self, generator: torch.Generator, window: int) -> Iterator[Block]:
        used = self.used
        if sum(self.kept) <= window:
            whole = Block.join([self.read(shard) for shard in used])
            while True:
                yield whole
        while True:
            parts: list[Block] = []
            for place in torch.randperm(len(used), generator=generator).tolist():
                parts.append(self.read(used[place]))
                if sum(len(part.weights) for part in parts) >= window:
                    yield Block.join(parts)
                    parts = []
            if parts:
                yield Block.join(parts)


@dataclass(frozen=True)
class Lesson:
    """What a student learns in a round.

    name: of the round. total: number of all samples, also of those that are not kept. start: the
    student to start from, or None.
    """

    name: str
    samples: ShardSamples
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

    @property
    def objective(self) -> Objective:
        """Return what it minimises."""
        ...

    def fit(self, lesson: Lesson, executor: Executor, on_step: OnStep | None) -> State:
        """Train it on a lesson. Raise `RunError` for a loss that is not finite."""
        ...

    def predicting(self, lesson: Lesson, state: State, product: Product) -> Work[Any]:
        """Return the work that predicts shards, and writes the product."""
        ...

    def predict_test(self, state: State) -> ProbTable:
        """Predict the test split."""
        ...
