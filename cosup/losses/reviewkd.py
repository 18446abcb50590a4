"""Knowledge review: Chen et al., "Distilling Knowledge via Knowledge Review", arXiv 2104.09044,
sections 3.2 and 3.3.

Each stage of the teacher teaches the student's stages of its own depth and deeper. From the deepest
stage to the shallowest, a fusion module (ABF) joins the student's map, brought to a common width,
with what came down from the stages below, weighting the two place by place (attention); the result
is compared with the teacher's map of that stage by a hierarchical context loss (HCL): the squared
error of the maps and of their averages over 4x4, 2x2 and 1x1 grids, those smaller than the map with
weights 1/2, 1/4 and 1/8 in this order, divided by the sum of all weights. As published, what the
classifiers read (the embeddings) is the deepest stage of all, as a 1x1 map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from cosup.errors import UserError
from cosup.losses.base import ramped
from cosup.losses.features import Connector, FeatureLoss, full
from cosup.protocols import FeatureShapes, MapShape, NetworkOutput
from cosup.settings.losses import KnowledgeReviewSettings

WIDEST = 512
GRIDS = (4, 2, 1)


@dataclass
class KnowledgeReview(KnowledgeReviewSettings, FeatureLoss):
    """Cross-entropy with the annotation, and each of the teacher's stages from all of the
    student's that are as deep or deeper."""

    def connect(self, student: FeatureShapes, teacher: FeatureShapes) -> Connector:
        """Fusion modules; their weights are drawn from torch's global random numbers."""
        have = (len(student.maps), len(teacher.maps))
        count = self.stages if self.stages is not None else have[0]
        if not 0 < count <= min(have) or (self.stages is None and have[0] != have[1]):
            raise UserError(
                f"stages: {'null' if self.stages is None else self.stages}: reviewkd can't pair "
                f"the student's {have[0]} feature maps ({student.text}) with the teacher's "
                f"{have[1]} ({teacher.text}); {_advice(min(have))}"
            )
        embeddings = bool(student.embedding and teacher.embedding)
        ours, theirs = _stages(student, count, embeddings), _stages(teacher, count, embeddings)
        channels = self.channels or min(WIDEST, ours[-1][0])
        return Review(self.weight, self.ramp, count, embeddings, channels, ours, theirs)


def _advice(most: int) -> str:
    return f"stages may be 1 to {most}" if most else "both networks need at least one"


def _stages(shapes: FeatureShapes, count: int, embeddings: bool) -> list[MapShape]:
    """The stages that are paired, the deepest last."""
    return [*shapes.maps[-count:], *([(shapes.embedding, 1, 1)] if embeddings else [])]


class Review(Connector):
    """Fuses the student's stages from deep to shallow and compares each with the teacher's."""

    def __init__(
        self,
        weight: float,
        ramp: float,
        count: int,
        embeddings: bool,
        channels: int,
        student: Sequence[MapShape],
        teacher: Sequence[MapShape],
    ) -> None:
        super().__init__()
        self.weight = weight
        self.ramp = ramp
        self.count = count
        self.embeddings = embeddings
        deepest = len(student) - 1
        self.fusions = nn.ModuleList(
            Fusion(student[stage][0], channels, teacher[stage][0], fuses=stage < deepest)
            for stage in range(len(student))
        )

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        """Losses [B]: the stages' context losses summed, times weight and ramp."""
        ours, theirs = self._maps(student), self._maps(teacher)
        below: Tensor | None = None
        losses: Tensor | None = None
        for stage in reversed(range(len(ours))):
            hint = theirs[stage].detach()
            guess, below = self.fusions[stage](ours[stage], below, hint.shape[-2:])
            loss = context_loss(full(guess), full(hint))
            losses = loss if losses is None else losses + loss
        assert losses is not None
        return self.weight * ramped(progress, self.ramp) * losses

    def _maps(self, seen: NetworkOutput) -> list[Tensor]:
        maps = list(seen.maps[-self.count :])
        if self.embeddings:
            assert seen.embedding is not None
            maps.append(seen.embedding[:, :, None, None])
        return maps


class Fusion(nn.Module):
    """Attention-based fusion (ABF, figure 3a) of a student's map with that from below."""

    def __init__(self, channels: int, middle: int, wanted: int, fuses: bool) -> None:
        super().__init__()
        self.enter = _normed_convolution(channels, middle, kernel_size=1)
        self.leave = _normed_convolution(middle, wanted, kernel_size=3)
        self.attention = nn.Conv2d(2 * middle, 2, kernel_size=1) if fuses else None

    def forward(
        self, student: Tensor, below: Tensor | None, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The guess at the teacher's map, of this size, and what goes on to the stage above."""
        fused: Tensor = self.enter(student)
        if self.attention is not None:
            assert below is not None
            below = interpolate(below, list(fused.shape[-2:]), mode="nearest")
            shares = self.attention(torch.cat([fused, below], 1)).sigmoid()
            fused = fused * shares[:, :1] + below * shares[:, 1:]
        if fused.shape[-2:] != tuple(size):
            fused = interpolate(fused, list(size), mode="nearest")
        return self.leave(fused), fused


def _normed_convolution(channels: int, wanted: int, kernel_size: int) -> nn.Module:
    convolution = nn.Conv2d(channels, wanted, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(wanted))


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """HCL (figure 3b) per sample [B] of maps [B, C, h, w]."""
    losses = _squared_error(student, teacher)
    weight = total = 1.0
    for grid in GRIDS:
        if grid < min(student.shape[-2:]):
            weight /= 2
            total += weight
            pooled = (adaptive_avg_pool2d(maps, grid) for maps in (student, teacher))
            losses = losses + weight * _squared_error(*pooled)
    return losses / total


def _squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().flatten(1).mean(1)
