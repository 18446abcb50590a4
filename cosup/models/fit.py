"""Fit heads to features, all heads of a bank in one batched loop, and predict with them.

Published code fits one head after another from a DataLoader over a TensorDataset. Here the features
are in memory, a batch is one gather, and H heads (local students of a level, linear teachers, folds
of a cross-fit) share every step. The heads stay independent: each draws its own batches from its
own samples, the losses are summed, and Adam works element by element. Fits that draw the same
batches (candidates of a choice, or controls: they differ in targets or loss) share the loop too.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.errors import RunError, within
from cosup.losses.base import Metrics, Objective
from cosup.models.class_means import use_class_means
from cosup.models.compute import DEFAULT_COMPUTE, Compute
from cosup.models.full_batch import fit_full_batch
from cosup.models.heads import HeadBank, HeadBanks, build_heads, log_scales
from cosup.models.learnt_prompts import LearntPrompts, prompt_heads
from cosup.models.optimize import build_optimizer, set_rate
from cosup.models.samples import CHUNK, Draws, Samples, Shuffle, column_scaling
from cosup.models.section import HeadSection
from cosup.models.training_section import TrainingSection
from cosup.models.watch import (
    OnHeads,
    OnStep,
    Watched,
    head_accuracy,
    learning_rate,
)
from cosup.probabilities import ProbTable
from cosup.progress import working_on
from cosup.seeds import torch_generator
from cosup.words import plural

log = logging.getLogger(__name__)

SMALL_STEP = 64 * 10**6  # multiplications per step below which one thread is faster than several
CHECK_EVERY = 25  # steps between checks of the loss on an accelerator: each check waits for it
LOOP_BYTES = 2**30  # of weights, gradients and moments of the fits in one loop


@dataclass(frozen=True)
class HeadFit:
    """Heads to be fitted together, and what they are fitted to.

    features: [N, D] float16 or float32 (memory-mapped ones are read batch by batch). targets: N
    rows over the classes. members: row indices of each head's samples; a head with fewer samples
    than the others starts its next pass earlier. seed: seed of starts and batches. weights: [N]
    weights of the samples, or None. labels: [N] int64 true labels (-1 unknown) for an objective
    that uses them, or None. init: heads to start from, one for each or one for all, whose
    standardisation is kept. prompts: of a head that learns them. steps: number of optimiser steps;
    None counts the training's epochs over the largest member set. hard: fit the most probable class
    of each target. chances: of each head's members, in proportion to which they are drawn
    (`training.sampling` is `independent` then); None: equal ones.
    """

    features: Tensor
    targets: ProbTable
    members: Sequence[Tensor]
    head: HeadSection
    training: TrainingSection
    objective: Objective
    seed: int
    weights: Tensor | None = None
    labels: Tensor | None = None
    init: HeadBank | None = None
    prompts: LearntPrompts | None = None
    steps: int | None = None
    hard: bool = False
    watched: Watched | None = None
    chances: Sequence[Tensor] | None = None

    @property
    def largest(self) -> int:
        """Number of samples of the largest member set."""
        return max(len(rows) for rows in self.members)

    @property
    def batch_size(self) -> int:
        """Samples per step of each head."""
        return min(self.training.batch_size, self.largest)

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps."""
        return self.training.total_steps(self.largest) if self.steps is None else self.steps

    def check_shapes(self) -> None:
        """Raise `ValueError` for shapes that do not match or a head without samples."""
        if len(self.features) != len(self.targets):
            raise ValueError(f"{len(self.features)} rows of features, {len(self.targets)} targets")
        sizes = [len(rows) for rows in self.members]
        if not sizes or min(sizes) == 0:
            raise ValueError(f"every head needs at least one sample; sample counts: {sizes}")
        init, classes = self.init, self.targets.num_classes
        if init is not None and len(init) not in (1, len(sizes)):
            raise ValueError(f"init holds {len(init)} heads (allowed: 1 or {len(sizes)})")
        if init is not None and init.num_classes != classes:
            raise ValueError(f"init has {init.num_classes} classes, the targets {classes}")

    def same_batches(self, other: "HeadFit") -> bool:
        """Whether both draw the same samples at each step and start from equally scaled features.

        They can then be fitted in one loop (`fit_together`).
        """
        return (
            self.features is other.features
            and self.init is other.init
            and self.prompts is other.prompts
            and (self.seed, self.head, self.training) == (other.seed, other.head, other.training)
            and self.targets.num_classes == other.targets.num_classes
            and self.total_steps == other.total_steps
            and len(self.members) == len(other.members)
            and all(map(torch.equal, self.members, other.members))
            and self.chances is other.chances
        )

    def draws(self) -> list[Shuffle | Draws]:
        """Return what draws the samples of each head."""
        generators = [torch_generator(self.seed, "batches", h) for h in range(len(self.members))]
        pairs = list(zip(self.members, generators, strict=True))
        if self.training.sampling == "passes":
            return [Shuffle(*pair) for pair in pairs]
        if self.chances is None:
            return [Draws(*pair) for pair in pairs]
        return [Draws(*pair, weights) for pair, weights in zip(pairs, self.chances, strict=True)]

    def same_loss(self, other: "HeadFit") -> bool:
        """Whether one call of the objective serves both, in one loop."""
        return (
            self.objective == other.objective
            and (self.weights is None) == (other.weights is None)
            and (self.labels is None) == (other.labels is None)
        )

    @property
    def state_bytes(self) -> int:
        """Bytes of the heads with their gradients and two moments."""
        return 16 * len(self.members) * self.features.shape[1] * self.targets.num_classes

    def samples(self, device: torch.device) -> Samples:
        """Return what the heads are fitted to, gathered by row onto the device."""
        return Samples(
            self.features, self.targets, self.weights, self.hard, device, labels=self.labels
        )

    def start(self) -> HeadBank:
        """Return the heads before the first step."""
        bank = self._fresh() if self.init is None else self._copied(self.init)
        if bank.log_scale is not None:
            bank.log_scale.requires_grad_(self.head.learn_scale)
        return bank

    def _copied(self, init: HeadBank) -> HeadBank:
        count = len(self.members)
        return init.select(range(count) if len(init) == count else [0] * count)

    def _fresh(self) -> HeadBank:
        features, classes = self.features, self.targets.num_classes
        if self.prompts is not None:
            scales = log_scales(self.head, len(self.members))
            return prompt_heads(self.prompts, scales, self.seed)
        bank = build_heads(
            self.head,
            len(self.members),
            features.shape[1],
            classes,
            self.seed,
            random=self.objective.loss.starts_random,
        )
        if self.training.standardize:
            pairs = [column_scaling(features, rows) for rows in self.members]
            bank.shift = torch.stack([shift for shift, _ in pairs])
            bank.gain = torch.stack([gain for _, gain in pairs])
        if self.head.kind == "prototype" and self.head.init == "class_means":
            use_class_means(bank, features, self.targets, self.members, self.head.confident)
        return bank


def fit_heads(
    fit: HeadFit,
    compute: Compute = DEFAULT_COMPUTE,
    on_step: OnStep | None = None,
    on_heads: OnHeads | None = None,
) -> HeadBank:
    """Fit one head per member set and return them as a bank on the CPU.

    on_step(step from 1, mean loss per head, metrics) is called every step on a CPU and every 25th
    elsewhere; on_heads likewise with the loss of each head. The same `fit` gives the same heads.
    Raises `ValueError` as `HeadFit.check_shapes`, `RunError` for a loss that is not finite.
    """
    fit.check_shapes()
    return _fit_group([fit], compute, on_step, on_heads)[0]


def fit_together(
    fits: Sequence[HeadFit], compute: Compute = DEFAULT_COMPUTE, on_step: OnStep | None = None
) -> list[HeadBank]:
    """Fit the heads of several fits and return the bank of each, equal to those of `fit_heads`.

    Fits that draw the same batches (`HeadFit.same_batches`: they differ in targets, weights or
    objective) share one loop, which gathers and standardises every batch once; the others have a
    loop of their own. on_step is called with the first fit's loss and metrics. Errors as for
    `fit_heads`.
    """
    for fit in fits:
        fit.check_shapes()
    banks: dict[int, HeadBank] = {}
    while waiting := [index for index in range(len(fits)) if index not in banks]:
        first = fits[waiting[0]]
        group = [index for index in waiting if first.same_batches(fits[index])]
        group = group[: max(1, LOOP_BYTES // first.state_bytes)]
        report = on_step if group[0] == 0 else None
        found = _fit_group([fits[index] for index in group], compute, report)
        banks |= dict(zip(group, found, strict=True))
    return [banks[index] for index in range(len(fits))]


def _fit_group(
    fits: Sequence[HeadFit],
    compute: Compute,
    on_step: OnStep | None,
    on_heads: OnHeads | None = None,
) -> list[HeadBank]:
    """Fit heads that draw the same batches in one loop, or each on all samples by L-BFGS."""
    fit = fits[0]
    training, total = fit.training, fit.total_steps
    if training.optimizer == "lbfgs":
        with within("training"):
            whole = [fit_full_batch(fit, compute, on_step, on_heads)]
            whole += [fit_full_batch(one, compute) for one in fits[1:]]
        return [finished(bank, training, total) for bank in whole]
    banks = HeadBanks([one.start() for one in fits]).to(compute.device)
    samples = [one.samples(compute.device) for one in fits]
    draws = fit.draws()
    optimizer = build_optimizer(banks, training)
    heads = len(fit.members)
    monitors = [HeadMonitor(training, total, compute, heads, one.watched) for one in fits]
    monitors[0].on_step, monitors[0].on_heads = on_step, on_heads
    groups = _with_one_loss(fits, monitors)
    shared = [_SharedLoss(places, fits, samples, monitors) for places in groups]
    # Threads as for one fit: sums over several threads differ in the last digits.
    what = f"fitting {plural(sum(len(one.members) for one in fits), 'head')}: step"
    multiplications = next(iter(banks)).multiplications(fit.batch_size)
    with few_threads(multiplications), working_on(what, total) as advance:
        for step in range(total):
            set_rate(optimizer, training, step, total)
            rows = torch.stack([each.draw(fit.batch_size) for each in draws])
            logits = banks(samples[0].inputs(rows))
            parts = [each(logits, rows, step, total) for each in shared]
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(parts)
            optimizer.step()
            for monitor, bank in zip(monitors, banks, strict=True):
                monitor.report(step, bank, optimizer)
            advance(1)
    for monitor in monitors:
        monitor.end()
    return [finished(bank, training, total) for bank in banks]


def _with_one_loss(fits: Sequence[HeadFit], monitors: Sequence["HeadMonitor"]) -> list[list[int]]:
    """Group the places of fits with equal objectives.

    The fit that reports metrics is alone: metrics are means over all heads of a call of the loss.
    """
    groups: list[list[int]] = []
    for place, monitor in enumerate(monitors):
        for group in groups:
            read = monitors[group[0]].is_read or monitor.is_read
            if not read and fits[place].same_loss(fits[group[0]]):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


class _SharedLoss:
    """The loss of fits with one objective, computed in one call for the heads of all of them.

    places: of the fits with it; fits, samples, monitors: of all fits of the loop.
    """

    def __init__(
        self,
        places: Sequence[int],
        fits: Sequence[HeadFit],
        samples: Sequence[Samples],
        monitors: Sequence["HeadMonitor"],
    ) -> None:
        self.places = places
        self.samples = [samples[place] for place in places]
        self.monitors = [monitors[place] for place in places]
        self.objective = fits[places[0]].objective
        self.heads = len(fits[0].members)

    def __call__(self, logits: Sequence[Tensor], rows: Tensor, step: int, total: int) -> Tensor:
        """Return the sum over the heads of the mean loss over their batches, and check it."""
        found = [source.supervision(rows) for source in self.samples]
        wanted, weight, true = (_stacked(parts) for parts in zip(*found, strict=True))
        scores = _stacked([logits[place] for place in self.places])
        assert scores is not None
        assert wanted is not None
        progress = step / max(1, total - 1)
        losses, metrics = self.objective(scores, wanted, progress, true)
        by_head = weighted_mean(losses, weight)
        for place, monitor in enumerate(self.monitors):
            own = slice(place * self.heads, (place + 1) * self.heads)
            monitor.check(step, by_head[own], metrics)
        return by_head.sum()


def _stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return the heads of all parts in one tensor; None if there is none."""
    found = [part for part in parts if part is not None]
    if len(found) < 2:
        return found[0] if found else None
    return torch.cat(found)


def take_step(
    bank: HeadBank,
    optimizer: torch.optim.Optimizer,
    monitor: "HeadMonitor",
    step: int,
    by_head: Tensor,
    metrics: Metrics,
) -> None:
    """Check the losses of the heads [H] in a step (from 0), update the bank, and report both."""
    monitor.check(step, by_head, metrics)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward([by_head.sum()])
    optimizer.step()
    monitor.report(step, bank, optimizer)


class HeadMonitor:
    """Stops a fit whose loss is not finite; warns about a loss that ends higher than it began.

    Checks every step on a CPU; the first, the last and every `CHECK_EVERY`th elsewhere. total:
    steps. heads: that are fitted. watched: samples whose accuracy is reported.
    """

    def __init__(
        self,
        training: TrainingSection,
        total: int,
        compute: Compute,
        heads: int = 1,
        watched: Watched | None = None,
    ) -> None:
        self.training = training
        self.total = total
        self.heads = heads
        self.watched = watched
        self.every = 1 if compute.device.type == "cpu" else CHECK_EVERY
        self.on_step: OnStep | None = None
        self.on_heads: OnHeads | None = None
        self.first = self.last = math.nan
        self.by_head = torch.empty(0)
        self.metrics: Metrics = {}

    @property
    def is_read(self) -> bool:
        """Whether losses and metrics are reported to somebody."""
        return self.on_step is not None or self.on_heads is not None

    def check(self, step: int, by_head: Tensor, metrics: Metrics) -> None:
        """Check the losses of the heads [H] after the forward pass of a step (from 0)."""
        if not self._checks(step):
            return
        self.metrics = metrics
        self.by_head = by_head.detach()
        self.last = float(self.by_head.sum()) / self.heads
        self.first = self.last if step == 0 else self.first
        if not math.isfinite(self.last):
            raise RunError(_diverged(step + 1, self.training, self.total))

    def report(self, step: int, bank: HeadBank, optimizer: torch.optim.Optimizer) -> None:
        """Report the losses of a step (from 0), and the accuracy of the bank after it."""
        if not self._checks(step):
            return
        if self.on_heads is not None:
            self.on_heads(step + 1, self.by_head)
        if self.on_step is None:
            return
        metrics, watched = {**self.metrics, **learning_rate(optimizer)}, self.watched
        if watched is not None and watched.at(step + 1, self.total):
            metrics |= head_accuracy(bank, watched)
        self.on_step(step + 1, self.last, metrics)

    def _checks(self, step: int) -> bool:
        asked = self.watched is not None and self.watched.at(step + 1, self.total)
        return asked or (step + 1) % self.every == 0 or step in (0, self.total - 1)

    def end(self) -> None:
        """Warn after the last step if the loss has more than doubled."""
        if self.last > 2 * self.first:
            log.warning(
                "fitting a head: the loss rose from %.3g to %.3g in %d steps; a smaller "
                "training.lr (%g) may help",
                self.first,
                self.last,
                self.total,
                self.training.lr,
            )


@torch.inference_mode()
def predict_heads(
    bank: HeadBank,
    features: Tensor,
    compute: Compute = DEFAULT_COMPUTE,
    rows_per_pass: int = CHUNK,
) -> list[ProbTable]:
    """Return every head's probabilities for features [N, D]: one table of N rows per head."""
    bank = bank.to(compute.device)
    # Filled in place: small tables that outlive large logits would keep the heap from shrinking.
    tables = [ProbTable.empty(len(features), bank.num_classes) for _ in range(len(bank))]
    for start in range(0, len(features), rows_per_pass):
        rows = slice(start, min(start + rows_per_pass, len(features)))
        inputs = features[rows].to(compute.device, torch.float32)
        for table, probs in zip(tables, bank(inputs).softmax(-1).cpu(), strict=True):
            table.put(rows, ProbTable.compress(probs))
    return tables


@contextmanager
def few_threads(multiplications: int) -> Iterator[None]:
    """Use one thread for small steps.

    Synchronising several threads costs more time than they save, many times more on a shared
    machine. The sums do not depend on the number of cores either.
    """
    before = torch.get_num_threads()
    if multiplications < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Return the (weighted) mean loss [H] over each head's batch [H, B]."""
    if weight is None:
        return losses.mean(-1)
    return (losses * weight).sum(-1) / weight.sum(-1).clamp_min(1e-12)


def finished(bank: HeadBank, training: TrainingSection, total: int) -> HeadBank:
    """Return a bank after its last step, on the CPU and without gradients.

    Raises `RunError` for weights that are not finite.
    """
    bank = bank.settled().cpu().requires_grad_(False)
    if not all(bool(torch.isfinite(p).all()) for p in bank.parameters()):
        raise RunError(_diverged(total, training, total))
    return bank


def _diverged(step: int, training: TrainingSection, total: int) -> str:
    return (
        f"fitting a head: the loss is not finite at step {step} of {total} (learning "
        f"rate {training.lr:g}); a smaller training.lr, or training.standardize, may help "
        "(with --overwrite)"
    )
