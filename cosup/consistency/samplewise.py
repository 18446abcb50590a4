"""Confidence: keep what the assigned teachers are sure of. The usual filter of pseudo-labels, as
in Sohn et al., "FixMatch", arXiv 2001.07685, section 2 (their threshold: 0.95).

Unanimity: keep what the teachers agree on, as RAVEN (arXiv 2510.21332) does in its first epochs.

For teachers that answer on the same classes; disjoint class specialists never agree.

Given labels: keep samples whose label, which may be wrong, is what their teacher says too.

The classification filter of Brodley and Friedl, "Identifying Mislabeled Training Data" (Journal of
Artificial Intelligence Research 11, 1999), for settings in which the student learns from labels
beside its teachers; k above 1 is ours.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.consistency.base import (
    Filter,
    Measures,
    assigned_labels,
    required,
    within_top,
)
from cosup.evidence import Evidence, mix
from cosup.settings.filters import (
    ConfidenceThresholdSettings,
    GivenLabelSettings,
    UnanimitySettings,
)


@dataclass
class ConfidenceThreshold(ConfidenceThresholdSettings, Filter):
    """Keep annotations whose largest probability is high."""

    def measure(self, evidence: Evidence, weights: Tensor) -> Measures:
        """`confidence`: the assigned annotation's largest probability, 0 where abstained."""
        return {"confidence": assigned_labels(evidence, weights)[1]}

    def decide(self, measures: Measures) -> Tensor:
        """keep [N] bool; of equal confidences, those of earlier samples are kept."""
        confidence = measures["confidence"]
        answered = confidence > 0
        keep = answered & (confidence >= self.threshold)
        if self.keep_share is None:
            return keep
        limit = math.ceil(self.keep_share * int(answered.sum()))
        most = torch.zeros_like(keep)
        most[confidence.argsort(descending=True, stable=True)[:limit]] = True
        return keep & most


ROUNDING = 1e-6


@dataclass
class Unanimity(UnanimitySettings, Filter):
    """Keep annotations whose class is also that of the level's other answering teachers."""

    def measure(self, evidence: Evidence, weights: Tensor) -> Measures:
        """`agreeing`: the share of answering teachers that name the assigned class."""
        labels, _ = assigned_labels(evidence, weights)
        answers = evidence.annotations.sum(2) > 0
        votes = ((evidence.annotations.argmax(2) == labels[:, None]) & answers).sum(1)
        return {"agreeing": votes / answers.sum(1).clamp_min(1)}

    def decide(self, measures: Measures) -> Tensor:
        """keep [N] bool; never where nobody names the class (all abstain)."""
        agreeing = measures["agreeing"]
        return (agreeing > 0) & (agreeing >= self.share - ROUNDING)


@dataclass
class GivenLabel(GivenLabelSettings, Filter):
    """Keep samples whose given label is among the assigned annotation's most probable classes."""

    def measure(self, evidence: Evidence, weights: Tensor) -> Measures:
        """`agrees`: 1 where the label is within the annotation's top k, or not known; else 0."""
        labels = required(evidence, "labels", "given_label")
        mixed = mix(evidence.annotations, weights)
        agrees = within_top(mixed, labels, self.k) | (labels < 0)
        return {"agrees": (agrees & (mixed.sum(1) > 0)).float()}

    def decide(self, measures: Measures) -> Tensor:
        """keep [N] bool."""
        return measures["agrees"] > 0
