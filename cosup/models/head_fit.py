"""Heads to be fitted together, and what they are fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.losses.base import Objective
from cosup.models.class_means import use_class_means
from cosup.models.heads import HeadBank, build_heads, log_scales
from cosup.models.learnt_prompts import LearntPrompts, prompt_heads
from cosup.models.samples import Draws, Samples, Shuffle, column_scaling
from cosup.models.section import HeadSection
from cosup.models.training_section import TrainingSection
from cosup.models.watch import Watched
from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator

__all__ = ["HeadFit"]


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
