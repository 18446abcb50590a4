"""FitNets: regression of a feature map of the teacher.

Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv 1412.6550, section 2.2, equation 3.

    L = weight * mean over channels and positions of (teacher's hint - r(student's map))^2

with r a regressor from the student's channels and size to the teacher's. As in later comparisons
(Tian et al., arXiv 1910.10699, whose regressor this follows), hints and labels are learned in one
stage. r ends with batch norm but no ReLU, since the maps of many networks have negative values.

In the code of Guo et al. (arXiv 2402.03749), and of OFA-KD, which it builds on, there are four
maps, r is a 1x1 convolution without bias or norm, started as by He et al. (arXiv 1502.01852, fan
out), and the errors of the maps are added up (`stages`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosup.errors import UserError
from cosup.losses.features import Connector, FeatureLoss, full
from cosup.protocols import FeatureShapes, MapShape, NetworkOutput
from cosup.settings.losses import FitNetSettings


@dataclass
class FitNet(FitNetSettings, FeatureLoss):
    """Cross-entropy with the annotation, and regression of a feature map of the teacher."""

    def connect(self, student: FeatureShapes, teacher: FeatureShapes) -> Connector:
        """Return a regressor; its weights are drawn from the global generator of torch."""
        if self.stages is not None:
            return self._plain(self.stages, student, teacher)
        ends = (self._stage(student, teacher, student), self._stage(student, teacher, teacher))
        return HintRegressor(self.weight, *ends, student.maps[ends[0]], teacher.maps[ends[1]])

    def _plain(
        self, count: int, student: FeatureShapes, teacher: FeatureShapes
    ) -> "PlainRegressors":
        """Return a regressor for each of the last maps. Raises `UserError` where there are fewer,
        and for maps of other sizes."""
        pairs = list(zip(student.maps[-count:], teacher.maps[-count:], strict=False))
        sizes = all(ours[1:] == theirs[1:] for ours, theirs in pairs)
        if min(len(student.maps), len(teacher.maps)) < count or not sizes:
            raise UserError(
                f"fitnet can't pair the student's feature maps ({student.text}) with the teacher's "
                f"({teacher.text}): both need so many last maps, of equal sizes",
                key="stages",
                value=count,
            )
        return PlainRegressors(self.weight, pairs)

    def _stage(self, student: FeatureShapes, teacher: FeatureShapes, of: FeatureShapes) -> int:
        count = len(of.maps)
        stage = count // 2 if self.hint_stage is None else self.hint_stage
        if not -count <= stage < count:
            raise UserError(
                f"fitnet can't pair the student's feature maps ({student.text}) with the teacher's "
                f"({teacher.text}): both need a map of that number",
                key="hint_stage",
                value=self.hint_stage,
            )
        return stage


class HintRegressor(Connector):
    """Regression of one map of the teacher from one of the student."""

    def __init__(
        self, weight: float, stage: int, hint: int, student: MapShape, teacher: MapShape
    ) -> None:
        super().__init__()
        self.weight = weight
        self.stage = stage
        self.hint = hint
        self.regressor = nn.Sequential(_convolution(student, teacher), nn.BatchNorm2d(teacher[0]))

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        """Return the mean squared error per sample [B], times the weight."""
        hint = full(teacher.maps[self.hint].detach())
        predicted = full(
            _resized(self.regressor(student.maps[self.stage]), (hint.shape[-2], hint.shape[-1]))
        )
        return self.weight * (predicted - hint).square().flatten(1).mean(1)


class PlainRegressors(Connector):
    """Regressions of the teacher's last maps, each by a 1x1 convolution of the student's.

    pairs: shapes of the student's and the teacher's maps, of equal height and width.
    """

    def __init__(self, weight: float, pairs: Sequence[tuple[MapShape, MapShape]]) -> None:
        super().__init__()
        self.weight = weight
        regressors = [nn.Conv2d(ours[0], theirs[0], 1, bias=False) for ours, theirs in pairs]
        for regressor in regressors:
            nn.init.kaiming_normal_(regressor.weight, mode="fan_out", nonlinearity="relu")
        self.regressors = nn.ModuleList(regressors)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        """Return the sum of the mean squared errors per sample [B], times the weight."""
        count = len(self.regressors)
        parts = zip(self.regressors, student.maps[-count:], teacher.maps[-count:], strict=True)
        errors = [
            (full(regressor(ours)) - full(theirs.detach())).square().flatten(1).mean(1)
            for regressor, ours, theirs in parts
        ]
        return self.weight * torch.stack(errors).sum(0)


def _convolution(student: MapShape, teacher: MapShape) -> nn.Module:
    """Return a convolution to the teacher's channels, and to its size if it is a factor of 2."""
    (wide, *size), (wanted, *hint) = student, teacher
    if size == [2 * side for side in hint]:
        return nn.Conv2d(wide, wanted, kernel_size=3, stride=2, padding=1)
    if hint == [2 * side for side in size]:
        return nn.ConvTranspose2d(wide, wanted, kernel_size=4, stride=2, padding=1)
    return nn.Conv2d(wide, wanted, kernel_size=1)


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps [B, C, h, w] pooled or interpolated to this size."""
    if values.shape[-2:] == size:
        return values
    if all(have >= want for have, want in zip(values.shape[-2:], size, strict=True)):
        return functional.adaptive_avg_pool2d(values, size)
    return functional.interpolate(values, list(size), mode="bilinear", align_corners=False)
