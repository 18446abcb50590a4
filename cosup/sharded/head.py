"""A student whose head is fitted to the features of shards, by the process that drives the run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.losses.base import Objective
from cosup.models.compute import DEFAULT_COMPUTE, Compute
from cosup.models.fit import predict_heads
from cosup.models.head_steps import HeadMonitor, few_threads, finished, take_step, weighted_mean
from cosup.models.heads import HeadBank, build_heads, head_bank, log_scales, text_heads
from cosup.models.learnt_prompts import LearntPrompts, prompt_heads
from cosup.models.optimize import build_optimizer, set_rate
from cosup.models.section import HeadSection
from cosup.models.training_section import TrainingSection
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.progress import working_on
from cosup.protocols import TestInputs, by_fold, predict_sets
from cosup.sharded.batches import batches_of
from cosup.sharded.class_means import start_at_class_means
from cosup.sharded.lesson import LabelledRows, Lesson, ShardSamples, State, Trained
from cosup.sharded.shards import Shard
from cosup.sharded.store import FOLD, Product, ShardStore
from cosup.sharded.work import Executor, FunctionWork, Samples, Work, in_order
from cosup.words import plural

__all__ = [
    "PredictShard",
    "ShardFit",
    "ShardHead",
    "column_scaling_of",
    "fit_heads",
    "predict_labelled",
]


@dataclass(frozen=True)
class ShardFit:
    """Heads to be fitted to shards: one to all samples, and one to each subset of them.

    The fields are those of `cosup.models.head_fit.HeadFit`. steps: optimiser steps. init: the head
    that all of them start from, its standardisation kept. prompts: of heads that learn them.
    """

    samples: ShardSamples
    num_classes: int
    head: HeadSection
    training: TrainingSection
    objective: Objective
    seed: int
    steps: int
    init: HeadBank | None = None
    prompts: LearntPrompts | None = None

    @property
    def heads(self) -> int:
        """H."""
        return 1 + len(self.samples.subsets)

    def start(self, executor: Executor) -> HeadBank:
        """Return the heads before the first step."""
        if self.init is not None:
            bank = self.init.select([0] * self.heads)
        elif self.prompts is not None:
            bank = prompt_heads(self.prompts, log_scales(self.head, self.heads), self.seed)
        else:
            bank = self._fresh(executor)
        if bank.log_scale is not None:
            bank.log_scale.requires_grad_(self.head.learn_scale)
        return bank

    def _fresh(self, executor: Executor) -> HeadBank:
        samples, head = self.samples, self.head
        width = samples.read(samples.used[0]).features.shape[1]
        random = self.objective.loss.starts_random
        bank = build_heads(head, self.heads, width, self.num_classes, self.seed, random=random)
        if self.training.standardize:
            bank.shift, bank.gain = column_scaling_of(samples, executor)
        if head.kind == "prototype" and head.init == "class_means":
            start_at_class_means(bank, samples, head.confident, executor)
        return bank


def fit_heads(
    fit: ShardFit, executor: Executor, compute: Compute, on_step: OnStep | None = None
) -> HeadBank:
    """Fit the heads and return them on the CPU; as `cosup.models.fit.fit_heads`, in other batches.

    Raises `RunError` for a loss that is not finite.
    """
    total, training, heads = fit.steps, fit.training, fit.heads
    bank = fit.start(executor).to(compute.device)
    size = min(training.batch_size, len(fit.samples))
    batches = batches_of(fit.samples, size, fit.seed)
    optimizer = build_optimizer(bank, training)
    monitor = HeadMonitor(training, total, compute, heads)
    monitor.on_step = on_step
    what = f"fitting {plural(heads, 'head')}: step"
    with few_threads(bank.multiplications(size)), working_on(what, total) as advance:
        for step in range(total):
            set_rate(optimizer, training, step, total)
            batch = next(batches)
            features = batch.features.to(compute.device, torch.float32)
            logits = bank(features.view(heads, size, -1))
            wanted = batch.targets.dense().to(compute.device).view(heads, size, -1)
            labels = batch.labels.to(compute.device).view(heads, size)
            progress = step / max(1, total - 1)
            losses, metrics = fit.objective(logits, wanted, progress, labels)
            by_head = weighted_mean(losses, batch.weights.to(compute.device).view(heads, size))
            take_step(bank, optimizer, monitor, step, by_head, metrics)
            advance(1)
    monitor.end()
    return finished(bank, training, total)


def column_scaling_of(samples: ShardSamples, executor: Executor) -> tuple[Tensor, Tensor]:
    """Return means [H, D] and reciprocal standard deviations [H, D] of the features of all kept
    samples, and of those of each subset.

    The reciprocal of a constant column is set to 0.
    """
    work = FunctionWork("sums of features", ScaleShard(samples))
    shards, folds, labelled = samples.used, samples.folds, samples.labelled
    inside: Sequence[Tensor] = [torch.zeros(())] * 3
    if labelled is not None:
        inside = _sums(labelled.features, labelled.folds, folds)
    for found in in_order(executor.run(work, shards), shards):
        inside = [one + other for one, other in zip(inside, found, strict=True)]
    count, total, squares = (
        torch.cat([part.sum(0, keepdim=True), samples.subsets.sums(part)]) for part in inside
    )
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    gain = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0.0)
    return mean.to(torch.float32), gain.to(torch.float32)


@dataclass(frozen=True)
class ScaleShard:
    """Sums of the features of a shard's kept samples in each fold, in float64."""

    samples: ShardSamples

    def __call__(self, shard: Shard) -> tuple[Tensor, Tensor, Tensor]:
        """Return the numbers of samples [F, 1], and the sums [F, D] of features and of their
        squares; F is 1 without folds."""
        block = self.samples.read(shard)
        return _sums(block.features, block.folds, self.samples.folds)


def _sums(features: Tensor, folds: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of samples, and the sums of features and squares, of each fold."""
    values = features.double()
    zeros = torch.zeros(max(1, count), values.shape[1], dtype=torch.float64)
    fold = folds if count else torch.zeros_like(folds)
    number = torch.bincount(fold, minlength=len(zeros)).double()[:, None]
    return number, zeros.index_add(0, fold, values), zeros.index_add(0, fold, values.square())


@dataclass(frozen=True)
class ShardHead:
    """Fits heads. section: of the head. test: features [M, D] of the test split, or of several sets
    of test samples. prototypes: [C, D] text features that a head starts from, or None. prompts:
    that a head learns instead, or None.
    """

    section: HeadSection
    training: TrainingSection
    test: TestInputs
    prototypes: Tensor | None = None
    compute: Compute = DEFAULT_COMPUTE
    prompts: LearntPrompts | None = None

    def fit(self, lesson: Lesson, executor: Executor, on_step: OnStep | None) -> Trained:
        """Fit a head to a lesson, and one to each subset, in one loop."""
        init = None if self.prototypes is None else text_heads(self.section, self.prototypes)
        if lesson.start is not None:
            init = head_bank(lesson.start)
        fit = ShardFit(
            lesson.samples,
            lesson.num_classes,
            self.section,
            self.training,
            lesson.objective,
            lesson.seed,
            lesson.steps(self.training),
            init,
            self.prompts,
        )
        bank = fit_heads(fit, executor, self.compute, on_step)
        state, *folds = (bank.select(head).state_dict() for head in range(len(bank)))
        return Trained(state, tuple(folds))

    def predicting(
        self,
        source: Samples,
        features: Product,
        trained: Trained,
        product: Product,
        folds: Product | None = None,
    ) -> Work[int]:
        """Return the work that predicts shards with a head."""
        predict = PredictShard(source.store, features, product, trained, folds)
        return FunctionWork(f"predictions, {product.name}", predict, (product,))

    def untrained(self) -> State:
        """Return the head that starts from text features."""
        assert self.prototypes is not None, "other heads cannot predict before they are trained"
        return text_heads(self.section, self.prototypes).state_dict()

    def predict_test(self, trained: Trained) -> ProbTable:
        """Predict the test samples, set by set."""
        bank = head_bank(trained.state)

        def predict(features: TestInputs) -> ProbTable:
            assert isinstance(features, Tensor), "a head reads features"
            return predict_heads(bank, features, self.compute)[0]

        return predict_sets(self.test, predict)


def predict_labelled(folds: Sequence[State], labelled: LabelledRows) -> ProbTable:
    """Predict labelled samples, each with the head of its fold, which was not fitted to it."""
    return by_fold(
        labelled.folds,
        len(folds),
        lambda fold, rows: predict_heads(head_bank(folds[fold]), labelled.features[rows])[0],
    )


@dataclass(frozen=True)
class PredictShard:
    """Predicts all samples of a shard with a head, or each with the head of its fold.

    folds: the product that has the samples' folds, where there are several heads.
    """

    store: ShardStore
    features: Product
    product: Product
    trained: Trained
    folds: Product | None = None

    def __call__(self, shard: Shard) -> int:
        """Write the class probabilities; return the number of samples."""
        store, number = self.store, shard.number
        features = store.tensor(self.features, number, "features")
        state, folds = self.trained

        def predict(state: State, rows: Tensor | slice) -> ProbTable:
            return predict_heads(head_bank(state), features[rows])[0]

        if folds and len(features):
            assert self.folds is not None, "samples of several heads have folds"
            numbers = store.tensor(self.folds, number, FOLD).to(torch.int64)
            probs = by_fold(numbers, len(folds), lambda fold, rows: predict(folds[fold], rows))
        else:
            probs = predict(state, slice(None))
        store.write_probs(self.product, number, probs)
        return len(probs)
