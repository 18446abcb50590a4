"""Samples whose given label is also that of their neighbours: the selection of Sel-CL.

Li et al., "Selective-Supervised Contrastive Learning with Noisy Labels", arXiv 2203.04181, section
3.2, as in its code (github.com/ShikunLi/Sel-CL), which Guo et al. (arXiv 2402.03749) build on:

1. Every sample gets the most frequent label of its k nearest neighbours by cosine (not its own).
2. The confidence of a given label is its share among these new labels of the k neighbours, clamped
   to 0.01 .. 0.99. A label is clean if it is the most frequent one there.
3. Each given class keeps as many samples as a quantile of the numbers of clean ones over the
   classes says, those of the highest confidence.

There the features are the 128 numbers of a contrastive head; here they are the backbone's. Of equal
cosines, confidences and frequencies the first sample and the first class count.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.consistency.base import Measures, required
from cosup.consistency.ranking import Ranked, RankingFilter
from cosup.evidence import Assigned, Evidence
from cosup.nearest import nearest_among
from cosup.settings.filters import NeighboursSettings

__all__ = ["Neighbours", "clean_samples", "confirmed", "most_frequent"]

LEAST = 0.01
"""Confidences are clamped to this, and to 1 minus this."""
MAX_ELEMENTS = 2**25
"""Labels of neighbours that are counted at a time."""


@dataclass
class Neighbours(NeighboursSettings, RankingFilter):
    """Keep samples whose given label is confirmed by their neighbours in the student's features.

    It ranks by what `judged` adds to the measures: `sure` [N] float32, the confidence of the given
    label, and `clean` [N] bool.
    """

    def measure(self, evidence: Evidence, assigned: Assigned) -> Measures:
        """Return `features` [n, D], `labels` [n] (-1 without one), and `answered` [n]: whether
        there is an annotation."""
        return {
            "features": required(evidence, "features", "neighbours"),
            "labels": required(evidence, "labels", "neighbours"),
            "answered": assigned.labels >= 0,
        }

    def decide(self, measures: Measures) -> Tensor:
        """Return keep [N] bool."""
        return super().decide(self.judged(measures))

    def judged(self, measures: Measures) -> Measures:
        """Return the measures of all samples with `sure` and `clean`, without their features."""
        features, labels = measures["features"], measures["labels"]
        rows = (labels >= 0).nonzero()[:, 0]
        sure = torch.zeros(len(labels))
        clean = torch.zeros(len(labels), dtype=torch.bool)
        if len(rows) < 2:  # nobody confirms a label, so none is judged
            labels = torch.full_like(labels, -1)
        else:
            given = labels[rows]
            near = nearest_among(features[rows], min(self.k, len(rows) - 1))
            parts = torch.split(near, max(1, MAX_ELEMENTS // near.shape[1]))
            corrected = torch.cat([most_frequent(given[part.long()]) for part in parts])
            start = 0
            for part in parts:
                own = rows[start : start + len(part)]
                sure[own], clean[own] = confirmed(labels[own], corrected[part.long()])
                start += len(part)
        return {"labels": labels, "answered": measures["answered"], "sure": sure, "clean": clean}

    def ranked(self, measures: Measures) -> Ranked:
        """Return the confidences within given classes, the greatest first."""
        return Ranked(-measures["sure"], measures["labels"])

    def totals(self, measures: Measures) -> Tensor:
        """Return of each given class the number of samples, and that of clean ones [2 * C]."""
        labels, clean = measures["labels"], measures["clean"]
        known = labels >= 0
        classes = int(labels.max()) + 1 if len(labels) else 0
        every = torch.bincount(labels[known], minlength=classes)
        confirmed = torch.bincount(labels[known & clean], minlength=classes)
        return torch.stack([every, confirmed], dim=1).flatten()

    def quotas(self, totals: Tensor) -> Tensor:
        """Return for each class the quantile of the numbers of clean samples over the classes that
        are given; 0.5 is the lower median."""
        every, confirmed = totals.view(-1, 2).T
        numbers = confirmed[every > 0]
        if not len(numbers):
            return torch.zeros(0, dtype=torch.int64)
        if self.quantile == 0.5:
            most = int(numbers.median())
        else:
            most = int(torch.quantile(numbers.double(), self.quantile))
        return torch.full((len(every),), most)

    def keep_first(self, measures: Measures, first: Tensor) -> Tensor:
        """Return those within the quotas, and those without a label, which cannot be judged."""
        return (first | (measures["labels"] < 0)) & measures["answered"]


def clean_samples(features: Tensor, labels: Tensor, k: int, quantile: float) -> Tensor:
    """Return [N] bool: the samples whose labels are selected.

    features: [N, D]. labels: [N] int64; a sample without one (-1) votes for nothing, and is kept,
    as it cannot be judged. k: neighbours, at most N - 1. quantile: of the numbers of clean samples
    over the given classes; 0.5 is the lower median.
    """
    answered = torch.ones(len(labels), dtype=torch.bool)
    measures = {"features": features, "labels": labels, "answered": answered}
    return Neighbours(k, quantile).decide(measures)


def most_frequent(votes: Tensor) -> Tensor:
    """Return the most frequent class [n] of votes [n, k]; the first of equal ones."""
    return _counts(votes).argmax(1)


def confirmed(labels: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of each label [n] among its votes [n, k], clamped, and whether it is their
    most frequent class [n] bool."""
    own = (votes == labels[:, None]).sum(1)
    sure = (own / votes.shape[1]).clamp(LEAST, 1 - LEAST)
    return sure, most_frequent(votes) == labels


def _counts(votes: Tensor) -> Tensor:
    """Return how many of the votes [n, k] each class has: [n, C]."""
    counts = torch.zeros(len(votes), int(votes.max()) + 1 if votes.numel() else 1)
    return counts.scatter_add_(1, votes, torch.ones(votes.shape))
