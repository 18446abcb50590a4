"""Fitting heads on features: all heads of a bank in one batched loop, and their predictions.

Published code fits one head after another from a DataLoader over a TensorDataset. The features
already lie in memory, so here a batch is one gather, and H heads (a level's local students, its
linear teachers, the folds of a cross-fit) share every step. Heads don't touch each other: each
draws its own batches from its own samples, the losses are summed, and Adam works by element.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from cosup.errors import RunError, inside
from cosup.losses.base import Loss, Metrics, Objective
from cosup.models.heads import HeadBank, build_heads, use_class_means
from cosup.models.optimize import build_optimizer, set_rate
from cosup.models.ranks import ALONE, Ranks, check_slices
from cosup.models.samples import CHUNK, Samples, Shuffle, column_scaling
from cosup.models.section import HeadSection, TrainingSection
from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator

log = logging.getLogger(__name__)

OnStep = Callable[[int, float, Metrics], None]

SMALL_STEP = 64 * 10**6  # multiplications per step below which one thread is quicker than several
LOOK_EVERY = 25  # steps between looks at the loss on an accelerator, which has to wait for each
RECORD_EVERY = 50


def recorded(step: int) -> bool:
    """Whether this step (from 1) of a training is one that records keep."""
    return step == 1 or step % RECORD_EVERY == 0


def fit_heads(
    features: Tensor,
    targets: ProbTable,
    *,
    members: Sequence[Tensor],
    head: HeadSection,
    training: TrainingSection,
    loss: Loss | Objective,
    num_classes: int,
    seed: int,
    weights: Tensor | None = None,
    labels: Tensor | None = None,
    init: HeadBank | None = None,
    hard: bool = False,
    steps: int | None = None,
    device: torch.device | str = "cpu",
    on_step: OnStep | None = None,
    ranks: Ranks = ALONE,
) -> HeadBank:
    """Fit one head per entry of `members` and return them as a bank on the CPU.

    features [N, D] float16 or float32 (memory-mapped ones are read batch by batch); targets N rows
    over `num_classes`; members: row indices per head (a head whose samples run out before the
    others' starts its next pass); weights [N] of samples, or None. `hard` learns each target's
    most probable class. labels [N] int64: true ones (-1 unknown), for an `Objective` that counts
    them. `init`: start from these heads (one for each, or one for all) and keep
    their standardisation. `steps` overrides the training's budget, which else counts epochs over
    the largest member set. `on_step(step from 1, mean loss per head, metrics)` is called every
    step on a CPU and every 25th elsewhere. ranks: of several processes that fit the same heads
    together, each with its slice of every batch.

    The same inputs and seed give the same heads. Raises `RunError` if the loss is not finite,
    `UserError` for batches that the ranks can't share.
    """
    largest = _check(features, targets, members, num_classes)
    total = steps if steps is not None else training.total_steps(largest)
    bank = _start(features, targets, members, head, training, num_classes, seed, init).to(device)
    objective = loss if isinstance(loss, Objective) else Objective(loss)
    source = Samples(features, targets, weights, hard, torch.device(device))
    shuffles = [Shuffle(m, torch_generator(seed, "batches", h)) for h, m in enumerate(members)]
    batch_size = min(training.batch_size, largest)
    with inside("training"):
        check_slices(batch_size, ranks.size)
    optimizer = build_optimizer(bank, training)
    module = ranks.wrap(bank)
    watch = _Watch(training, total, len(members), source.device, on_step, ranks)
    with _few_threads(batch_size * bank.weight.numel()):
        for step in range(total):
            set_rate(optimizer, training, step, total)
            rows = torch.stack([shuffle.draw(batch_size) for shuffle in shuffles])
            rows = rows[:, ranks.own(batch_size)]
            inputs, wanted, weight = source.batch(rows)
            true = None if labels is None else labels[rows].to(source.device)
            losses, metrics = objective(module(inputs), wanted, step / max(1, total - 1), true)
            minimised = _mean(losses, weight, ranks).sum()
            watch.look(step, minimised, metrics)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(minimised)
            optimizer.step()
    watch.end()
    return _finished(bank, total, training)


class _Watch:
    """Looks at the loss: stops when it is not finite, warns when it ends above where it began.

    Every step on a CPU; the first, the last and every `LOOK_EVERY`th elsewhere.
    """

    def __init__(
        self,
        training: TrainingSection,
        total: int,
        heads: int,
        device: torch.device,
        on_step: OnStep | None,
        ranks: Ranks,
    ) -> None:
        self.training = training
        self.total = total
        self.heads = heads
        self.every = 1 if device.type == "cpu" else LOOK_EVERY
        self.on_step = on_step
        self.ranks = ranks
        self.first = self.last = math.nan

    def look(self, step: int, objective: Tensor, metrics: Metrics) -> None:
        """After the forward pass of a step (from 0): objective is the heads' summed loss."""
        if (step + 1) % self.every and step not in (0, self.total - 1):
            return
        objective, metrics = self.ranks.means(objective, metrics)
        self.last = float(objective.detach()) / self.heads
        self.first = self.last if step == 0 else self.first
        if not math.isfinite(self.last):
            raise RunError(_diverged(step + 1, self.total, self.training))
        if self.on_step is not None:
            self.on_step(step + 1, self.last, metrics)

    def end(self) -> None:
        """After the last step."""
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
def predict(
    bank: HeadBank, features: Tensor, batch_size: int = CHUNK, device: torch.device | str = "cpu"
) -> list[ProbTable]:
    """Every head's probabilities for features [N, D]: one table of N rows per head."""
    bank = bank.to(device)
    # Filled in place: small tables that outlive large logits would keep the heap from shrinking.
    tables = [ProbTable.empty(len(features), bank.num_classes) for _ in range(len(bank))]
    for start in range(0, len(features), batch_size):
        rows = slice(start, min(start + batch_size, len(features)))
        inputs = features[rows].to(device, torch.float32)
        for table, probs in zip(tables, bank(inputs).softmax(-1).cpu(), strict=True):
            table.put(rows, ProbTable.compress(probs))
    return tables


def _check(
    features: Tensor, targets: ProbTable, members: Sequence[Tensor], num_classes: int
) -> int:
    """Assert that the shapes fit together; the size of the largest member set."""
    if len(features) != len(targets):
        raise ValueError(f"{len(features)} rows of features and {len(targets)} targets")
    if targets.num_classes != num_classes:
        raise ValueError(f"targets over {targets.num_classes} classes, expected {num_classes}")
    sizes = [len(rows) for rows in members]
    if not sizes or min(sizes) == 0:
        raise ValueError(f"every head needs at least one sample; sample counts: {sizes}")
    return max(sizes)


def _start(
    features: Tensor,
    targets: ProbTable,
    members: Sequence[Tensor],
    head: HeadSection,
    training: TrainingSection,
    num_classes: int,
    seed: int,
    init: HeadBank | None,
) -> HeadBank:
    """The bank before the first step."""
    count = len(members)
    if init is not None:
        if len(init) not in (1, count):
            raise ValueError(f"init holds {len(init)} heads; 1 or {count} are allowed")
        bank = init.select(range(count) if len(init) == count else [0] * count)
        return _scale_learns(bank, head)
    bank = build_heads(head, count, features.shape[1], num_classes, seed)
    if training.standardize:
        pairs = [column_scaling(features, rows) for rows in members]
        bank.shift = torch.stack([shift for shift, _ in pairs])
        bank.gain = torch.stack([gain for _, gain in pairs])
    if head.kind == "prototype" and head.init == "class_means":
        use_class_means(bank, features, targets, members, head.confident)
    return _scale_learns(bank, head)


def _scale_learns(bank: HeadBank, head: HeadSection) -> HeadBank:
    """The bank, its scale trained along or not."""
    if bank.log_scale is not None:
        bank.log_scale.requires_grad_(head.learn_scale)
    return bank


@contextmanager
def _few_threads(multiplications: int) -> Iterator[None]:
    """One thread for small steps: waiting for each other costs several threads more than they
    save, many times more on a machine that is shared; and the sums don't depend on the cores."""
    before = torch.get_num_threads()
    if multiplications < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mean(losses: Tensor, weight: Tensor | None, ranks: Ranks) -> Tensor:
    """The (weighted) mean loss [H] of each head's batch [H, B]; of a slice its share, so that the
    mean over the ranks is the batch's."""
    if ranks.size > 1 and weight is None:
        weight = torch.ones_like(losses)
    if weight is None:
        return losses.mean(-1)
    return (losses * weight).sum(-1) / ranks.mean(weight.sum(-1)).clamp_min(1e-12)


def _finished(bank: HeadBank, total: int, training: TrainingSection) -> HeadBank:
    """The fitted bank, on the CPU and without gradients."""
    bank = bank.cpu().requires_grad_(False)
    if not all(bool(torch.isfinite(p).all()) for p in bank.parameters()):
        raise RunError(_diverged(total, total, training))
    return bank


def _diverged(step: int, total: int, training: TrainingSection) -> str:
    return (
        f"fitting a head: the loss is not finite at step {step} of {total} (learning rate "
        f"{training.lr:g}); a smaller training.lr, or training.standardize, may help "
        "(with --overwrite)"
    )
