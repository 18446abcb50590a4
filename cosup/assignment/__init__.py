"""Assigners: choose the teachers that annotate each sample of a level."""

from cosup.assignment.agreement import Agreement
from cosup.assignment.base import Assigner, available, to_weights
from cosup.assignment.baselines import LossOracle, Mean, Oracle, Random, Single
from cosup.assignment.block import Block
from cosup.assignment.confidence import Confidence
from cosup.assignment.crowd_kit import CrowdKit
from cosup.assignment.crowd_layer import CrowdLayer
from cosup.assignment.dawid_skene import DawidSkene
from cosup.assignment.fused import Fused
from cosup.assignment.gate import Gate
from cosup.assignment.raven import Raven
from cosup.settings.assigners import ASSIGNERS

__all__ = [
    "ASSIGNERS",
    "Agreement",
    "Assigner",
    "Block",
    "Confidence",
    "CrowdKit",
    "CrowdLayer",
    "DawidSkene",
    "Fused",
    "Gate",
    "LossOracle",
    "Mean",
    "Oracle",
    "Random",
    "Raven",
    "Single",
    "available",
    "to_weights",
]


def __dir__() -> list[str]:
    return __all__
