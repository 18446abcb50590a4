"""Filters that judge each annotation by the evidence on its sample alone.

Confidence: the usual filter of pseudo-labels, as in Sohn et al., "FixMatch", arXiv 2001.07685,
section 2 (their threshold is 0.95).

Unanimity: as RAVEN (arXiv 2510.21332) in its first epochs; METHODS.md section 5. For teachers of
the same classes: class specialists never agree.

Given labels: the classification filter of Brodley and Friedl, "Identifying Mislabeled Training
Data", Journal of Artificial Intelligence Research 11, 1999, for settings in which the student
learns from labels beside its teachers; k above 1 is an extension.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.consistency.base import Filter, Measures, required, within_top
from cosup.consistency.ranking import Ranked, RankingFilter
from cosup.evidence import Assigned, Evidence
from cosup.settings.filters import (
    ConfidenceThresholdSettings,
    GivenLabelSettings,
    UnanimitySettings,
)


@dataclass
class ConfidenceThreshold(ConfidenceThresholdSettings, RankingFilter):
    """Keep annotations whose largest probability is high."""

    def measure(self, evidence: Evidence, assigned: Assigned) -> Measures:
        """Return `confidence`: the largest probability of the annotation, 0 if it abstains."""
        return {"confidence": assigned.confidence}

    def decide(self, measures: Measures) -> Tensor:
        """Return keep [N] bool; of equal confidences, earlier samples are kept."""
        if self.needs_all:
            return super().decide(measures)
        confidence = measures["confidence"]
        return (confidence > 0) & (confidence >= self.threshold)

    def ranked(self, measures: Measures) -> Ranked:
        """Rank the annotations by their confidence."""
        confidence = measures["confidence"]
        return Ranked(-confidence, (confidence > 0).long() - 1)

    def totals(self, measures: Measures) -> Tensor:
        """Return the number of annotations."""
        return (measures["confidence"] > 0).sum()[None]

    def quotas(self, totals: Tensor) -> Tensor:
        """Return how many are kept at most."""
        share = 1.0 if self.keep_share is None else self.keep_share
        return torch.tensor([math.ceil(share * int(totals[0]))], device=totals.device)

    def keep_first(self, measures: Measures, first: Tensor) -> Tensor:
        """Return keep [n] bool: those above the threshold."""
        return first & (measures["confidence"] >= self.threshold)


ROUNDING = 1e-6


@dataclass
class Unanimity(UnanimitySettings, Filter):
    """Keep annotations whose class is also that of the level's other answering teachers."""

    def measure(self, evidence: Evidence, assigned: Assigned) -> Measures:
        """Return `agreeing`: the share of answering teachers that give the annotated class."""
        labels = assigned.labels
        answers = evidence.annotations.sum(2) > 0
        votes = ((evidence.annotations.argmax(2) == labels[:, None]) & answers).sum(1)
        return {"agreeing": votes / answers.sum(1).clamp_min(1)}

    def decide(self, measures: Measures) -> Tensor:
        """Return keep [N] bool; False where no teacher gives the class (all abstain)."""
        agreeing = measures["agreeing"]
        return (agreeing > 0) & (agreeing >= self.share - ROUNDING)


@dataclass
class GivenLabel(GivenLabelSettings, Filter):
    """Keep samples whose given label is among the assigned annotation's most probable classes."""

    def measure(self, evidence: Evidence, assigned: Assigned) -> Measures:
        """Return `agrees`: 1 where the label is in the annotation's top k or unknown; else 0."""
        labels = required(evidence, "labels", "given_label")
        agrees = within_top(assigned.targets, labels, self.k) | (labels < 0)
        return {"agrees": (agrees & (assigned.targets.sum(1) > 0)).float()}

    def decide(self, measures: Measures) -> Tensor:
        """Return keep [N] bool."""
        return measures["agrees"] > 0
