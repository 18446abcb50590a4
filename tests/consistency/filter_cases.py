"""Small seeded evidence for the tests of filters, and plain-Python oracles."""

from typing import Any

import torch
from torch import Tensor

from cosup.consistency import Chain, Filter
from cosup.evidence import Assigned, Evidence


def evidence(seed: int, size: int, teachers: int = 3, classes: int = 4) -> tuple[Evidence, Tensor]:
    """Random probabilities, about one annotation in six an abstention, and hard or soft weights."""
    generator = torch.Generator().manual_seed(seed)

    def probs(*shape: int) -> Tensor:
        return (2 * torch.randn(*shape, classes, generator=generator)).softmax(-1)

    annotations = probs(size, teachers)
    annotations[torch.rand(size, teachers, generator=generator) < 1 / 6] = 0
    weights = torch.rand(size, teachers, generator=generator)
    if seed % 2:
        weights = torch.eye(teachers)[weights.argmax(1)]
    weights = weights / weights.sum(1, keepdim=True)
    found = Evidence(
        probs(size),
        annotations,
        coarse_probs=probs(size),
        global_probs=probs(size),
        local_probs=probs(size),
        labels=torch.randint(-1, classes, (size,), generator=generator),
        features=torch.randn(size, 5, generator=generator),
    )
    return found, weights


def labels_of(found: Evidence, weights: Tensor) -> list[int | None]:
    """The assigned annotation's class per sample, summed up one product at a time."""
    labels: list[int | None] = []
    for rows, row_weights in zip(found.annotations.tolist(), weights.tolist(), strict=True):
        mixed = [
            sum(w * p for w, p in zip(row_weights, column, strict=True))
            for column in zip(*rows, strict=True)
        ]
        labels.append(mixed.index(max(mixed)) if max(mixed) > 0 else None)
    return labels


def rows_of(found: Evidence, weights: Tensor, order: list[int]) -> tuple[Evidence, Tensor]:
    """The same samples in another order, or some of them."""
    fields = {
        name: value[order] for name, value in vars(found).items() if isinstance(value, torch.Tensor)
    }
    return Evidence(**fields), weights[order]


def keep_of(judge: Filter | Chain, found: Evidence, weights: Tensor) -> Any:
    """Apply a filter or a chain to annotations mixed by these weights."""
    return judge.keep(found, Assigned.mixture(found.annotations, weights))
