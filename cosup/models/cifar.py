"""Small networks for CIFAR of the distillation and noisy-label literature, which timm lacks.

Each takes the number of classes; 0 leaves the classifier out.

- ResNet: He et al., arXiv 1512.03385, section 4.2. Three stages of basic blocks at 32, 16 and 8
  pixels, depth 6 n + 2. Shortcuts that change the width are 1x1 convolutions with batch norm
  (option B), as in Tian et al., arXiv 1910.10699, whose resnet32x4 has four times the width (and
  twice that of the stem).
- PreAct-ResNet: He et al., arXiv 1603.05027, section 4.1. The four stages of ResNet-18 and -34 with
  64 to 512 channels, at 32, 16, 8 and 4 pixels (no pooling in the stem), as in the noisy-label
  literature. Shortcuts that change the size are 1x1 convolutions of the activated input. The last
  map is activated before pooling, as in the paper.
- Sel-CL's PreAct-ResNets (github.com/ShikunLi/Sel-CL), whose files are to be read: the same blocks,
  but batch norm and ReLU in the stem, and none before pooling.
- ShuffleNet: Zhang et al., arXiv 1707.01083, section 3.2, with three groups (table 1: 240, 480 and
  960 channels in 4, 8 and 4 units). As in Tian et al., the stem is a 1x1 convolution that keeps the
  32 pixels, and a ReLU follows the depthwise convolution (the paper has none).
- VGG with batch norm: Simonyan and Zisserman, arXiv 1409.1556, table 1, without hidden linear
  layers, as in Tian et al. Five groups of 3x3 convolutions, the first three followed by max
  pooling. At 32 pixels the last two groups have the same size; larger images (64) are pooled once
  more between them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosup.models.cifar_base import CifarNet, conv3x3, he_normal

__all__ = [
    "CIFAR_NETWORKS",
    "CifarNet",
    "cifar_preact_resnet18",
    "cifar_preact_resnet34",
    "cifar_resnet8",
    "cifar_resnet20",
    "cifar_resnet32x4",
    "cifar_resnet56",
    "cifar_selcl_resnet18",
    "cifar_selcl_resnet34",
    "cifar_shufflenet_v1",
    "cifar_vgg8",
    "cifar_vgg13",
]


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
        """Return relu(f(x) + shortcut(x))."""
        out = self.bn1(self.conv1(x)).relu()
        added: Tensor = self.bn2(self.conv2(out)) + self.shortcut(x)
        return added.relu()


def _resnet(depth: int, widths: tuple[int, int, int, int], num_classes: int) -> CifarNet:
    """Build a ResNet; widths: channels of the stem and the three stages."""
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


PREACT_WIDTHS = (64, 64, 128, 256, 512)


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions, and a sum without activation."""

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
        """Return f(a) + x, or f(a) + shortcut(a), with a the activated input."""
        active = self.bn1(x).relu()
        rest: Tensor = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(self.bn2(self.conv1(active)).relu())
        return out + rest


def _preact(
    blocks: tuple[int, int, int, int], num_classes: int, norm_first: bool = False
) -> CifarNet:
    """Build a PreAct-ResNet; blocks: number of blocks of each stage. norm_first: batch norm and
    ReLU are in the stem, and not before pooling."""
    stages = []
    strides = (1, 2, 2, 2)
    for inputs, outputs, stride, count in zip(
        PREACT_WIDTHS, PREACT_WIDTHS[1:], strides, blocks, strict=False
    ):
        first = PreActBlock(inputs, outputs, stride)
        more = [PreActBlock(outputs, outputs, 1) for _ in range(count - 1)]
        stages.append(nn.Sequential(first, *more))
    stem: nn.Module = conv3x3(3, PREACT_WIDTHS[0])
    final: nn.Module | None = nn.Sequential(nn.BatchNorm2d(PREACT_WIDTHS[-1]), nn.ReLU())
    if norm_first:
        stem, final = nn.Sequential(stem, nn.BatchNorm2d(PREACT_WIDTHS[0]), nn.ReLU()), None
    return he_normal(CifarNet(stem, stages, PREACT_WIDTHS, (1, 1, 2, 4, 8), num_classes, final))


def cifar_preact_resnet18(num_classes: int) -> CifarNet:
    """PreAct-ResNet-18: 11.2 million weights."""
    return _preact((2, 2, 2, 2), num_classes)


def cifar_preact_resnet34(num_classes: int) -> CifarNet:
    """PreAct-ResNet-34: 21.3 million weights."""
    return _preact((3, 4, 6, 3), num_classes)


def cifar_selcl_resnet18(num_classes: int) -> CifarNet:
    """Sel-CL's PreAct-ResNet-18: 11.2 million weights."""
    return _preact((2, 2, 2, 2), num_classes, norm_first=True)


def cifar_selcl_resnet34(num_classes: int) -> CifarNet:
    """Sel-CL's PreAct-ResNet-34: 21.3 million weights."""
    return _preact((3, 4, 6, 3), num_classes, norm_first=True)


GROUPS = 3
SHUFFLE_WIDTHS = (24, 240, 480, 960)
UNITS = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """A bottleneck of grouped 1x1 convolutions with a shuffle of the channels between them.

    `halve`: at stride 2, the input joins averaged as further channels; else it is added.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.groups = 1 if inputs == SHUFFLE_WIDTHS[0] else GROUPS  # the first reads the stem's few
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
        """Map [B, inputs, h, w] to [B, outputs, h, w], or to half the size."""
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
        nn.Conv2d(3, SHUFFLE_WIDTHS[0], kernel_size=1, bias=False),
        nn.BatchNorm2d(SHUFFLE_WIDTHS[0]),
        nn.ReLU(),
    )
    stages = []
    for inputs, outputs, units in zip(SHUFFLE_WIDTHS, SHUFFLE_WIDTHS[1:], UNITS, strict=False):
        first = ShuffleUnit(inputs, outputs, halve=True)
        more = [ShuffleUnit(outputs, outputs, halve=False) for _ in range(units - 1)]
        stages.append(nn.Sequential(first, *more))
    return CifarNet(stem, stages, SHUFFLE_WIDTHS, (1, 2, 4, 8), num_classes)


VGG_WIDTHS = (64, 128, 256, 512, 512)
LARGE = 8  # pixels: maps of this size and more are pooled before the last group


class PoolLarge(nn.Module):
    """Max pooling of maps of at least `LARGE` pixels; smaller maps are unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, C, h // 2, w // 2], or return it unchanged."""
        return functional.max_pool2d(x, 2) if min(x.shape[-2:]) >= LARGE else x


def _vgg(convolutions: Sequence[int], num_classes: int) -> CifarNet:
    """Build a VGG; convolutions: number of convolutions of each of the five groups."""
    pools = (None, nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2), PoolLarge())
    groups = []
    before = 3
    for pool, width, count in zip(pools, VGG_WIDTHS, convolutions, strict=True):
        layers: list[nn.Module] = [] if pool is None else [pool]
        for inputs in (before, *[width] * (count - 1)):
            layers += [conv3x3(inputs, width, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
        groups.append(nn.Sequential(*layers))
        before = width
    return he_normal(CifarNet(groups[0], groups[1:], VGG_WIDTHS, (1, 2, 4, 8, 8), num_classes))


def cifar_vgg8(num_classes: int) -> CifarNet:
    """One convolution per group: 3.97 million weights."""
    return _vgg((1, 1, 1, 1, 1), num_classes)


def cifar_vgg13(num_classes: int) -> CifarNet:
    """Two convolutions per group (configuration B): 9.46 million weights."""
    return _vgg((2, 2, 2, 2, 2), num_classes)


CIFAR_NETWORKS: dict[str, Callable[[int], CifarNet]] = {
    "cifar_resnet8": cifar_resnet8,
    "cifar_resnet20": cifar_resnet20,
    "cifar_resnet32x4": cifar_resnet32x4,
    "cifar_resnet56": cifar_resnet56,
    "cifar_vgg8": cifar_vgg8,
    "cifar_vgg13": cifar_vgg13,
    "cifar_shufflenet_v1": cifar_shufflenet_v1,
    "cifar_preact_resnet18": cifar_preact_resnet18,
    "cifar_preact_resnet34": cifar_preact_resnet34,
    "cifar_selcl_resnet18": cifar_selcl_resnet18,
    "cifar_selcl_resnet34": cifar_selcl_resnet34,
}
