"""VGG with batch norm for CIFAR: Simonyan and Zisserman, arXiv 1409.1556, table 1, without its
hidden linear layers, as in the distillation literature (Tian et al., arXiv 1910.10699).

Five groups of 3x3 convolutions, the first three followed by max pooling. At 32 pixels the last two
work at the same size; larger images (64) are pooled once more between them.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from cosup.models.cifar.base import CifarNet, conv3x3, he_normal

__all__ = ["cifar_vgg8", "cifar_vgg13"]

WIDTHS = (64, 128, 256, 512, 512)
LARGE = 8  # pixels: maps of this size and more are pooled before the last group


class PoolLarge(nn.Module):
    """Halves maps of `LARGE` pixels and more; smaller ones pass."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h // 2, w // 2] or as it was."""
        return functional.max_pool2d(x, 2) if min(x.shape[-2:]) >= LARGE else x


def _vgg(convolutions: Sequence[int], num_classes: int) -> CifarNet:
    """convolutions: how many each of the five groups has."""
    pools = (None, nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2), PoolLarge())
    groups = []
    before = 3
    for pool, width, count in zip(pools, WIDTHS, convolutions, strict=True):
        layers: list[nn.Module] = [] if pool is None else [pool]
        for inputs in (before, *[width] * (count - 1)):
            layers += [conv3x3(inputs, width, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
        groups.append(nn.Sequential(*layers))
        before = width
    return he_normal(CifarNet(groups[0], groups[1:], WIDTHS, (1, 2, 4, 8, 8), num_classes))


def cifar_vgg8(num_classes: int) -> CifarNet:
    """One convolution per group: 3.97 million weights."""
    return _vgg((1, 1, 1, 1, 1), num_classes)


def cifar_vgg13(num_classes: int) -> CifarNet:
    """Two convolutions per group (configuration B): 9.46 million weights."""
    return _vgg((2, 2, 2, 2, 2), num_classes)
