"""Local-global consistency: Liu and Alahi, "Co-Supervised Learning", arXiv 2402.15505, whose code
doesn't settle it. cosup's definition stands in METHODS.md section 1: the global student learns
from all kept samples, a local one from the samples of one teacher alone; an annotation is
rejected where the two disagree. Or else the label is compared with the coarser level's student.
"""

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
from cosup.evidence import Evidence
from cosup.settings.filters import LARGEST_DIVERGENCE, LocalGlobalSettings


@dataclass
class LocalGlobal(LocalGlobalSettings, Filter):
    """Keep annotations on which a narrower and a broader student agree."""

    def measure(self, evidence: Evidence, weights: Tensor) -> Measures:
        """`consistent` [n] bool; False where the assigned teachers abstain.

        A sample without a local student (its row of local_probs is all zero) is consistent.
        """
        labels, _ = assigned_labels(evidence, weights)
        if self.against == "coarser":
            coarse = required(evidence, "coarse_probs", "local_global")
            return {"consistent": within_top(coarse, labels, self.k)}
        local = required(evidence, "local_probs", "local_global")
        broad = required(evidence, "global_probs", "local_global")
        if self.divergence is None:
            agree = local.argmax(1) == broad.argmax(1)
        else:
            agree = jensen_shannon(local, broad) <= self.divergence
        return {"consistent": (agree | (local.sum(1) <= 0)) & (labels >= 0)}

    def decide(self, measures: Measures) -> Tensor:
        """keep [N] bool."""
        return measures["consistent"]


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence [N] in nats, in 0 .. ln 2, of probabilities [N, C]."""
    middle = (first + second) / 2
    # Where the middle is 0 so are both: xlogy(0, .) is 0, once 0 / 0 is out of the way.
    middle = torch.where(middle > 0, middle, 1)
    terms = torch.xlogy(first, first / middle) + torch.xlogy(second, second / middle)
    return (terms.sum(1) / 2).clamp(0, LARGEST_DIVERGENCE)
