"""The nearest samples to those of shards, by cosine of features, among samples of all shards.

What neighbours are searched among is written first, a compact file per shard. Each shard then reads
the files of all shards, one after another, and keeps the nearest so far: the work grows with the
number of samples times that of references, and memory with neither. They are those that
`cosup.refinement` and `cosup.consistency.neighbours` find in memory, to the last one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from cosup.nearest import nearest
from cosup.probabilities import ProbTable
from cosup.refinement import draw_references
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Executor, FunctionWork, in_order

__all__ = ["ROW", "Search", "gathered", "gathered_probs", "neighbours_of"]

ROW, NEAR, COSINE = "row", "near", "cosine"
"""Columns of neighbours: the row of a sample in its shard, [k] positions of its neighbours among
all samples, and their cosines."""
FEATURES, POSITION = "features", "position"
"""Columns of references: features, and positions among all samples."""


@dataclass(frozen=True)
class Search:
    """A search for the nearest others of some samples of shards, among the same samples.

    title: of its works, in messages. features: their product. firsts: the position of each shard's
    first sample among all samples. asked: returns which samples of a shard these are [n] bool. k:
    neighbours, if there are so many. found, references: products of the neighbours, which is kept,
    and of what they are searched among, which is removed. most, seed: search among so many of these
    samples at most, drawn by the seed; None: among all.
    """

    title: str
    store: ShardStore
    features: Product
    firsts: tuple[int, ...] = field(repr=False)
    asked: Callable[[Shard], Tensor]
    k: int
    found: Product
    references: Product
    most: int | None = None
    seed: int = 0

    def run(self, shards: Sequence[Shard], executor: Executor) -> int:
        """Write the neighbours of the shards that lack them; return how many each sample has, 0 if
        there are none."""
        store = self.store
        count = FunctionWork(f"{self.title}: samples", self._count)
        counts = list(in_order(executor.run(count, shards), shards))
        total = sum(counts)
        others = (total if self.most is None else min(total, self.most)) - 1
        k, missing = max(0, min(self.k, others)), store.missing(self.found, shards)
        if missing:
            before = tuple(accumulate(counts, initial=0))
            drawn = self._drawn(total, shards, executor)
            write = FunctionWork(f"{self.title}: references", WriteReferences(self, before, drawn))
            for _ in executor.run(write, store.missing(self.references, shards)):
                pass
            find = FunctionWork(f"{self.title}: neighbours", FindShard(self, k))
            for _ in executor.run(find, missing):
                pass
        store.remove(self.references)
        return k

    def rows(self, shard: Shard) -> Tensor:
        """Return the rows of a shard that are asked for."""
        return torch.nonzero(self.asked(shard))[:, 0]

    def _count(self, shard: Shard) -> int:
        return len(self.rows(shard))

    def _drawn(self, total: int, shards: Sequence[Shard], executor: Executor) -> Tensor | None:
        """Return the places of the references among the samples; None for all.

        They are drawn by the executor: that takes memory for every sample, and this process may not
        have it.
        """
        if self.most is None or total <= self.most:
            return None
        draw = FunctionWork(f"{self.title}: draw", Draw(total, self.most, self.seed))
        ((_, drawn),) = executor.run(draw, shards[:1])
        return drawn


@dataclass(frozen=True)
class Draw:
    """Draws references among so many samples, whatever the shard."""

    total: int
    most: int
    seed: int

    def __call__(self, shard: Shard) -> Tensor:
        """Return their places, ascending."""
        drawn = draw_references(self.total, self.most, self.seed)
        assert drawn is not None
        return drawn


@dataclass(frozen=True)
class WriteReferences:
    """Writes the features and positions of a shard's references.

    before: how many samples are asked for in the shards before each. drawn: places of the
    references among these samples, ascending; None for all.
    """

    search: Search
    before: tuple[int, ...]
    drawn: Tensor | None

    def __call__(self, shard: Shard) -> int:
        """Return the number of references."""
        search, number = self.search, shard.number
        rows = search.rows(shard)
        if self.drawn is not None:
            places = self.drawn - self.before[number]
            rows = rows[places[(places >= 0) & (places < len(rows))]]
        columns = {
            FEATURES: search.store.tensor(search.features, number, "features")[rows],
            POSITION: rows + search.firsts[number],
        }
        search.store.write(search.references, number, columns)
        return len(rows)


@dataclass(frozen=True)
class FindShard:
    """Finds the k nearest of a shard's samples among the references of all shards."""

    search: Search
    k: int

    def __call__(self, shard: Shard) -> int:
        """Write them; return the number of samples that have any."""
        search, number = self.search, shard.number
        rows = search.rows(shard)
        if not self.k:
            columns = {ROW: rows[:0], NEAR: rows[:0, None], COSINE: torch.zeros(0, 1)}
            search.store.write(search.found, number, columns)
            return 0
        features = search.store.tensor(search.features, number, "features")[rows]
        found = nearest(features, rows + search.firsts[number], self._parts(), self.k)
        columns = {ROW: rows, NEAR: found.positions, COSINE: found.cosines}
        search.store.write(search.found, number, columns)
        return len(rows)

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(len(self.search.firsts)):
            part = self.search.store.tensors(self.search.references, number, [FEATURES, POSITION])
            yield part[FEATURES], part[POSITION]


def neighbours_of(store: ShardStore, found: Product, number: int) -> tuple[Tensor, Tensor]:
    """Return the rows [m] of a shard that have neighbours, and these [m, k]: positions among all
    samples."""
    columns = store.tensors(found, number, [ROW, NEAR])
    return columns[ROW], columns[NEAR]


def gathered(positions: Tensor, firsts: Sequence[int], read: Callable[[int], Tensor]) -> Tensor:
    """Return the values of samples at positions [m, k] among all. read: returns those of all
    samples of a shard [n], by its number."""
    values = torch.empty(positions.numel(), dtype=torch.int64)
    for number, places, rows in _by_shard(positions.flatten(), firsts):
        values[places] = read(number)[rows].to(torch.int64)
    return values.view(positions.shape)


def gathered_probs(
    positions: Tensor, firsts: Sequence[int], read: Callable[[int], ProbTable]
) -> ProbTable:
    """Return the probabilities of samples at positions [m] among all, m at least 1. read: as in
    `gathered`."""
    found = [
        (places, read(number).take(rows)) for number, places, rows in _by_shard(positions, firsts)
    ]
    order = torch.cat([places for places, _ in found]).argsort()
    return ProbTable.concat([table for _, table in found]).take(order)


def _by_shard(positions: Tensor, firsts: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the number of each shard that has some of the positions [m], the places of these among
    the positions, and their rows in the shard."""
    ordered, places = positions.sort(stable=True)
    starts = torch.searchsorted(ordered, torch.tensor(firsts)).tolist()
    for number, (start, stop) in enumerate(pairwise([*starts, len(ordered)])):
        if start < stop:
            yield number, places[start:stop], ordered[start:stop] - firsts[number]
