"""What linear teachers share: those of a level that have the same budget are fitted together.

A linear model on a weak backbone's frozen features (CSL's teachers: AlexNet with a linear head).

The features come from the cache, so a backbone runs once per image, however many teachers read it.

The weakest teacher: a linear model on the image's grey pixels, scaled down.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import PixelTransform
from cosup.errors import about
from cosup.losses.base import Objective
from cosup.models.compute import Compute
from cosup.models.fit import HeadFit, fit_heads
from cosup.models.heads import HeadBank, head_bank
from cosup.models.section import HeadSection
from cosup.probabilities import ProbTable
from cosup.seeds import seed_for
from cosup.settings.teachers import LinearFeaturesKind, LinearPixelsKind
from cosup.teachers.base import (
    Rows,
    ScopedCrossEntropy,
    Teacher,
    Training,
    masked_softmax,
    training_rows,
)
from cosup.teachers.features import FeatureSource
from cosup.teachers.hierarchy import TeacherSpec

__all__ = [
    "Fitted",
    "LinearFeatures",
    "LinearPixels",
    "fit_level",
    "labels_as_targets",
]


Fitted = tuple[HeadBank, int]
"""A bank of one head, and the steps it was trained for."""


def fit_level(
    specs: Sequence[TeacherSpec], rows: Rows, features: Tensor, training: Training
) -> list[Fitted]:
    """One linear head per teacher, each on its scope's samples.

    rows: [N] rows of teacher_train, ascending; features: [N, D] of them. Teachers with the same
    number of steps share one batched loop, so a teacher's numbers depend on its companions.
    """
    members = [
        torch.from_numpy(np.searchsorted(rows, training_rows(spec, training.data)))
        for spec in specs
    ]
    groups: dict[int, list[int]] = defaultdict(list)
    for position, own in enumerate(members):
        groups[training.section.training.total_steps(len(own))].append(position)
    targets = labels_as_targets(training.data, rows)
    fitted: dict[int, Fitted] = {}
    for steps, positions in groups.items():
        chosen = [specs[position] for position in positions]
        with about(f"teachers {', '.join(spec.name for spec in chosen)}"):
            parts = [members[position] for position in positions]
            bank = _fit(chosen, parts, features, targets, steps, training)
        fitted.update((p, (bank.select(h), steps)) for h, p in enumerate(positions))
    return [fitted[position] for position in range(len(specs))]


def labels_as_targets(data: ImageData, rows: Rows) -> ProbTable:
    """The given labels of labelled samples, one-hot and compact."""
    labels = data.given(rows)
    count, classes = len(labels), len(data.classes)
    parts = []
    for start in range(0, count, 65536):
        part = labels[start : start + 65536]
        parts.append(ProbTable.compress(torch.nn.functional.one_hot(part, classes).float()))
    return ProbTable.concat(parts)


def _fit(
    specs: Sequence[TeacherSpec],
    members: list[Tensor],
    features: Tensor,
    targets: ProbTable,
    steps: int,
    training: Training,
) -> HeadBank:
    names = "+".join(spec.name for spec in specs)
    classes = targets.num_classes
    support = torch.stack(
        [
            torch.isin(torch.arange(classes), torch.tensor(spec.classes or range(classes)))
            for spec in specs
        ]
    )
    fit = HeadFit(
        features,
        targets,
        members=members,
        head=HeadSection(kind="linear"),
        training=training.section.training,
        objective=Objective(ScopedCrossEntropy(support)),
        seed=seed_for(training.seed, "teachers", names),
        steps=steps,
    )
    return fit_heads(
        fit, training.compute, lambda step, loss, _: training.report(names, step, loss)
    )


BATCH = 4096


class LinearFeatures(LinearFeaturesKind, Teacher):
    """Reads its backbone's features [B, D]."""

    def __init__(
        self, spec: TeacherSpec, head: HeadBank, source: FeatureSource, steps: int
    ) -> None:
        super().__init__(spec, head.num_classes, steps)
        self.head = head
        self.source = source

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Fit all of these teachers on the cached features of teacher_train."""
        source = _source(training)
        rows = training.data.rows("teacher_train")
        features = source.of_split(training.data, "teacher_train")
        fitted = fit_level(specs, rows, features, training)
        return [
            cls(spec, head, source, steps)
            for spec, (head, steps) in zip(specs, fitted, strict=True)
        ]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Every scope has samples, and the backbone can be had."""
        super().check(specs, training)
        _source(training)

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """The teacher with this head."""
        return cls(spec, head_bank(state), _source(training), steps)

    @property
    def reads(self) -> str:
        """Its backbone and transform."""
        return f"features-{self.source.key}"

    def inputs(self, data: ImageData, rows: Rows, compute: Compute) -> Iterator[Tensor]:
        """Features [B, D] of rows of one split."""
        return self.source.batches(data, rows, BATCH)

    @torch.inference_mode()
    def annotate(self, inputs: Tensor) -> Tensor:
        """Probabilities [B, C] of features [B, D]."""
        return masked_softmax(self.head(inputs)[0], self.support)

    @torch.inference_mode()
    def embed(self, inputs: Tensor) -> Tensor:
        """The backbone's features [B, D] themselves, as the cache has them."""
        return inputs.float().cpu()

    def state(self) -> dict[str, Tensor]:
        """The head's weights."""
        return self.head.state_dict()


def _source(training: Training) -> FeatureSource:
    backbone = training.section.model.backbone
    assert backbone is not None
    with about("teachers.model.backbone"):
        return training.features.source(backbone)


class LinearPixels(LinearPixelsKind, Teacher):
    """Reads uint8 images [B, 1, size, size]; pixels enter as 0 .. 1."""

    def __init__(
        self, spec: TeacherSpec, head: HeadBank, transform: PixelTransform, steps: int
    ) -> None:
        super().__init__(spec, head.num_classes, steps)
        self.head = head
        self.transform = transform

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Decode teacher_train once, and fit all of these teachers on it."""
        transform = PixelTransform(training.section.model.size)
        data = training.data
        rows = data.rows("teacher_train")
        batches = image_batches(data, rows, transform, 256, training.compute.workers)
        features = torch.cat([_flat(batch).half() for batch in batches])
        fitted = fit_level(specs, rows, features, training)
        return [
            cls(spec, head, transform, steps)
            for spec, (head, steps) in zip(specs, fitted, strict=True)
        ]

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """The teacher with this head."""
        return cls(spec, head_bank(state), PixelTransform(training.section.model.size), steps)

    @property
    def reads(self) -> str:
        """Its transform."""
        return self.transform.key

    def inputs(self, data: ImageData, rows: Rows, compute: Compute) -> Iterator[Tensor]:
        """Small grey images uint8 [B, 1, size, size]."""
        return image_batches(data, rows, self.transform, 256, compute.workers)

    @torch.inference_mode()
    def annotate(self, inputs: Tensor) -> Tensor:
        """Probabilities [B, C] of images uint8 [B, 1, size, size]."""
        return masked_softmax(self.head(_flat(inputs))[0], self.support)

    def state(self) -> dict[str, Tensor]:
        """The head's weights."""
        return self.head.state_dict()


def _flat(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255
