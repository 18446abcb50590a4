"""Networks of the few-shot literature for images of 84 pixels, which timm lacks.

ResNet-12 as in Chen et al., "Meta-Baseline", arXiv 2003.04390 (section 4.1; github.com/yinboc/
few-shot-meta-baseline): four stages with 64 to 512 channels, each a block of three 3x3 convolutions
with a 1x1 convolution as its shortcut, followed by max pooling; LeakyReLU of 0.1. ResNet-18 and -36
are those of Guo et al., arXiv 2402.03749: 1, 2, 2, 1 and 2, 3, 5, 2 of these blocks, the further
ones of a stage with the identity as shortcut and without pooling.
"""

from collections.abc import Callable

from torch import Tensor, nn

from cosup.models.cifar_base import CifarNet, conv3x3, he_normal

__all__ = ["FEW_SHOT_NETWORKS"]

WIDTHS = (64, 128, 256, 512)
SLOPE = 0.1


class ThreeConvolutions(nn.Module):
    """Three 3x3 convolutions and a shortcut: [B, C, h, w] -> [B, C', h, w], or half the size.

    first: of a stage: the shortcut is a convolution, and the result is pooled.
    """

    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        self.relu = nn.LeakyReLU(SLOPE)
        self.conv1 = conv3x3(inputs, outputs)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv3 = conv3x3(outputs, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        self.maxpool: nn.Module = nn.Identity()
        if first:
            shortcut = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
            self.maxpool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled and activated f(x) + shortcut(x)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + self.downsample(x)
        pooled: Tensor = self.maxpool(self.relu(out))
        return pooled


def _resnet(blocks: tuple[int, int, int, int], num_classes: int) -> CifarNet:
    """Build a network; blocks: number of blocks of each stage. Its first stage is the stem."""
    stages, before = [], 3
    for width, count in zip(WIDTHS, blocks, strict=True):
        more = [ThreeConvolutions(width, width, first=False) for _ in range(count - 1)]
        stages.append(nn.Sequential(ThreeConvolutions(before, width, first=True), *more))
        before = width
    return he_normal(CifarNet(stages[0], stages[1:], WIDTHS, (2, 4, 8, 16), num_classes))


def few_shot_resnet12(num_classes: int) -> CifarNet:
    """ResNet-12: 8.0 million weights."""
    return _resnet((1, 1, 1, 1), num_classes)


def few_shot_resnet18(num_classes: int) -> CifarNet:
    """ResNet-18 of the same blocks: 10.2 million weights."""
    return _resnet((1, 2, 2, 1), num_classes)


def few_shot_resnet36(num_classes: int) -> CifarNet:
    """ResNet-36 of the same blocks: 23.6 million weights."""
    return _resnet((2, 3, 5, 2), num_classes)


FEW_SHOT_NETWORKS: dict[str, Callable[[int], CifarNet]] = {
    "few_shot_resnet12": few_shot_resnet12,
    "few_shot_resnet18": few_shot_resnet18,
    "few_shot_resnet36": few_shot_resnet36,
}
