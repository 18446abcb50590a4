"""Samples whose given label is also that of their neighbours: the selection of Sel-CL.

Li et al., "Selective-Supervised Contrastive Learning with Noisy Labels", arXiv 2203.04181, section
3.2, as in its code (github.com/ShikunLi/Sel-CL), which Guo et al. (arXiv 2402.03749) build on:

1. Every sample gets the most frequent label of its k nearest neighbours by cosine (not its own).
2. The confidence of a given label is its share among these new labels of the k neighbours, clamped
   to 0.01 .. 0.99. A label is clean if it is the most frequent one there.
3. Each given class keeps as many samples as a quantile of the numbers of clean ones over the
   classes says, those of the highest confidence.

There the features are the 128 numbers of a contrastive head; here they are the backbone's. Of equal
confidences and frequencies the first sample and the first class count.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cosup.consistency.base import Filter, Measures, required
from cosup.evidence import Assigned, Evidence
from cosup.settings.filters import NeighboursSettings

__all__ = ["Neighbours", "clean_samples"]

LEAST = 0.01
"""Confidences are clamped to this, and to 1 minus this."""
MAX_ELEMENTS = 2**25
"""Cosines [n, N] computed at a time: 128 MiB in float32."""


@dataclass
class Neighbours(NeighboursSettings, Filter):
    """Keep samples whose given label is confirmed by their neighbours in the student's features."""

    def measure(self, evidence: Evidence, assigned: Assigned) -> Measures:
        """Return `features` [n, D], `labels` [n], and `answered` [n]: whether there is an
        annotation."""
        return {
            "features": required(evidence, "features", "neighbours"),
            "labels": required(evidence, "labels", "neighbours"),
            "answered": assigned.labels >= 0,
        }

    def decide(self, measures: Measures) -> Tensor:
        """Return keep [N] bool."""
        clean = clean_samples(measures["features"], measures["labels"], self.k, self.quantile)
        return clean & measures["answered"]


def clean_samples(features: Tensor, labels: Tensor, k: int, quantile: float) -> Tensor:
    """Return [N] bool: the samples whose labels are selected.

    features: [N, D]. labels: [N] int64; a sample without one (-1) votes for nothing, and is kept,
    as it cannot be judged. k: neighbours, at most N - 1. quantile: of the numbers of clean samples
    over the given classes; 0.5 is the lower median.
    """
    known = labels >= 0
    rows = known.nonzero()[:, 0]
    if len(rows) < 2:
        return torch.ones_like(known)
    given, classes = labels[rows], int(labels.max()) + 1
    near = _neighbours(features[rows], min(k, len(rows) - 1))
    corrected = torch.cat([_counts(given[part], classes).argmax(1) for part in _parts(near)])
    confidence, clean = [], []
    for part, own in zip(_parts(near), _parts(given[:, None], len(near[0])), strict=True):
        counts = _counts(corrected[part], classes)
        confidence.append(counts.gather(1, own)[:, 0] / part.shape[1])
        clean.append(counts.argmax(1) == own[:, 0])
    sure = torch.cat(confidence).clamp(LEAST, 1 - LEAST)
    kept = torch.ones_like(known)
    kept[rows] = _most_confident(sure, torch.cat(clean), given, quantile)
    return kept


def _most_confident(sure: Tensor, clean: Tensor, given: Tensor, quantile: float) -> Tensor:
    """Return [N] bool: of each class so many samples as the quantile says, the most confident."""
    present = torch.unique(given)
    numbers = torch.tensor([int(clean[given == one].sum()) for one in present])
    if quantile == 0.5:
        most = int(numbers.median())
    else:
        most = int(torch.quantile(numbers.double(), quantile))
    kept = torch.zeros_like(clean)
    for one in present:
        own = (given == one).nonzero()[:, 0]
        kept[own[torch.argsort(-sure[own], stable=True)[:most]]] = True
    return kept


def _neighbours(features: Tensor, k: int) -> Tensor:
    """Return the k nearest others [N, k] int32 by cosine of features [N, D]."""
    whole = normalize(features.float(), dim=1)
    step, found = max(1, MAX_ELEMENTS // len(whole)), []
    for start in range(0, len(whole), step):
        cosines = whole[start : start + step] @ whole.T
        own = torch.arange(len(cosines))
        cosines[own, own + start] = -torch.inf
        found.append(cosines.topk(k, dim=1).indices.int())
    return torch.cat(found)


def _parts(values: Tensor, width: int | None = None) -> Iterator[Tensor]:
    """Yield rows in parts of equal length for all values [N, ...] of one N and width."""
    step = max(1, MAX_ELEMENTS // (values.shape[1] if width is None else width))
    for start in range(0, len(values), step):
        yield values[start : start + step].long()


def _counts(votes: Tensor, classes: int) -> Tensor:
    """Return how many of the votes [n, k] each class has: [n, C]."""
    counts = torch.zeros(len(votes), classes)
    return counts.scatter_add_(1, votes, torch.ones(votes.shape))
