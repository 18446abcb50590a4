"""Samples that heads are fitted to: seeded shuffling, batches gathered by row, column scaling."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cosup.probabilities import ProbTable

CHUNK = 1024  # rows converted to float32 at a time: they fit the CPU's cache
DEVICE_BYTES = 8 * 2**30  # features up to this size are moved to the accelerator as a whole
DENSE_BYTES = 2**26  # targets up to this size are made dense once, not batch by batch


def chunks(rows: Tensor) -> Iterator[Tensor]:
    """Yield the rows in slices of at most `CHUNK`."""
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


class Shuffle:
    """Endless seeded passes over the samples of one head, each in a new order."""

    def __init__(self, rows: Tensor, generator: torch.Generator) -> None:
        self.rows = rows.to(torch.int64)
        self.generator = generator
        self.left = self.rows[:0]

    def draw(self, count: int) -> Tensor:
        """Return the next `count` rows."""
        while len(self.left) < count:
            order = torch.randperm(len(self.rows), generator=self.generator)
            self.left = torch.cat([self.left, self.rows[order]])
        drawn, self.left = self.left[:count], self.left[count:]
        return drawn


class Draws:
    """Samples of one head, each drawn anew, with replacement.

    weights: [n] of the rows, to which their chances are proportional; None: equal chances.
    """

    def __init__(
        self, rows: Tensor, generator: torch.Generator, weights: Tensor | None = None
    ) -> None:
        self.rows = rows.to(torch.int64)
        self.generator = generator
        equal = torch.ones(len(rows)) if weights is None else weights
        self.until = equal.to(torch.float64).cumsum(0)

    def draw(self, count: int) -> Tensor:
        """Return `count` rows."""
        shares = torch.rand(count, generator=self.generator, dtype=torch.float64)
        # A row of weight 0 ends where it begins, and is never the first that ends behind a share.
        places = torch.searchsorted(self.until, shares * self.until[-1], right=True)
        return self.rows[places.clamp_max(len(self.rows) - 1)]


class Samples:
    """Features, targets, weights and labels, gathered by row onto the device."""

    def __init__(
        self,
        features: Tensor,
        targets: ProbTable,
        weights: Tensor | None,
        hard: bool,
        device: torch.device,
        labels: Tensor | None = None,
    ) -> None:
        # Fits of one loop read the inputs of the first alone: the others move no features.
        self.moves = device.type != "cpu" and features.nbytes <= DEVICE_BYTES
        self.features = features
        self.targets = targets
        self.weights = None if weights is None else weights.to(torch.float32)
        self.hard = hard_labels(targets) if hard else None
        small = 4 * len(targets) * targets.num_classes <= DENSE_BYTES
        self.dense = targets.dense().to(device) if small and not hard else None
        self.labels = labels
        self.device = device

    def inputs(self, rows: Tensor) -> Tensor:
        """Return the features [H, B, D] of rows [H, B], a row of them for each head."""
        if self.moves and self.features.device.type == "cpu":
            self.features = self.features.to(self.device)
        found = self.features.index_select(0, rows.flatten().to(self.features.device))
        return found.to(self.device, torch.float32).view(*rows.shape, -1)

    def supervision(self, rows: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return target probabilities [H, B, C], weights [H, B] or None, labels [H, B] or None."""
        flat = rows.flatten()
        if self.dense is not None:
            wanted = self.dense.index_select(0, flat.to(self.device))
        elif self.hard is None:
            wanted = self.targets.dense(flat).to(self.device)
        else:
            wanted = one_hot(self.hard[flat].to(self.device), self.targets.num_classes)
        weight = None if self.weights is None else self.weights[rows].to(self.device)
        labels = None if self.labels is None else self.labels[rows].to(self.device)
        return wanted.view(*rows.shape, -1), weight, labels


def hard_labels(targets: ProbTable) -> Tensor:
    """Return the most probable class [N] int64 of each row; -1 for an abstention."""
    labels, mass = targets.top()
    return torch.where(mass > 0, labels, -1)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return [N, C] float32 with a 1 at each label; the row of label -1 is zeros."""
    rows = torch.zeros(len(labels), num_classes, device=labels.device)
    return rows.scatter_(1, labels.clamp_min(0)[:, None], (labels >= 0).float()[:, None])


def column_scaling(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean [D] and reciprocal standard deviation [D] of the columns over these rows.

    The reciprocal of a constant column is set to 0.
    """
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    # Subtracted first: sums of squares far from 0 lose digits.
    center = features[int(rows[0])].to(torch.float32)
    for chunk in chunks(rows):
        part = features[chunk].to(torch.float32) - center
        total += part.sum(0)
        squares += part.square().sum(0)
    mean = total / len(rows)
    deviation = (squares / len(rows) - mean.square()).clamp_min(0).sqrt()
    gain = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0.0)
    return (center + mean).to(torch.float32), gain.to(torch.float32)
