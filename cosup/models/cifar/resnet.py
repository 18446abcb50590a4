"""Residual networks for CIFAR: He et al., "Deep Residual Learning for Image Recognition", arXiv
1512.03385, section 4.2.

Three stages of basic blocks at 32, 16 and 8 pixels; depth 6 n + 2. Where the width changes the
shortcut is a 1x1 convolution with batch norm (option B), as in the distillation literature (Tian et
al., arXiv 1910.10699), whose resnet32x4 has four times the width (and twice that of the stem).
"""

from torch import Tensor, nn

from cosup.models.cifar.base import CifarNet, conv3x3, he_normal

__all__ = ["cifar_resnet8", "cifar_resnet20", "cifar_resnet32x4", "cifar_resnet56"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, C, h, w] -> [B, C', h / stride, w / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """relu(f(x) + shortcut(x))."""
        out = self.bn1(self.conv1(x)).relu()
        added: Tensor = self.bn2(self.conv2(out)) + self.shortcut(x)
        return added.relu()


def _resnet(depth: int, widths: tuple[int, int, int, int], num_classes: int) -> CifarNet:
    """widths: of the stem and the three stages."""
    assert (depth - 2) % 6 == 0, depth
    stem = nn.Sequential(conv3x3(3, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU())
    stages = []
    for inputs, outputs, stride in zip(widths, widths[1:], (1, 2, 2), strict=False):
        first = BasicBlock(inputs, outputs, stride)
        more = [BasicBlock(outputs, outputs, 1) for _ in range((depth - 2) // 6 - 1)]
        stages.append(nn.Sequential(first, *more))
    return he_normal(CifarNet(stem, stages, widths, (1, 1, 2, 4), num_classes))


def cifar_resnet8(num_classes: int) -> CifarNet:
    """ResNet-8: 0.08 million weights."""
    return _resnet(8, (16, 16, 32, 64), num_classes)


def cifar_resnet20(num_classes: int) -> CifarNet:
    """ResNet-20: 0.28 million weights."""
    return _resnet(20, (16, 16, 32, 64), num_classes)


def cifar_resnet56(num_classes: int) -> CifarNet:
    """ResNet-56: 0.86 million weights."""
    return _resnet(56, (16, 16, 32, 64), num_classes)


def cifar_resnet32x4(num_classes: int) -> CifarNet:
    """ResNet-32 of four times the width: 7.43 million weights."""
    return _resnet(32, (32, 64, 128, 256), num_classes)
