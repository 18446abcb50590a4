"""Fit heads by L-BFGS on all of their samples at once (`optimizer: lbfgs`).

Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical
Programming 45 (1989), by `torch.optim.LBFGS` with strong Wolfe line search. Each head is a problem
of its own: its minimum does not depend on the others of its bank.

It pays where a pass over the samples is cheap: with few classes or samples some ten iterations
reach what mini-batches need many passes for. With very many samples and classes it does not
(`tests/benchmarks/bench_head_fit.py`).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cosup.models.compute import Compute
from cosup.models.head_fit import HeadFit
from cosup.models.heads import HeadBank
from cosup.models.watch import OnHeads, OnStep, head_accuracy

__all__ = ["fit_full_batch"]

ROWS = 8192
"""Samples per matrix product."""
KEPT_BYTES = 2**30
"""Standardised features up to this size are kept between the passes."""
HISTORY = 10
TOLERANCE = 1e-7
"""Largest gradient at which a head is finished before its last iteration."""


def fit_full_batch(
    fit: HeadFit,
    compute: Compute,
    on_step: OnStep | None = None,
    on_heads: OnHeads | None = None,
) -> HeadBank:
    """Fit one head per member set, in at most `fit.total_steps` iterations each.

    The loss is the (weighted) mean over a head's samples plus weight_decay / 2 times its squared
    weights. on_step, on_heads: called per pass over the samples of the first head, with a number
    that is at most that of the iterations. Returns the bank on the device.
    """
    start = fit.start()
    heads = []
    for place in range(len(start)):
        problem = _Problem(fit, start.select(place), place, compute)
        problem.minimise(on_step if place == 0 else None, on_heads if place == 0 else None)
        heads.append(problem.head.state_dict())
    names = heads[0]
    return HeadBank(**{name: torch.cat([head[name] for head in heads]) for name in names})


class _Problem:
    """One head, and the loss over all of its samples."""

    def __init__(self, fit: HeadFit, head: HeadBank, place: int, compute: Compute) -> None:
        self.fit = fit
        self.head = head.to(compute.device)
        if self.head.log_scale is not None:
            self.head.log_scale.requires_grad_(fit.head.learn_scale)
        self.samples = fit.samples(compute.device)
        self.rows = fit.members[place].to(torch.int64)
        weights = self.samples.weights
        self.weight = len(self.rows) if weights is None else float(weights[self.rows].sum())
        small = 4 * len(self.rows) * fit.features.shape[1] <= KEPT_BYTES
        self.kept = list(self._read()) if small else None

    def minimise(self, on_step: OnStep | None, on_heads: OnHeads | None) -> None:
        """Move the head to the minimum."""
        parameters = [one for one in self.head.parameters() if one.requires_grad]
        total, passes = self.fit.total_steps, 0
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=total,
            tolerance_grad=TOLERANCE,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )

        def evaluate() -> float:
            nonlocal passes
            optimizer.zero_grad()
            loss = self._loss_and_gradient()
            passes += 1
            if passes <= total:
                self._report(passes, loss, on_step, on_heads)
            return loss

        if total:
            optimizer.step(evaluate)  # type: ignore[no-untyped-call]

    def _report(
        self, step: int, loss: float, on_step: OnStep | None, on_heads: OnHeads | None
    ) -> None:
        if on_heads is not None:
            on_heads(step, torch.tensor([loss]))
        if on_step is None or not math.isfinite(loss):
            return
        watched = self.fit.watched
        shown = watched is not None and watched.at(step, self.fit.total_steps)
        on_step(step, loss, head_accuracy(self.head, watched) if shown and watched else {})

    def _loss_and_gradient(self) -> float:
        """Return the loss, and add its gradient to that of the parameters."""
        decay = self.fit.training.weight_decay
        total = decay / 2 * float(self.head.weight.detach().square().sum())
        self.head.weight.grad = decay * self.head.weight.detach()
        for rows, inputs in self._read() if self.kept is None else self.kept:
            wanted, weight, labels = self.samples.supervision(rows[None])
            losses, _ = self.fit.objective(self.head.logits(inputs), wanted, 1.0, labels)
            part = (losses if weight is None else losses * weight).sum() / self.weight
            torch.autograd.backward([part])
            total += float(part.detach())
        return total

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows [n] and their standardised features [1, n, D]."""
        for rows in torch.split(self.rows, ROWS):
            yield rows, self.head.standardized(self.samples.inputs(rows[None]))
