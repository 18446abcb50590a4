"""A student whose head is fitted to the features of shards, by the process that drives the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cosup.losses.base import Objective
from cosup.models.compute import DEFAULT_COMPUTE, Compute
from cosup.models.fit import HeadMonitor, few_threads, finished, predict_heads, weighted_mean
from cosup.models.heads import HeadBank, build_heads, head_bank, text_heads
from cosup.models.optimize import build_optimizer, set_rate
from cosup.models.section import HeadSection, TrainingSection
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.progress import working_on
from cosup.sharded.deciding import in_order
from cosup.sharded.lesson import Lesson, ShardSamples, State
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Executor, FunctionWork, Work

__all__ = ["PredictShard", "ShardFit", "ShardHead", "column_scaling_of", "fit_head"]


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
            random = self.objective.loss.starts_random
            bank = build_heads(self.head, 1, width, self.num_classes, self.seed, random=random)
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
class ShardHead:
    """Fits heads. section: of the head. test: features [M, D] of the test split. prototypes: [C, D]
    text features that a head starts from, or None.
    """

    section: HeadSection
    training: TrainingSection
    objective: Objective
    test: Tensor
    prototypes: Tensor | None = None
    compute: Compute = DEFAULT_COMPUTE

    def fit(self, lesson: Lesson, executor: Executor, on_step: OnStep | None) -> State:
        """Fit a head to a lesson; return its tensors."""
        init = None if self.prototypes is None else text_heads(self.section, self.prototypes)
        if lesson.start is not None:
            init = head_bank(lesson.start)
        fit = ShardFit(
            lesson.samples,
            lesson.num_classes,
            self.section,
            self.training,
            self.objective,
            lesson.seed,
            lesson.steps(self.training),
            init,
        )
        bank = fit_head(fit, executor, self.compute, on_step)
        return {name: value.cpu() for name, value in bank.state_dict().items()}

    def predicting(self, lesson: Lesson, state: State, product: Product) -> Work[Any]:
        """Return the work that predicts shards with a head."""
        samples = lesson.samples
        predict = PredictShard(samples.store, samples.features, product, state)
        return FunctionWork(f"predictions, {product.name}", predict, (product,))

    def predict_test(self, state: State) -> ProbTable:
        """Predict the test split."""
        return predict_heads(head_bank(state), self.test, self.compute)[0]


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
