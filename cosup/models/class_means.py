"""Prototypes from annotations: a class starts at the mean feature of those it is surest of."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cosup.models.heads import HeadBank
from cosup.models.samples import chunks, hard_labels
from cosup.probabilities import ProbTable

__all__ = ["most_confident", "use_class_means"]


@torch.no_grad()
def use_class_means(
    bank: HeadBank, features: Tensor, targets: ProbTable, members: Sequence[Tensor], share: float
) -> None:
    """Set each head's prototypes to the mean unit feature of their class's most confident samples.

    features: [N, D]; targets: N rows; members: the rows of each head; share: as of
    `most_confident`. A class that no sample is annotated with keeps its random direction.
    """
    labels, (_, confidence) = hard_labels(targets), targets.top()
    for h, rows in enumerate(members):
        chosen = rows[most_confident(labels[rows], confidence[rows], bank.num_classes, share)]
        sums = torch.zeros(bank.num_classes, bank.num_features)
        for chunk in chunks(chosen):
            part = features[chunk].to(torch.float32)
            if bank.shift is not None and bank.gain is not None:
                part = (part - bank.shift[h]) * bank.gain[h]
            sums.index_add_(0, labels[chunk], normalize(part, dim=1))
        found = sums.norm(dim=1) > 0
        bank.weight[h, found] = normalize(sums[found], dim=1)


def most_confident(labels: Tensor, confidence: Tensor, classes: int, share: float) -> Tensor:
    """[n] bool: the samples that are among this share of their class's most confident ones.

    labels: [n] int64, -1 for abstentions, which are not. Every class keeps one sample at least; of
    equals at the limit all are kept, so hard annotations (all of confidence 1) all are.
    """
    order = confidence.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    order = order[labels[order] >= 0]
    sizes = torch.bincount(labels[order], minlength=classes)
    counts = (sizes.double() * share - 1e-6).ceil().long().clamp_min(1)  # 0.07 of 100 is 7, not 8
    last = sizes.cumsum(0) - sizes + counts - 1
    limit = torch.full((classes,), torch.inf, dtype=confidence.dtype)
    limit[sizes > 0] = confidence[order[last[sizes > 0]]]
    return (labels >= 0) & (confidence >= limit[labels.clamp_min(0)])
