"""The class means of shards that prototypes start from (as `cosup.models.class_means`).

The least confidence of the samples to use is found from counts for each head and class, as the last
value of a rank (`cosup.consistency.ranking`); the means are then sums over shards, in their order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cosup.consistency.ranking import Cut, Prefix, Ranked
from cosup.models.class_means import confident_counts, move_prototypes
from cosup.models.heads import HeadBank
from cosup.models.samples import chunks, hard_labels
from cosup.sharded.lesson import ShardSamples
from cosup.sharded.shards import Shard
from cosup.sharded.work import Executor, FunctionWork, in_order

__all__ = ["start_at_class_means"]


def start_at_class_means(
    bank: HeadBank, samples: ShardSamples, share: float, executor: Executor
) -> None:
    """Set the prototypes of heads to the mean unit feature of each class's most confident samples.

    bank: a head of all samples, then one of each subset. share: as in `use_class_means`. Each shard
    is read six times (four with up to 16 heads x classes), its features once.
    """
    shards, classes = samples.used, bank.num_classes
    confident = Confident(samples, classes)
    sizes = torch.zeros(len(bank) * classes, dtype=torch.int64)
    for _, found in executor.run(FunctionWork("sizes of classes", confident.sizes), shards):
        sizes += found
    prefix = Prefix.of(confident_counts(sizes, share))
    while prefix.step:
        table = prefix.table()
        count = FunctionWork("confidence of classes", CountConfident(confident, prefix))
        for _, (codes, counts) in executor.run(count, shards):
            table.index_add_(0, codes, counts)
        prefix = prefix.longer(table)
    work = FunctionWork("class means", SumConfident(confident, prefix.cut(), bank.shift, bank.gain))
    sums = torch.zeros(len(bank), classes, bank.num_features, dtype=torch.float64)
    for part in in_order(executor.run(work, shards), shards):
        sums += part
    for head, own in enumerate(sums):
        move_prototypes(bank, head, own.to(torch.float32))


@dataclass(frozen=True)
class Confident:
    """What the kept samples of shards are ranked by: within each head and class, by confidence."""

    samples: ShardSamples
    classes: int

    def ranked(self, shard: Shard) -> Ranked:
        """Return the samples of a shard [H * n], head after head; -1 of those that a head does not
        learn or that have no annotation. The most confident come first."""
        samples = self.samples
        weights, _, folds = samples.marks(shard)
        rows = torch.nonzero(weights > 0)[:, 0]
        targets, own = samples.targets(shard).take(rows), folds[rows]
        labels, (_, confidence) = hard_labels(targets), targets.top()
        subsets = samples.subsets
        members = [labels >= 0]
        members += [members[0] & subsets.has(place, own) for place in range(len(subsets))]
        groups = [
            torch.where(member, head * self.classes + labels, -1)
            for head, member in enumerate(members)
        ]
        return Ranked(-confidence.repeat(len(members)), torch.cat(groups))

    def sizes(self, shard: Shard) -> Tensor:
        """Return the number of samples of each head and class [H * C]."""
        groups = self.ranked(shard).groups
        total = (1 + len(self.samples.subsets)) * self.classes
        return torch.bincount(groups[groups >= 0], minlength=total)


@dataclass(frozen=True)
class CountConfident:
    """Counts the samples of a shard by the next bits of their confidence."""

    confident: Confident
    prefix: Prefix

    def __call__(self, shard: Shard) -> tuple[Tensor, Tensor]:
        """Return the codes that occur, and how many samples have each."""
        codes, counts = torch.unique(
            self.prefix.codes(self.confident.ranked(shard)), return_counts=True
        )
        return codes, counts


@dataclass(frozen=True)
class SumConfident:
    """Sums of the unit features of a shard's most confident samples, standardised by each head.

    cut: where the ranks end. shift, gain: [H, D], or None.
    """

    confident: Confident
    cut: Cut
    shift: Tensor | None
    gain: Tensor | None

    def __call__(self, shard: Shard) -> Tensor:
        """Return sums [H, C, D] in float64."""
        ranked, classes = self.confident.ranked(shard), self.confident.classes
        # No part is beyond the cut, so that all samples with the last value are within.
        within = self.cut.within(ranked, 0)
        heads = 1 + len(self.confident.samples.subsets)
        features = self.confident.samples.read(shard).features
        sums = torch.zeros(heads * classes, features.shape[1], dtype=torch.float64)
        groups, within = ranked.groups.view(heads, -1), within.view(heads, -1)
        for head, own in enumerate(groups):
            for rows in chunks(torch.nonzero(within[head])[:, 0]):
                part = features[rows].to(torch.float32)
                if self.shift is not None and self.gain is not None:
                    part = (part - self.shift[head]) * self.gain[head]
                sums.index_add_(0, own[rows], normalize(part, dim=1).double())
        return sums.view(heads, classes, -1)
