"""The contract of teachers, and what they share.

Cross-entropy over a teacher's own classes: it is not taught that the others don't exist.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.losses.base import Loss, Metrics
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.weights import hash_tensors
from cosup.settings.teachers import TeacherTraits
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec

__all__ = [
    "OnStep",
    "Rows",
    "ScopedCrossEntropy",
    "Teacher",
    "Training",
    "masked_softmax",
    "restrict",
    "training_rows",
]


Rows = NDArray[np.int64]

OnStep = Callable[[str, int, float], None]
"""Called while teachers train: their names (joined by "+" where several train together), the step
from 1, and the mean loss."""


@dataclass(frozen=True)
class Training:
    """Samples, settings and resources that teachers are trained with.

    section: the `teachers` section. seed: the run's seed. features: cached features, and the
    compute context. on_step: called after every step. directory: folder in which teachers, and the
    states of unfinished trainings, are stored; None stores nothing.
    """

    section: TeachersSection
    data: ImageData
    seed: int
    features: FeatureCache
    on_step: OnStep | None = None
    directory: Path | None = None

    @property
    def compute(self) -> Compute:
        """Device, precision and resources."""
        return self.features.compute

    def report(self, name: str, step: int, loss: float) -> None:
        """Call `on_step`, if there is one."""
        if self.on_step is not None:
            self.on_step(name, step, loss)


class Teacher(TeacherTraits, ABC):
    """Annotates samples over all C classes of the task.

    A subclass is a kind of teacher: it sets the traits, and is registered in
    `cosup.settings.teachers`. spec: its name, level and scope. steps: the optimiser steps it was
    trained for in this run. A class outside its scope has probability 0; a row of zeros is an
    abstention.
    """

    def __init__(self, spec: TeacherSpec, num_classes: int, steps: int) -> None:
        self.spec = spec
        self.num_classes = num_classes
        self.steps = steps

    @classmethod
    @abstractmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> "list[Teacher]":
        """These teachers of one level, in their order. Raises `UserError`, `RunError`."""

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Raise `UserError` for what can be seen to be wrong before anything is trained."""
        for spec in specs:
            training_rows(spec, training.data)

    @classmethod
    @abstractmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> "Teacher":
        """The teacher whose `state` this is."""

    @property
    @abstractmethod
    def reads(self) -> str:
        """The key of its inputs: teachers with equal keys take the same ones."""

    @abstractmethod
    def inputs(self, data: ImageData, rows: Rows, compute: Compute) -> Iterator[Tensor]:
        """What `annotate` takes, for these rows of the sample table, in batches and in order."""

    @abstractmethod
    def annotate(self, inputs: Tensor) -> Tensor:
        """Probabilities [B, C] float32 on the CPU; rows sum to 1, or to 0 for an abstention."""

    def embed(self, inputs: Tensor) -> Tensor:
        """Embeddings [B, D] float32 on the CPU: what its last layer reads.

        Raises `UserError` for kinds that have none.
        """
        raise UserError(
            f"few-shot measures embeddings; teacher '{self.name}' ({self.kind}) has none; use a "
            "network or linear_features"
        )

    def network(self) -> Classifier:
        """Return the network. Raises `UserError` for kinds that are not networks."""
        raise UserError(
            "feature maps and live annotations need teachers that are networks; "
            f"'{self.name}' is {self.kind}"
        )

    def state(self) -> dict[str, Tensor]:
        """Return its weights; empty for kinds without `has_weights`."""
        return {}

    @property
    def name(self) -> str:
        """Its name in tables, files and reports."""
        return self.spec.name

    @cached_property
    def support(self) -> Tensor:
        """[C] bool: the classes it can name."""
        if self.spec.classes is None:
            return torch.ones(self.num_classes, dtype=torch.bool)
        support = torch.zeros(self.num_classes, dtype=torch.bool)
        support[list(self.spec.classes)] = True
        return support

    @cached_property
    def identity(self) -> str:
        """A hash of what it is: kind, inputs, classes, weights."""
        about = [
            self.kind,
            self.reads,
            self.num_classes,
            self.spec.classes,
            self.origin(),
            hash_tensors(self.state()),
        ]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def origin(self) -> str:
        """What tells it apart from others of its kind beyond its weights."""
        return ""


def training_rows(spec: TeacherSpec, data: ImageData) -> Rows:
    """The rows of teacher_train that lie in a teacher's scope, by their given labels: what it is
    trained on.

    Raises `UserError` if there are none.
    """
    rows = data.rows("teacher_train")
    labels, domains = data.given(rows), data.truth(rows).domains
    inside = np.ones(len(rows), dtype=bool)
    for members, found in ((spec.classes, labels), (spec.domains, domains)):
        if members is not None:
            inside &= np.isin(found.numpy(), members)
    if not inside.any():
        raise UserError(f"teacher '{spec.name}': no sample of teacher_train lies in its scope")
    return rows[inside]


def masked_softmax(logits: Tensor, support: Tensor) -> Tensor:
    """Probabilities [B, C] on the CPU: a softmax over the classes of `support` [C] alone."""
    outside = ~support.to(logits.device)
    return logits.float().masked_fill(outside, -torch.inf).softmax(-1).cpu()


def restrict(probs: Tensor, support: Tensor) -> Tensor:
    """Probabilities [B, C] within `support` [C], scaled up to 1 (0 where none lies within it)."""
    inside = probs * support
    total = inside.sum(1, keepdim=True)
    return inside / torch.where(total > 0, total, torch.ones_like(total))


@dataclass
class ScopedCrossEntropy(Loss):
    """Cross-entropy of each head to its targets, the softmax taken over its classes alone.

    support: [H, C] bool, or [C] for one network. Targets must lie within it.
    """

    support: Tensor

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Losses [H, B] (or [B]) of logits and targets [H, B, C] (or [B, C])."""
        inside = self.support.to(logits.device).unsqueeze(-2)
        log_probs = logits.masked_fill(~inside, -torch.inf).log_softmax(-1)
        # -inf times a target of 0 would not be 0.
        return -(targets * log_probs.masked_fill(~inside, 0.0)).sum(-1), {}
