"""Losses of the student against the assigned annotations."""

from cosup.losses.adaptive_confidence import AdaptiveConfidence
from cosup.losses.augmented_confidence import AugmentedConfidence
from cosup.losses.base import Loss, Metrics, Objective, build_loss, compute_loss
from cosup.losses.bkd import BinaryDistillation
from cosup.losses.cross_entropy import CrossEntropy
from cosup.losses.distillation import Distillation
from cosup.losses.dkd import DecoupledDistillation
from cosup.losses.evidential import Evidential
from cosup.losses.features import Connector, FeatureLoss
from cosup.losses.fitnet import FitNet
from cosup.losses.product import Product
from cosup.losses.reverse_cross_entropy import ReverseCrossEntropy
from cosup.losses.reviewkd import KnowledgeReview
from cosup.losses.rkd import RelationalDistillation
from cosup.protocols import FeatureShapes, NetworkOutput
from cosup.settings.losses import LOSSES

__all__ = [
    "LOSSES",
    "AdaptiveConfidence",
    "AugmentedConfidence",
    "BinaryDistillation",
    "Connector",
    "CrossEntropy",
    "DecoupledDistillation",
    "Distillation",
    "Evidential",
    "FeatureLoss",
    "FeatureShapes",
    "FitNet",
    "KnowledgeReview",
    "Loss",
    "Metrics",
    "NetworkOutput",
    "Objective",
    "Product",
    "RelationalDistillation",
    "ReverseCrossEntropy",
    "build_loss",
    "compute_loss",
]


def __dir__() -> list[str]:
    return __all__
