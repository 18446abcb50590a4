"""Knowledge review (ReviewKD).

Chen et al., "Distilling Knowledge via Knowledge Review", arXiv 2104.09044, sections 3.2 and 3.3.
Each stage of the teacher is compared with the student's stages at the same depth and deeper. From
the deepest stage to the shallowest, a fusion module (ABF) merges the student's map, projected to a
common number of channels, with the fused map of the deeper stages, weighted at each position
(attention). The result is compared with the teacher's map by a hierarchical context loss (HCL): the
squared error of the maps and of their averages over 4x4, 2x2 and 1x1 grids, those smaller than the
map with weights 1/2, 1/4 and 1/8 in this order, divided by the sum of all weights. As published,
the inputs of the classifiers (the embeddings) are the deepest stage, as a 1x1 map.
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

MAX_CHANNELS = 512
"""Default limit of the channels of the fused maps."""
GRIDS = (4, 2, 1)
"""Sides of the grids over which maps are averaged."""


@dataclass
class KnowledgeReview(KnowledgeReviewSettings, FeatureLoss):
    """Cross-entropy with the annotation, and each stage of the teacher compared with the stages of
    the student at the same depth or deeper."""

    def connect(self, student: FeatureShapes, teacher: FeatureShapes) -> Connector:
        """Return the fusion modules; their weights are drawn from the global generator of torch."""
        have = (len(student.maps), len(teacher.maps))
        count = self.stages if self.stages is not None else have[0]
        if not 0 < count <= min(have) or (self.stages is None and have[0] != have[1]):
            raise UserError(
                f"reviewkd can't pair the student's {have[0]} feature maps ({student.text}) with "
                f"the teacher's {have[1]} ({teacher.text})",
                key="stages",
                value=self.stages,
                allowed=f"1 to {min(have)}" if min(have) else "none: both networks need a map",
            )
        embeddings = bool(student.embedding and teacher.embedding)
        ours, theirs = _stages(student, count, embeddings), _stages(teacher, count, embeddings)
        channels = self.channels or min(MAX_CHANNELS, ours[-1][0])
        return Review(self.weight, self.ramp, count, embeddings, channels, ours, theirs)


def _stages(shapes: FeatureShapes, count: int, embeddings: bool) -> list[MapShape]:
    """Return the shapes of the paired stages, the deepest last."""
    return [*shapes.maps[-count:], *([(shapes.embedding, 1, 1)] if embeddings else [])]


class Review(Connector):
    """Fusion of the student's stages from deep to shallow, each compared with the teacher's."""

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
        """Return losses [B]: the sum of the context losses of the stages, times weight and ramp."""
        ours, theirs = self._maps(student), self._maps(teacher)
        below: Tensor | None = None
        losses: Tensor | None = None
        for stage in reversed(range(len(ours))):
            hint = theirs[stage].detach()
            predicted, below = self.fusions[stage](ours[stage], below, hint.shape[-2:])
            loss = context_loss(full(predicted), full(hint))
            losses = loss if losses is None else losses + loss
        assert losses is not None
        return self.weight * ramped(progress, self.ramp) * losses

    def _maps(self, output: NetworkOutput) -> list[Tensor]:
        maps = list(output.maps[-self.count :])
        if self.embeddings:
            assert output.embedding is not None
            maps.append(output.embedding[:, :, None, None])
        return maps


class Fusion(nn.Module):
    """Attention-based fusion (ABF, figure 3a) of a map of the student with the deeper fused map."""

    def __init__(self, channels: int, middle: int, wanted: int, fuses: bool) -> None:
        super().__init__()
        self.enter = _normed_convolution(channels, middle, kernel_size=1)
        self.leave = _normed_convolution(middle, wanted, kernel_size=3)
        self.attention = nn.Conv2d(2 * middle, 2, kernel_size=1) if fuses else None

    def forward(
        self, student: Tensor, below: Tensor | None, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the prediction of the teacher's map, of this size, and the fused map."""
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
    """Return the HCL (figure 3b) per sample [B] of maps [B, C, h, w]."""
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
