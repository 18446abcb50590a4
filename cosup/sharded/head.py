"""Fit a student's head to shards, and predict them with it.

Order of the samples: each pass takes the shards in a seeded random order, gathers consecutive ones
into windows of at least `WINDOW` samples, and shuffles the samples within a window, by the same
seed. What is left of a window is less than a batch, and comes first in the next one. If all kept
samples fit into one window it is read once, and every pass shuffles all of them: the batches are
then those of `cosup.models.fit`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cosup.losses.base import Objective
from cosup.models.compute import Compute
from cosup.models.fit import HeadMonitor, few_threads, finished, predict_heads, weighted_mean
from cosup.models.heads import HeadBank, build_heads, head_bank
from cosup.models.optimize import build_optimizer, set_rate
from cosup.models.section import HeadSection, TrainingSection
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.progress import working_on
from cosup.seeds import torch_generator
from cosup.sharded.deciding import RoundProducts, in_order
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Executor, FunctionWork

__all__ = ["PredictShard", "ShardFit", "ShardSamples", "column_scaling_of", "fit_head"]

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
    """The samples of shards that are kept. kept: their number in each shard."""

    store: ShardStore
    features: Product
    products: RoundProducts
    shards: tuple[Shard, ...]
    kept: tuple[int, ...]

    def read(self, shard: Shard) -> Block:
        """Return the kept samples of a shard."""
        store, number = self.store, shard.number
        weights = store.tensors(self.products.weights, number)["weight"]
        features = store.tensors(self.features, number)["features"]
        whole = Block(features, store.probs(self.products.targets, number), weights)
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
        used = [shard for shard, kept in zip(self.shards, self.kept, strict=True) if kept]
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
class ShardFit:
    """A head to be fitted to shards; the fields are those of `cosup.models.fit.HeadFit`.

    steps: optimiser steps. init: the head to start from, its standardisation kept.
    """

    samples: ShardSamples
    num_classes: int
    head: HeadSection
    training: TrainingSection
    objective: Objective
    seed: int
    steps: int
    init: HeadBank | None = None

    def start(self, executor: Executor) -> HeadBank:
        """Return the head before the first step."""
        samples = self.samples
        if self.init is not None:
            bank = self.init.select(0)
        else:
            first = next(s for s, kept in zip(samples.shards, samples.kept, strict=True) if kept)
            width = samples.read(first).features.shape[1]
            bank = build_heads(self.head, 1, width, self.num_classes, self.seed)
            if self.training.standardize:
                shift, gain = column_scaling_of(samples, executor)
                bank.shift, bank.gain = shift[None], gain[None]
        if bank.log_scale is not None:
            bank.log_scale.requires_grad_(self.head.learn_scale)
        return bank


def fit_head(
    fit: ShardFit, executor: Executor, compute: Compute, on_step: OnStep | None = None
) -> HeadBank:
    """Fit the head and return it on the CPU; as `cosup.models.fit.fit_heads`, in other batches.

    Raises `RunError` for a loss that is not finite.
    """
    total, training = fit.steps, fit.training
    bank = fit.start(executor).to(compute.device)
    size = min(training.batch_size, sum(fit.samples.kept))
    batches = fit.samples.batches(size, fit.seed)
    optimizer = build_optimizer(bank, training)
    monitor = HeadMonitor(training, total, compute)
    monitor.on_step = on_step
    multiplications = size * bank.weight.numel()
    with few_threads(multiplications), working_on("fitting 1 head: step", total) as advance:
        for step in range(total):
            set_rate(optimizer, training, step, total)
            batch = next(batches)
            logits = bank(batch.features.to(compute.device, torch.float32))
            wanted = batch.targets.dense().to(compute.device)[None]
            progress = step / max(1, total - 1)
            losses, metrics = fit.objective(logits, wanted, progress, None)
            by_head = weighted_mean(losses, batch.weights.to(compute.device)[None])
            monitor.check(step, by_head, metrics)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward([by_head.sum()])
            optimizer.step()
            monitor.report(step, bank, optimizer)
            advance(1)
    monitor.end()
    return finished(bank, training, total)


def column_scaling_of(samples: ShardSamples, executor: Executor) -> tuple[Tensor, Tensor]:
    """Return mean [D] and reciprocal standard deviation [D] of the features of all kept samples.

    The reciprocal of a constant column is set to 0.
    """
    shards = [s for s, kept in zip(samples.shards, samples.kept, strict=True) if kept]
    work = FunctionWork("sums of features", ScaleShard(samples))
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for found in in_order(executor.run(work, shards), shards):
        count, total, squares = count + found[0], total + found[1], squares + found[2]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    gain = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0.0)
    return mean.to(torch.float32), gain.to(torch.float32)


@dataclass(frozen=True)
class ScaleShard:
    """Sums of the features of a shard's kept samples, in float64."""

    samples: ShardSamples

    def __call__(self, shard: Shard) -> tuple[int, Tensor, Tensor]:
        """Return the number of samples, and the sums [D] of features and of their squares."""
        features = self.samples.read(shard).features.double()
        return len(features), features.sum(0), features.square().sum(0)


@dataclass(frozen=True)
class PredictShard:
    """Predicts the samples of a shard with a head. state: of the head."""

    store: ShardStore
    features: Product
    product: Product
    state: Mapping[str, Tensor]

    def __call__(self, shard: Shard) -> int:
        """Write the class probabilities; return the number of samples."""
        features = self.store.tensors(self.features, shard.number)["features"]
        probs = predict_heads(head_bank(self.state), features)[0]
        self.store.write_probs(self.product, shard.number, probs)
        return len(probs)
