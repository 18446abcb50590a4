"""Filters that keep the best of all samples, and the same by sums where samples come in parts.

Such a filter ranks samples within groups, and keeps the first ones of each group, as many as its
quota. In memory the samples are sorted. Of samples in parts (shards), the last value that is kept
is found digit by digit, from the number of samples with each digit: as in a radix sort, and as
exactly. Samples with that very value are kept in their order.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.consistency.base import Chain, Filter, Measures
from cosup.probabilities import rank_in_group

__all__ = ["Cut", "Prefix", "Ranked", "RankingFilter", "added", "ranking_filters"]

VALUE_BITS = 32
BEYOND = 2**62
"""The number of a part after all others."""
FEW_GROUPS = 16
"""Groups whose values are divided by 16 bits at a time, others by 8: there are at most 2**20 counts
of these, or 256 for each group."""


@dataclass(frozen=True)
class Ranked:
    """What n samples are ranked by.

    values: [n] float32, the least first. groups: [n] int64, within which they are ranked; -1 are
    not, and not kept.
    """

    values: Tensor
    groups: Tensor


class RankingFilter(Filter):
    """Base of filters that rank all samples.

    They are ranked if `needs_all`. A subclass says what by, and how many of each group are kept.
    """

    @abstractmethod
    def ranked(self, measures: Measures) -> Ranked:
        """Return what these samples are ranked by."""

    @abstractmethod
    def totals(self, measures: Measures) -> Tensor:
        """Return sums [K] int64 over these samples, to be `added`, by which quotas are found."""

    @abstractmethod
    def quotas(self, totals: Tensor) -> Tensor:
        """Return how many samples of each group are kept at most, [G] int64, from those of all."""

    def keep_first(self, measures: Measures, first: Tensor) -> Tensor:
        """Return keep [n] bool. first: [n] bool, the samples within the quotas."""
        return first

    def decide(self, measures: Measures) -> Tensor:
        """Return keep [N] bool; of equal values, earlier samples are kept."""
        ranked, quotas = self.ranked(measures), self.quotas(self.totals(measures))
        ranks = rank_in_group(ranked.values, ranked.groups)
        return self.keep_first(measures, ranks < _of(quotas, ranked.groups))


@dataclass(frozen=True)
class Cut:
    """Where the ranks of G groups reach their quotas.

    keys: [G] int64, the last value that is kept, as a key; -1: none is. parts: [G], the number of
    the part in which the samples with that value reach the quota; `BEYOND` all. ties: [G], how many
    of them are kept there; in the parts before, all are.
    """

    keys: Tensor
    parts: Tensor
    ties: Tensor

    def after(self, part: int, groups: Tensor, counts: Tensor) -> "Cut":
        """Return the cut after one more part. groups, counts: [m], samples with the last value."""
        own = torch.zeros_like(self.ties).index_add_(0, groups, counts)
        parts = torch.where((self.parts == BEYOND) & (own >= self.ties), part, self.parts)
        return Cut(self.keys, parts, torch.where(parts == BEYOND, self.ties - own, self.ties))

    def within(self, ranked: Ranked, part: int) -> Tensor:
        """Return which samples [n] bool of a part are within the quotas."""
        groups, own = ranked.groups, _keys(ranked.values)
        last = _of(self.keys, groups, -1)
        tied = own == last
        places = rank_in_group(own, torch.where(tied, groups, -1))
        allowed = torch.where(self.parts == part, self.ties, len(own) * (self.parts > part))
        return (own < last) | (tied & (places < _of(allowed, groups)))


@dataclass(frozen=True)
class Prefix:
    """The first bits of the last value that is kept of each of G groups.

    quotas: [G], samples that are kept at most. bits: [G] int64, of which `known` are found; -1 of a
    group of which none is kept. ahead: [G], how many samples have less values.
    """

    quotas: Tensor
    bits: Tensor
    ahead: Tensor
    known: int = 0

    @staticmethod
    def of(quotas: Tensor) -> "Prefix":
        """Return that of no bits."""
        return Prefix(quotas, torch.zeros_like(quotas), torch.zeros_like(quotas))

    @property
    def step(self) -> int:
        """Return by how many bits it grows; 0 if all are found."""
        if self.known == VALUE_BITS:
            return 0
        return VALUE_BITS // 2 if len(self.quotas) <= FEW_GROUPS else VALUE_BITS // 4

    def codes(self, ranked: Ranked) -> Tensor:
        """Return codes [m] of the samples with these bits: their group and next bits; once all bits
        are found, their group."""
        groups, keys, left = ranked.groups, _keys(ranked.values), VALUE_BITS - self.known
        chosen = (keys >> left) == _of(self.bits, groups, -1)
        digits = (keys >> (left - self.step)) & ((1 << self.step) - 1)
        return ((groups << self.step) | digits)[chosen]

    def table(self) -> Tensor:
        """Return a count of 0 for each code."""
        return torch.zeros(len(self.quotas) << self.step, dtype=torch.int64)

    def longer(self, counts: Tensor) -> "Prefix":
        """Return the prefix with more bits. counts: the number of samples with each code."""
        table = counts.view(len(self.quotas), 1 << self.step)
        upto = table.cumsum(1)
        # Of a group with fewer samples than its quota, the last one is kept.
        wanted = torch.minimum(self.quotas - self.ahead, upto[:, -1])
        digit = (upto < wanted[:, None]).sum(1)
        before = (upto - table).gather(1, digit[:, None])[:, 0]
        bits = torch.where((wanted > 0) & (self.bits >= 0), (self.bits << self.step) | digit, -1)
        return Prefix(self.quotas, bits, self.ahead + before, self.known + self.step)

    def cut(self) -> Cut:
        """Return the cut before the first part, once all bits are found."""
        beyond = torch.full_like(self.bits, BEYOND)
        return Cut(self.bits, beyond, self.quotas - self.ahead)


def ranking_filters(chain: Chain) -> dict[str, RankingFilter]:
    """Return the filters of a chain that rank all samples, by their name in the chain."""
    return {
        name: each
        for name, each in zip(chain.names, chain.filters, strict=True)
        if isinstance(each, RankingFilter) and each.needs_all
    }


def added(first: Tensor, second: Tensor) -> Tensor:
    """Return the sum of two vectors; the shorter one goes on with zeros."""
    short, long = sorted((first, second), key=len)
    total = long.clone()
    total[: len(short)] += short
    return total


def _keys(values: Tensor) -> Tensor:
    """Return float32 values [n] as int64 of the same order, from 0 to 2**32 - 1."""
    assert values.dtype == torch.float32, values.dtype
    bits = (values + 0.0).view(torch.int32).to(torch.int64)  # -0.0 becomes 0.0
    return torch.where(bits < 0, ~bits, bits + 2 ** (VALUE_BITS - 1))


def _of(per_group: Tensor, groups: Tensor, otherwise: int = 0) -> Tensor:
    """Return the number of the group of each sample; `otherwise` for the group -1."""
    return torch.cat([per_group.new_tensor([otherwise]), per_group])[groups + 1]
