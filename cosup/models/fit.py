"""Fit heads to features, all heads of a bank in one batched loop, and predict with them.

Published code fits one head after another from a DataLoader over a TensorDataset. Here the features
are in memory, a batch is one gather, and H heads (local students of a level, linear teachers, folds
of a cross-fit) share every step. The heads stay independent: each draws its own batches from its
own samples, the losses are summed, and Adam works element by element. Fits that draw the same
batches (candidates of a choice, or controls: they differ in targets or loss) share the loop too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cosup.errors import within
from cosup.models.compute import DEFAULT_COMPUTE, Compute
from cosup.models.full_batch import fit_full_batch
from cosup.models.head_fit import HeadFit
from cosup.models.head_steps import HeadMonitor, few_threads, finished, weighted_mean
from cosup.models.heads import HeadBank, HeadBanks
from cosup.models.optimize import build_optimizer, set_rate
from cosup.models.samples import CHUNK, Samples
from cosup.models.watch import OnHeads, OnStep
from cosup.probabilities import ProbTable
from cosup.progress import working_on
from cosup.words import plural

__all__ = ["fit_heads", "fit_together", "predict_heads"]

LOOP_BYTES = 2**30
"""Of weights, gradients and moments of the fits in one loop."""


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


def _with_one_loss(fits: Sequence[HeadFit], monitors: Sequence[HeadMonitor]) -> list[list[int]]:
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
        monitors: Sequence[HeadMonitor],
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
