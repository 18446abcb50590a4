"""The class means of features that prototypes start from (`cosup/METHODS.md`, section 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cosup.models.heads import HeadBank
from cosup.models.samples import chunks, hard_labels
from cosup.probabilities import ProbTable

__all__ = ["confident_counts", "most_confident", "move_prototypes", "use_class_means"]


@torch.no_grad()
def use_class_means(
    bank: HeadBank, features: Tensor, targets: ProbTable, members: Sequence[Tensor], share: float
) -> None:
    """Set prototypes to the mean unit feature of each class's most confident samples.

    features: [N, D]. targets: N rows. members: row indices of each head. share: as in
    `most_confident`. A class without annotated samples keeps its random direction.
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
        move_prototypes(bank, h, sums)


@torch.no_grad()
def move_prototypes(bank: HeadBank, head: int, sums: Tensor) -> None:
    """Set the prototypes of a head to the directions of sums of unit features [C, D]; those of a
    class without any stay."""
    found = sums.norm(dim=1) > 0
    bank.weight[head, found] = normalize(sums[found], dim=1)


def confident_counts(sizes: Tensor, share: float) -> Tensor:
    """Return how many samples of each class are used, of classes with so many: at least one."""
    return (sizes.double() * share - 1e-6).ceil().long().clamp_min(1)  # 0.07 of 100 is 7, not 8


def most_confident(labels: Tensor, confidence: Tensor, classes: int, share: float) -> Tensor:
    """Return a mask [n] of the most confident samples of each class.

    labels: [n] int64, -1 for abstentions, which are never selected. share: share of the samples of
    a class, at least one sample. Ties at the threshold are all selected, so hard annotations
    (confidence 1) always are.
    """
    order = confidence.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    order = order[labels[order] >= 0]
    sizes = torch.bincount(labels[order], minlength=classes)
    counts = confident_counts(sizes, share)
    last = sizes.cumsum(0) - sizes + counts - 1
    limit = torch.full((classes,), torch.inf, dtype=confidence.dtype)
    limit[sizes > 0] = confidence[order[last[sizes > 0]]]
    return (labels >= 0) & (confidence >= limit[labels.clamp_min(0)])
