"""The small networks of the distillation and noisy-label literature on CIFAR, which timm lacks.

Each takes the number of classes; 0 leaves the classifier out.
"""

from collections.abc import Callable

from cosup.models.cifar.base import CifarNet
from cosup.models.cifar.preact_resnet import cifar_preact_resnet18, cifar_preact_resnet34
from cosup.models.cifar.resnet import (
    cifar_resnet8,
    cifar_resnet20,
    cifar_resnet32x4,
    cifar_resnet56,
)
from cosup.models.cifar.shufflenet import cifar_shufflenet_v1
from cosup.models.cifar.vgg import cifar_vgg8, cifar_vgg13

__all__ = ["CIFAR_NETWORKS", "CifarNet"]

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
}
