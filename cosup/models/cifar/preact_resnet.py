"""Residual networks with pre-activation for CIFAR: He et al., "Identity Mappings in Deep Residual
Networks", arXiv 1603.05027, section 4.1.

The four stages of ResNet-18 and -34, of 64 to 512 channels, at 32, 16, 8 and 4 pixels (no pooling
in the stem), as in the noisy-label literature. Where the size changes the shortcut is a 1x1
convolution of the activated input. The last map is activated before it is pooled, as in the paper.
"""

from torch import Tensor, nn

from cosup.models.cifar.base import CifarNet, conv3x3, he_normal

__all__ = ["cifar_preact_resnet18", "cifar_preact_resnet34"]

WIDTHS = (64, 64, 128, 256, 512)


class PreActBlock(nn.Module):
    """Batch norm and ReLU come before each of two 3x3 convolutions; nothing follows the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """f(active x) + x, or + shortcut(active x)."""
        active = self.bn1(x).relu()
        rest: Tensor = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(self.bn2(self.conv1(active)).relu())
        return out + rest


def _preact(blocks: tuple[int, int, int, int], num_classes: int) -> CifarNet:
    """blocks: how many each stage has."""
    stages = []
    strides = (1, 2, 2, 2)
    for inputs, outputs, stride, count in zip(WIDTHS, WIDTHS[1:], strides, blocks, strict=False):
        first = PreActBlock(inputs, outputs, stride)
        more = [PreActBlock(outputs, outputs, 1) for _ in range(count - 1)]
        stages.append(nn.Sequential(first, *more))
    final = nn.Sequential(nn.BatchNorm2d(WIDTHS[-1]), nn.ReLU())
    stem = conv3x3(3, WIDTHS[0])
    return he_normal(CifarNet(stem, stages, WIDTHS, (1, 1, 2, 4, 8), num_classes, final))


def cifar_preact_resnet18(num_classes: int) -> CifarNet:
    """PreAct-ResNet-18: 11.2 million weights."""
    return _preact((2, 2, 2, 2), num_classes)


def cifar_preact_resnet34(num_classes: int) -> CifarNet:
    """PreAct-ResNet-34: 21.3 million weights."""
    return _preact((3, 4, 6, 3), num_classes)
