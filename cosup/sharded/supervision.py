"""What the students of controls learn of shards, in place of the annotations that a round keeps."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosup.assigning import harden
from cosup.data.table import ImageData
from cosup.probabilities import ProbTable
from cosup.sharded.counts import Counts
from cosup.sharded.deciding import RoundProducts
from cosup.sharded.folds import folds_of
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.work import Samples

__all__ = ["LabelShard", "OwnShard"]


@dataclass(frozen=True)
class LabelShard:
    """Writes the labels of a shard's samples as what a student is to learn."""

    samples: Samples
    products: RoundProducts

    def __call__(self, shard: Shard) -> Counts:
        """Return how many samples there are, and how many have a label."""
        data = self.samples.read(shard)
        labels = _labels(data)
        targets, weights = ProbTable.one_hot(labels, len(data.classes)), (labels >= 0).float()
        folds, store = torch.zeros(len(labels), dtype=torch.uint8), self.samples.store
        self.products.write_taught(store, shard.number, targets, weights, folds, labels)
        return _counts(len(labels), (labels >= 0).sum(), torch.zeros(0, dtype=torch.int64))


@dataclass(frozen=True)
class OwnShard:
    """Writes a student's predictions of a shard as what the next one is to learn: of all samples.

    predictions: of the student. folds, seed, labels: as of `cosup.sharded.deciding.DecideShard`.
    hard: learn their most probable class.
    """

    samples: Samples
    predictions: Product
    products: RoundProducts
    folds: int
    seed: int
    hard: bool
    labels: bool

    def __call__(self, shard: Shard) -> Counts:
        """Return how many samples there are, and how many in each fold."""
        data, store = self.samples.read(shard), self.samples.store
        probs = store.probs(self.predictions, shard.number)
        targets, weights = harden(probs) if self.hard else probs, torch.ones(len(data))
        folds = folds_of(data, self.folds, self.seed)
        labels = _labels(data) if self.labels else None
        self.products.write_taught(
            store, shard.number, targets, weights, folds.to(torch.uint8), labels
        )
        by_fold = torch.bincount(folds, minlength=self.folds)[: self.folds]
        return _counts(len(data), torch.tensor(len(data)), by_fold)


def _labels(data: ImageData) -> Tensor:
    return data.given(np.arange(len(data)))


def _counts(samples: int, kept: Tensor, by_fold: Tensor) -> Counts:
    return {"samples": torch.tensor(samples), "kept": kept, "kept_by_fold": by_fold}
