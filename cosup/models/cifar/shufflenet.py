"""ShuffleNet for CIFAR: Zhang et al., arXiv 1707.01083, section 3.2, with three groups (table 1:
240, 480 and 960 channels in 4, 8 and 4 units).

As in the distillation literature (Tian et al., arXiv 1910.10699) the stem is a 1x1 convolution that
keeps the 32 pixels, and a ReLU follows the depthwise convolution (the paper has none there).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosup.models.cifar.base import CifarNet

__all__ = ["cifar_shufflenet_v1"]

GROUPS = 3
WIDTHS = (24, 240, 480, 960)
UNITS = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """A bottleneck of grouped 1x1 convolutions with a shuffle of the channels between them.

    `halve`: at stride 2, the input joins averaged as further channels; else it is added.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.groups = 1 if inputs == WIDTHS[0] else GROUPS  # the first reads the stem's few
        made = outputs - inputs if halve else outputs
        middle = made // 4
        self.conv1 = nn.Conv2d(inputs, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        stride = 2 if halve else 1
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, made, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(made)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h, w], or half of it."""
        out = functional.channel_shuffle(self.bn1(self.conv1(x)).relu(), self.groups)
        out = self.bn2(self.conv2(out)).relu()
        out = self.bn3(self.conv3(out))
        if self.halve:
            return torch.cat([out, functional.avg_pool2d(x, 3, 2, padding=1)], 1).relu()
        added: Tensor = out + x
        return added.relu()


def cifar_shufflenet_v1(num_classes: int) -> CifarNet:
    """ShuffleNet of three groups: 0.95 million weights."""
    stem = nn.Sequential(
        nn.Conv2d(3, WIDTHS[0], kernel_size=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
    )
    stages = []
    for inputs, outputs, units in zip(WIDTHS, WIDTHS[1:], UNITS, strict=False):
        first = ShuffleUnit(inputs, outputs, halve=True)
        more = [ShuffleUnit(outputs, outputs, halve=False) for _ in range(units - 1)]
        stages.append(nn.Sequential(first, *more))
    return CifarNet(stem, stages, WIDTHS, (1, 2, 4, 8), num_classes)
