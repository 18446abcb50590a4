"""Confidence: keep what the assigned teachers are sure of. The usual filter of pseudo-labels, as
in Sohn et al., "FixMatch", arXiv 2001.07685, section 2 (their threshold: 0.95).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.consistency.base import Filter, Measures, assigned_labels, check_setting
from cosup.evidence import Evidence


@dataclass
class Confidence(Filter):
    """Keep annotations whose largest probability is high."""

    threshold: float = 0.5
    """Smallest largest probability that is kept (0: no threshold)."""
    keep_share: float | None = None
    """Keep at most this share of the answered samples, the most confident ones; null: no limit."""

    def __post_init__(self) -> None:
        inside = 0 <= self.threshold <= 1
        check_setting("threshold", self.threshold, inside, "in 0 .. 1")
        if self.keep_share is not None:
            inside = 0 < self.keep_share <= 1
            check_setting("keep_share", self.keep_share, inside, "above 0 and at most 1, or null")

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
