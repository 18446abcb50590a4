"""The contract of losses on feature maps: the student learns to see as its teacher does.

Such a loss has two parts: the one of the logits (its `__call__`, cross-entropy with the annotation)
and the one of the features, a module that may have weights of its own (a connector from the
student's widths to the teacher's), trained along with the student and thrown away after.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from cosup.losses.base import Loss, Metrics, log_probs, soft_cross_entropy
from cosup.settings.losses import FeatureLossSettings

MapShape = tuple[int, int, int]


@dataclass(frozen=True)
class Seen:
    """What a network makes of B images.

    logits: [B, C] (of a live teacher: log-probabilities). maps: of its stages in order, each
    [B, channels, height, width]. embedding: [B, D], what its classifier reads.
    """

    logits: Tensor
    maps: tuple[Tensor, ...] = ()
    embedding: Tensor | None = None


@dataclass(frozen=True)
class Shapes:
    """The shapes of what a network sees, but the batch: (channels, height, width) of each map."""

    maps: tuple[MapShape, ...] = ()
    embedding: int = 0
    names: tuple[str, ...] = field(default=(), compare=False)


class Live(Protocol):
    """The teachers of a level, asked about images while the student trains."""

    @property
    def shapes(self) -> Shapes:
        """Of what each of them sees."""

    def __call__(self, pixels: Tensor, teacher: Tensor) -> Seen:
        """What teacher [B] (int64) sees of each image [B, 3, H, W] with values in 0 .. 255."""


class Connector(nn.Module):
    """Compares what student and teacher see of the same images."""

    @abstractmethod
    def forward(self, student: Seen, teacher: Seen, progress: float) -> Tensor:
        """Per-sample loss [B], already multiplied by its weight; no gradient to the teacher.

        Maps may be in half precision under autocast; the loss is float32 at least.
        """


@dataclass
class FeatureLoss(FeatureLossSettings, Loss):
    """A loss with a part on feature maps or embeddings."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """The logits' part, cross-entropy times `annotation`: losses [..., B] of logits and targets
        [..., B, C]; 0 for a target row of zeros."""
        student = log_probs(logits)
        losses = soft_cross_entropy(student, targets.to(student.dtype))
        return self.annotation * losses, {}

    @abstractmethod
    def connect(self, student: Shapes, teacher: Shapes) -> Connector:
        """The features' part for networks of these shapes.

        Raises `UserError` naming both shapes where they can't be paired.
        """


def full(values: Tensor) -> Tensor:
    """In float32 at least: squares of half precision overflow or vanish."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def shown(shapes: Sequence[MapShape]) -> str:
    """`64x8x8, 128x4x4` for an error."""
    return ", ".join("x".join(map(str, shape)) for shape in shapes) or "none"
