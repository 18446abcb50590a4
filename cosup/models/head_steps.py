"""What all fits of heads do at a step: in memory, streamed, or over shards.

The loss is checked, the bank updated, and both are reported.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cosup.errors import RunError
from cosup.losses.base import Metrics
from cosup.models.compute import Compute
from cosup.models.heads import HeadBank
from cosup.models.training_section import TrainingSection
from cosup.models.watch import OnHeads, OnStep, Watched, head_accuracy, learning_rate

__all__ = ["CHECK_EVERY", "HeadMonitor", "few_threads", "finished", "take_step", "weighted_mean"]

log = logging.getLogger(__name__)

SMALL_STEP = 64 * 10**6
"""Multiplications per step below which one thread is faster than several."""
CHECK_EVERY = 25
"""Steps between checks of the loss on an accelerator: each check waits for it."""


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
