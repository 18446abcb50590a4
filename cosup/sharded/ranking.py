"""Ranks of all samples (`cosup.consistency.ranking`), found by passes over what is measured.

What a filter ranks by is measured and written once for each shard: a few numbers per sample. Each
pass reads it and returns counts, which are added; their number does not depend on that of samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cosup.assigning import assign_fitted
from cosup.consistency.base import Kept, Measures
from cosup.consistency.ranking import Cut, Prefix, added, ranking_filters
from cosup.levels import Assignment, Stream
from cosup.rounds import Recipe
from cosup.sharded.evidence import ShardStream
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.work import Executor, FunctionWork, in_order

__all__ = ["Ranking", "find_cuts"]

Totals = dict[int, Tensor]
Counts = dict[int, tuple[Tensor, Tensor]]
"""By the place of a filter in the chain: codes, and how many samples have each."""


@dataclass(frozen=True)
class Ranking:
    """Filters over all samples of a round.

    recipe: its assigner is fitted. product: what is measured. cuts: where the ranks end, by the
    place of the filter in the chain; found by `find_cuts`.
    """

    stream: ShardStream
    recipe: Recipe
    product: Product
    cuts: Mapping[int, Cut] = field(default_factory=dict)

    def measured(self, shard: Shard) -> dict[int, Measures]:
        """Return what was measured of a shard for the filters that rank, by their place."""
        found = self.stream.level.samples.store.tensors(self.product, shard.number)
        parts: dict[int, Measures] = {place: {} for place in ranking_filters(self.recipe.filters)}
        for name, values in found.items():
            place, _, kind = name.partition(".")
            parts[int(place)][kind] = values
        return parts

    def run(self, stream: Stream, assigned: Assignment, shard: Shard) -> Kept:
        """Return the decision of the chain on a shard."""
        chain = self.recipe.filters
        *measures, answers = chain.measured(stream.restricted(chain.needs), assigned)
        keeps = {}
        if self.cuts:
            # What was counted, also where another processor would round otherwise.
            stored, ranking = self.measured(shard), ranking_filters(chain)
            for place, cut in self.cuts.items():
                first = cut.within(ranking[place].ranked(stored[place]), shard.number)
                keeps[place] = ranking[place].keep_first(stored[place], first)
        for place, (each, part) in enumerate(zip(chain.filters, measures, strict=True)):
            if place not in keeps:
                keeps[place] = each.decide(part)
        return chain.joined([keeps[place] for place in range(len(measures))], answers["answered"])


@dataclass(frozen=True)
class MeasureShard:
    """Measures a shard for the filters that rank. there: it was written before."""

    ranking: Ranking
    there: bool

    def __call__(self, shard: Shard) -> Totals:
        """Write what is measured; return the totals of each filter."""
        measured = self.ranking.measured(shard) if self.there else self._measure(shard)
        filters = ranking_filters(self.ranking.recipe.filters)
        return {place: each.totals(measured[place]) for place, each in filters.items()}

    def _measure(self, shard: Shard) -> dict[int, Measures]:
        recipe, stream = self.ranking.recipe, self.ranking.stream
        chain, store = recipe.filters, stream.level.samples.store
        part = stream.of(shard, recipe.assigner.uses | chain.needs)
        assigned = assign_fitted(recipe.assigner, part, recipe.hard)
        measures = chain.measured(part.restricted(chain.needs), assigned)
        found = {place: measures[place] for place in ranking_filters(chain)}
        columns = {
            f"{place}.{name}": values
            for place, parts in found.items()
            for name, values in parts.items()
        }
        store.write(self.ranking.product, shard.number, columns)
        return found


@dataclass(frozen=True)
class CountShard:
    """Counts the samples of a shard by the next bits of what they are ranked by."""

    ranking: Ranking
    prefixes: Mapping[int, Prefix]

    def __call__(self, shard: Shard) -> Counts:
        """Return the codes that occur, and how many samples have each."""
        filters = ranking_filters(self.ranking.recipe.filters)
        measured = self.ranking.measured(shard)
        return {
            place: _counted(prefix.codes(filters[place].ranked(measured[place])))
            for place, prefix in self.prefixes.items()
        }


def find_cuts(
    name: str, ranking: Ranking, shards: Sequence[Shard], executor: Executor
) -> dict[int, Cut]:
    """Return the cuts of a ranking. name: in messages. What was measured before is not measured
    again."""
    filters = ranking_filters(ranking.recipe.filters)
    missing = ranking.stream.level.samples.store.missing(ranking.product, shards)
    left = {shard.number for shard in missing}
    there = [shard for shard in shards if shard.number not in left]
    totals = dict.fromkeys(filters, torch.zeros(0, dtype=torch.int64))
    for own, is_there in ((missing, False), (there, True)):
        measure = FunctionWork(f"{name}: measures", MeasureShard(ranking, is_there))
        for _, found in executor.run(measure, own):
            totals = {place: added(total, found[place]) for place, total in totals.items()}
    prefixes = {place: Prefix.of(each.quotas(totals[place])) for place, each in filters.items()}
    while growing := {place: prefix for place, prefix in prefixes.items() if prefix.step}:
        tables = {place: prefix.table() for place, prefix in growing.items()}
        count = FunctionWork(f"{name}: counts", CountShard(ranking, growing))
        for _, counts in executor.run(count, shards):
            for place, table in tables.items():
                table.index_add_(0, *counts[place])
        prefixes |= {place: prefix.longer(tables[place]) for place, prefix in growing.items()}
    cuts = {place: prefix.cut() for place, prefix in prefixes.items()}
    tie = FunctionWork(f"{name}: ties", CountShard(ranking, prefixes))
    for shard, ties in zip(shards, in_order(executor.run(tie, shards), shards), strict=True):
        cuts = {place: cut.after(shard.number, *ties[place]) for place, cut in cuts.items()}
    return cuts


def _counted(codes: Tensor) -> tuple[Tensor, Tensor]:
    found, counts = torch.unique(codes, return_counts=True)
    return found, counts
