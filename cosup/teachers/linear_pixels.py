"""The weakest teacher: a linear model on the image's grey pixels, scaled down."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cosup.data.decode import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import PixelTransform
from cosup.models.heads import HeadBank, head_bank
from cosup.teachers.base import Resources, Rows, Teacher, Training, masked_softmax
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.linear import fit_level

__all__ = ["LinearPixels"]


class LinearPixels(Teacher):
    """Reads uint8 images [B, 1, size, size]; pixels enter as 0 .. 1."""

    kind = "linear_pixels"

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
        data, resources = training.data, training.resources
        rows = data.rows("teacher_train")
        batches = image_batches(data, rows, transform, 256, resources.workers)
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

    def inputs(self, data: ImageData, rows: Rows, resources: Resources) -> Iterator[Tensor]:
        """Small grey images uint8 [B, 1, size, size]."""
        return image_batches(data, rows, self.transform, 256, resources.workers)

    @torch.inference_mode()
    def annotate(self, inputs: Tensor) -> Tensor:
        """Probabilities [B, C] of images uint8 [B, 1, size, size]."""
        return masked_softmax(self.head(_flat(inputs))[0], self.support)

    def state(self) -> dict[str, Tensor]:
        """The head's weights."""
        return self.head.state_dict()


def _flat(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255
