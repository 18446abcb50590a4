"""A linear model on a weak backbone's frozen features (CSL's teachers: AlexNet with a linear head).

The features come from the cache, so a backbone runs once per image, however many teachers read it.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cosup.data.table import ImageData
from cosup.errors import about
from cosup.models.heads import HeadBank, head_bank
from cosup.teachers.base import Resources, Rows, Teacher, Training, masked_softmax
from cosup.teachers.features import FeatureSource, feature_source
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.linear import fit_level

__all__ = ["LinearFeatures"]

BATCH = 4096


class LinearFeatures(Teacher):
    """Reads its backbone's features [B, D]."""

    kind = "linear_features"

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

    def inputs(self, data: ImageData, rows: Rows, resources: Resources) -> Iterator[Tensor]:
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
        return feature_source(backbone, training.resources)
