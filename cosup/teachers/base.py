"""The contract of teachers, and functions that several kinds share."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from cosup.config.teachers import TeachersSection
from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import Transform
from cosup.errors import UserError
from cosup.losses.base import Loss, Metrics, tempered
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.weights import hash_tensors
from cosup.settings.teachers import TeacherTraits
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.rows import SampleRows, training_rows

if TYPE_CHECKING:  # which imports this module
    from cosup.teachers.table import TableRead

__all__ = [
    "ImageTeacher",
    "OnTeacherStep",
    "RowTeacher",
    "SampleRows",
    "ScopedCrossEntropy",
    "Teacher",
    "Training",
    "learned_classes",
    "masked_softmax",
    "restrict",
    "training_rows",
]


ROWS_PER_BATCH = 4096
"""Rows at a time of teachers that look their answers up."""

TEMPERATURE = "calibration.temperature"
"""The name of a teacher's temperature among its tensors."""

OnTeacherStep = Callable[[str, int, float, int], None]
"""Called after every training step: the name of the teacher, the step from 1, the loss, and the
number of steps."""


@dataclass(frozen=True)
class Training:
    """Samples, settings and resources that teachers are trained with.

    section: the `teachers` section; what a teacher is made of, its spec says. seed: the run's seed.
    features: cached features, and the compute context. on_step: called after every step. directory:
    folder in which teachers, and the states of unfinished trainings, are stored; None stores
    nothing. rows: the rows of teacher_train to train on; None: all of them. tables: reads the
    annotation table of a teacher (`cosup.teachers.table`); None reads it whole.
    """

    section: TeachersSection
    data: ImageData
    seed: int
    features: FeatureCache
    on_step: OnTeacherStep | None = None
    directory: Path | None = None
    rows: SampleRows | None = None
    tables: "Callable[[TeacherSpec], TableRead] | None" = None

    @property
    def compute(self) -> Compute:
        """Device, precision and resources."""
        return self.features.compute

    def report(self, name: str, step: int, loss: float, steps: int) -> None:
        """Call `on_step`, if there is one."""
        if self.on_step is not None:
            self.on_step(name, step, loss, steps)


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
        self.temperature = 1.0
        """Divides its logits in `answer`; fitted to held-out labels (`teachers.calibrate`)."""

    @classmethod
    @abstractmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> "list[Teacher]":
        """Train teachers of one level; return them in the order of `specs`.

        Raises `UserError` for errors in the config or in a file, `RunError` for a loss that is not
        finite.
        """

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Raise `UserError` for errors that can be found before training.

        By default, a kind that `needs_labelled_samples` needs some in each scope.
        """
        if not cls.needs_labelled_samples:
            return
        for spec in specs:
            training_rows(spec, training.data)

    @classmethod
    @abstractmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> "Teacher":
        """Return the teacher that had this `state` after `steps` steps."""

    @property
    @abstractmethod
    def reads(self) -> str:
        """The key of its inputs; teachers with equal keys share their inputs."""

    @abstractmethod
    def inputs(self, data: ImageData, rows: SampleRows, compute: Compute) -> Iterator[Tensor]:
        """Yield the inputs of `annotate` for rows of the sample table, in batches and in order."""

    @abstractmethod
    def annotate(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C] float32 on the CPU; rows sum to 1, or to 0 to abstain."""

    def annotate_on_device(self, inputs: Tensor) -> Tensor:
        """Return `annotate` on the device that it is computed on, which need not be waited for."""
        return self.annotate(inputs)

    def answer(self, inputs: Tensor) -> Tensor:
        """Return its annotations [B, C], at its temperature, on the device."""
        return tempered(self.annotate_on_device(inputs), self.temperature)

    def embed(self, inputs: Tensor) -> Tensor:
        """Return embeddings [B, D] float32 on the CPU: the inputs of its last layer.

        Raises `UserError` for kinds without `has_embedding`.
        """
        raise UserError(
            f"teacher '{self.name}' has no embedding, which few-shot evaluation needs",
            key=f"{self.spec.setup.model_key}.name",
            value=self.kind,
            allowed="a network, or linear_features",
        )

    def network(self) -> Classifier:
        """Return the network. Raises `UserError` for kinds without `is_network`."""
        raise UserError(
            f"teacher '{self.name}' is not a network, which feature maps and live annotations need",
            key=f"{self.spec.setup.model_key}.name",
            value=self.kind,
            allowed="a network",
        )

    def unload(self) -> None:
        """Free the device: its weights are on the CPU until it computes again."""

    def outside(self, inputs: Tensor) -> Tensor:
        """Return the probability [B] that it gives to what is not in its scope, before that is left
        out; 0 for kinds without `knows_more`."""
        return torch.zeros(len(inputs))

    def state(self) -> dict[str, Tensor]:
        """Return its weights; empty for kinds without `has_weights`."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored and sent of it: its weights, and its temperature if it has one."""
        if self.temperature == 1:
            return self.state()
        return {**self.state(), TEMPERATURE: torch.tensor([self.temperature], dtype=torch.float64)}

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
        """A hash of its kind, inputs, classes, weights and temperature."""
        about = [
            self.kind,
            self.reads,
            self.num_classes,
            self.spec.classes,
            self.origin(),
            hash_tensors(self.tensors()),
        ]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def origin(self) -> str:
        """Return what identifies it among teachers of its kind, beyond its weights."""
        return ""


class ImageTeacher(Teacher):
    """A teacher whose inputs are decoded images, as its transform makes them."""

    transform: Transform
    images_at_once: ClassVar[int | None] = None
    """Images per batch; None is `execution.batch_size`."""

    @property
    def reads(self) -> str:
        """The key of its transform."""
        return self.transform.key

    def inputs(self, data: ImageData, rows: SampleRows, compute: Compute) -> Iterator[Tensor]:
        """Yield images uint8 [B, K, size, size]."""
        size = self.images_at_once or compute.batch_size
        return image_batches(data, rows, self.transform, size, compute.workers, pinned=compute.pins)


class RowTeacher(Teacher):
    """A teacher whose inputs are row numbers of the sample table: it looks its answers up."""

    @property
    def reads(self) -> str:
        """The key of row numbers."""
        return "rows"

    def inputs(self, data: ImageData, rows: SampleRows, compute: Compute) -> Iterator[Tensor]:
        """Yield row numbers [B]."""
        for start in range(0, len(rows), ROWS_PER_BATCH):
            yield torch.from_numpy(rows[start : start + ROWS_PER_BATCH])


def masked_softmax(logits: Tensor, support: Tensor) -> Tensor:
    """Return probabilities [B, C] on the device of `logits`: a softmax over the classes of
    `support` [C]."""
    outside = ~support.to(logits.device)
    return logits.float().masked_fill(outside, -torch.inf).softmax(-1)


def restrict(probs: Tensor, support: Tensor) -> Tensor:
    """Restrict probabilities [B, C] to `support` [C] and scale them to sum to 1 (or 0)."""
    inside = probs * support
    total = inside.sum(1, keepdim=True)
    return inside / torch.where(total > 0, total, torch.ones_like(total))


def learned_classes(spec: TeacherSpec, num_classes: int) -> Tensor:
    """Return the classes [C] bool that a teacher's softmax is over while it is trained."""
    if spec.classes is None or spec.model.softmax == "all":
        return torch.ones(num_classes, dtype=torch.bool)
    return torch.isin(torch.arange(num_classes), torch.tensor(spec.classes))


@dataclass
class ScopedCrossEntropy(Loss):
    """Cross-entropy over the classes of each teacher's scope, or over all (`learned_classes`).

    Classes outside the scope are left out of the softmax, so a teacher does not learn that they are
    absent. support: [H, C] bool for H heads, or [C] for one network. Targets are 0 outside it.
    """

    support: Tensor

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return losses [H, B] (or [B]) of logits and targets [H, B, C] (or [B, C])."""
        inside = self.support.to(logits.device).unsqueeze(-2)
        log_probs = logits.masked_fill(~inside, -torch.inf).log_softmax(-1)
        # -inf times a target of 0 would not be 0.
        return -(targets * log_probs.masked_fill(~inside, 0.0)).sum(-1), {}
