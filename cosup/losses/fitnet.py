"""FitNets: regression of a feature map of the teacher.

Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv 1412.6550, section 2.2, equation 3.

    L = weight * mean over channels and positions of (teacher's hint - r(student's map))^2

with r a regressor from the student's channels and size to the teacher's. As in later comparisons
(Tian et al., arXiv 1910.10699, whose regressor this follows), hints and labels are learned in one
stage. r ends with batch norm but no ReLU, since the maps of many networks have negative values.
"""

from dataclasses import dataclass

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
        ends = (self._stage(student, teacher, student), self._stage(student, teacher, teacher))
        return HintRegressor(self.weight, *ends, student.maps[ends[0]], teacher.maps[ends[1]])

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
