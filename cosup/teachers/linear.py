"""Linear teachers, on the frozen features of a weak backbone or on small grey images.

Teachers of a level that have the same number of steps are fitted together. Features come from the
cache, so a backbone runs once per image for any number of teachers. The teachers of CSL are of this
kind: AlexNet with a linear head.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import PixelTransform
from cosup.errors import about, within
from cosup.losses.base import Objective
from cosup.models.compute import Compute
from cosup.models.fit import fit_heads
from cosup.models.head_fit import HeadFit
from cosup.models.heads import HeadBank, head_bank
from cosup.models.images import training_transform
from cosup.models.section import HeadSection
from cosup.probabilities import ProbTable
from cosup.seeds import seed_for
from cosup.settings.teachers import LinearFeaturesKind, LinearPixelsKind
from cosup.teachers.base import (
    ImageTeacher,
    SampleRows,
    ScopedCrossEntropy,
    Teacher,
    Training,
    learned_classes,
    masked_softmax,
    training_rows,
)
from cosup.teachers.features import FeatureSource
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.rows import drawn_rows
from cosup.teachers.streamed import fit_streamed

__all__ = [
    "FeatureTeacher",
    "Fitted",
    "LinearFeatures",
    "LinearPixels",
    "feature_source",
    "fit_level",
    "labels_as_targets",
]


FEATURES_PER_BATCH, IMAGES_PER_BATCH = 4096, 256

Fitted = tuple[HeadBank, int]
"""A bank of one head, and the number of steps it was trained for."""


def fit_level(
    specs: Sequence[TeacherSpec], rows: SampleRows, features: Tensor, training: Training
) -> list[Fitted]:
    """Fit one linear head per teacher of equal settings to the samples of its scope.

    rows: [N] rows of teacher_train, ascending. features: [N, D]. Teachers with the same number of
    steps share one batched loop, so the numbers of a teacher depend on the others.
    """
    members, chances = [], []
    groups: dict[int, list[int]] = defaultdict(list)
    for position, spec in enumerate(specs):
        drawn, weights = drawn_rows(spec, training.data, training.rows)
        members.append(torch.from_numpy(np.searchsorted(rows, drawn)))
        chances.append(torch.from_numpy(weights))
        groups[teacher_steps(spec, training)].append(position)
    targets = labels_as_targets(training.data, rows)
    fitted: dict[int, Fitted] = {}
    for steps, positions in groups.items():
        chosen = [specs[position] for position in positions]
        with about(f"teachers {', '.join(spec.name for spec in chosen)}"):
            parts = [members[position] for position in positions]
            odds = [chances[position] for position in positions]
            bank = _fit_heads(chosen, parts, odds, features, targets, steps, training)
        fitted.update((p, (bank.select(h), steps)) for h, p in enumerate(positions))
    return [fitted[position] for position in range(len(specs))]


def teacher_steps(spec: TeacherSpec, training: Training) -> int:
    """Return the optimiser steps of a teacher; epochs count the samples of its scope."""
    own = training_rows(spec, training.data, training.rows)
    return spec.training.total_steps(len(own))


def labels_as_targets(data: ImageData, rows: SampleRows) -> ProbTable:
    """Return the given labels of labelled samples as compact one-hot targets."""
    labels = data.given(rows)
    count, classes = len(labels), len(data.classes)
    parts = []
    for start in range(0, count, 65536):
        part = labels[start : start + 65536]
        parts.append(ProbTable.compress(torch.nn.functional.one_hot(part, classes).float()))
    return ProbTable.concat(parts)


def _fit_heads(
    specs: Sequence[TeacherSpec],
    members: list[Tensor],
    chances: list[Tensor],
    features: Tensor,
    targets: ProbTable,
    steps: int,
    training: Training,
) -> HeadBank:
    names = "+".join(spec.name for spec in specs)
    classes = targets.num_classes
    support = torch.stack([learned_classes(spec, classes) for spec in specs])
    fit = HeadFit(
        features,
        targets,
        members=members,
        head=HeadSection(start=specs[0].model.start),
        training=specs[0].training,
        objective=Objective(ScopedCrossEntropy(support)),
        seed=seed_for(training.seed, "teachers", names),
        steps=steps,
        chances=chances,
    )

    def report(step: int, losses: Tensor) -> None:
        for spec, loss in zip(specs, losses.tolist(), strict=True):
            training.report(spec.name, step, loss, steps)

    return fit_heads(fit, training.compute, on_heads=report)


class FeatureTeacher(Teacher):
    """A head on a backbone's frozen features [B, D]."""

    def __init__(
        self, spec: TeacherSpec, head: HeadBank, source: FeatureSource, steps: int
    ) -> None:
        super().__init__(spec, head.num_classes, steps)
        self.head = head
        self.source = source

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """Return the teacher with this head."""
        return cls(spec, head_bank(state), feature_source(spec, training), steps)

    @property
    def reads(self) -> str:
        """The key of its backbone and transform."""
        return f"features-{self.source.key}"

    def inputs(self, data: ImageData, rows: SampleRows, compute: Compute) -> Iterator[Tensor]:
        """Yield features [B, D] of rows of one split."""
        return self.source.batches(data, rows, FEATURES_PER_BATCH)

    @torch.inference_mode()
    def annotate(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C] of features [B, D]."""
        return masked_softmax(self.head(inputs)[0], self.support).cpu()

    @torch.inference_mode()
    def embed(self, inputs: Tensor) -> Tensor:
        """Return the cached features [B, D]."""
        return inputs.float().cpu()

    def state(self) -> dict[str, Tensor]:
        """Return the head's weights."""
        return self.head.state_dict()


def feature_source(spec: TeacherSpec, training: Training) -> FeatureSource:
    """Return the features that a teacher reads. Raises `UserError` if they are not available."""
    backbone, key = spec.model.features, spec.setup.model_key
    assert backbone is not None
    with within(key if spec.model.use else f"{key}.backbone"):
        return training.features.source(backbone)


class LinearFeatures(LinearFeaturesKind, FeatureTeacher):
    """A linear model on a backbone's features."""

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Fit all teachers together on the cached features of teacher_train."""
        source = feature_source(specs[0], training)
        if specs[0].training.augments:
            return [cls._streamed(spec, source, training) for spec in specs]
        rows = training.data.rows("teacher_train")
        features = source.of_split(training.data, "teacher_train")
        fitted = fit_level(specs, rows, features, training)
        return [
            cls(spec, head, source, steps)
            for spec, (head, steps) in zip(specs, fitted, strict=True)
        ]

    @classmethod
    def _streamed(
        cls, spec: TeacherSpec, source: FeatureSource, training: Training
    ) -> "LinearFeatures":
        steps = teacher_steps(spec, training)
        with about(f"teacher '{spec.name}'"):
            bank = fit_streamed(spec, source, training, steps)
        return cls(spec, bank, source, steps)

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Raise `UserError` for a scope without samples or a backbone that is not available."""
        super().check(specs, training)
        source, setup = feature_source(specs[0], training), specs[0].setup
        with within(setup.training_key):
            training_transform(setup.training.augment, source.backbone.input)


class LinearPixels(LinearPixelsKind, ImageTeacher):
    """A linear model on grey uint8 images [B, 1, size, size], scaled to 0 .. 1."""

    images_at_once = IMAGES_PER_BATCH

    def __init__(
        self, spec: TeacherSpec, head: HeadBank, transform: PixelTransform, steps: int
    ) -> None:
        super().__init__(spec, head.num_classes, steps)
        self.head = head
        self.transform = transform

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Decode teacher_train once and fit all teachers together on it."""
        transform = PixelTransform(specs[0].model.size)
        data = training.data
        rows = data.rows("teacher_train")
        batches = image_batches(data, rows, transform, IMAGES_PER_BATCH, training.compute.workers)
        features = torch.cat([_scaled_pixels(batch).half() for batch in batches])
        fitted = fit_level(specs, rows, features, training)
        return [
            cls(spec, head, transform, steps)
            for spec, (head, steps) in zip(specs, fitted, strict=True)
        ]

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """Return the teacher with this head."""
        return cls(spec, head_bank(state), PixelTransform(spec.model.size), steps)

    @torch.inference_mode()
    def annotate(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C] of images uint8 [B, 1, size, size]."""
        return masked_softmax(self.head(_scaled_pixels(inputs))[0], self.support).cpu()

    def state(self) -> dict[str, Tensor]:
        """Return the head's weights."""
        return self.head.state_dict()


def _scaled_pixels(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255
