"""Ranks of all samples (`cosup.consistency.ranking`), found by passes over what is measured.

What a filter ranks by is measured and written once for each shard: a few numbers per sample. Each
pass reads it and returns counts, which are added; their number does not depend on that of samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cosup.assigning import assign_fitted
from cosup.consistency.base import Chain, Kept, Measures
from cosup.consistency.ranking import Cut, Prefix, added, ranking_filters
from cosup.levels import Assignment, Stream
from cosup.recipe import Recipe
from cosup.sharded.confirming import Confirming
from cosup.sharded.evidence import ShardStream
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.work import Executor, FunctionWork, in_order

__all__ = ["Ranking", "find_cuts"]

Totals = dict[str, Tensor]
Counts = dict[str, tuple[Tensor, Tensor]]
"""By the name of a filter in the chain: codes, and how many samples have each."""


@dataclass(frozen=True)
class Ranking:
    """Filters over all samples of a round.

    recipe: its assigner is fitted. product: what is measured. cuts: where the ranks end, by the
    name of the filter in the chain; found by `find_cuts`. confirming: by name, what filters that
    compare labels of neighbours rank by; needed to measure.
    """

    stream: ShardStream
    recipe: Recipe
    product: Product
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    confirming: Mapping[str, Confirming] = field(default_factory=dict, repr=False)

    def measured(self, shard: Shard) -> dict[str, Measures]:
        """Return what was measured of a shard for the filters that rank, by their name."""
        found = self.stream.level.samples.store.tensors(self.product, shard.number)
        parts: dict[str, Measures] = {name: {} for name in ranking_filters(self.recipe.filters)}
        for column, values in found.items():
            name, _, kind = column.rpartition(".")
            parts[name][kind] = values
        return parts

    def run(self, stream: Stream, assigned: Assignment, shard: Shard) -> Kept:
        """Return the decision of the chain on a shard."""
        chain = self.recipe.filters
        *measures, answers = chain.measured(stream.restricted(chain.needs), assigned)
        keeps = {}
        if self.cuts:
            # What was counted, also where another processor would round otherwise.
            stored, ranking = self.measured(shard), ranking_filters(chain)
            for name, cut in self.cuts.items():
                first = cut.within(ranking[name].ranked(stored[name]), shard.number)
                keeps[name] = ranking[name].keep_first(stored[name], first)
        for name, each, part in zip(chain.names, chain.filters, measures, strict=True):
            if name not in keeps:
                keeps[name] = each.decide(part)
        return chain.joined([keeps[name] for name in chain.names], answers["answered"])


@dataclass(frozen=True)
class MeasureShard:
    """Measures a shard for the filters that rank. there: it was written before."""

    ranking: Ranking
    there: bool

    def __call__(self, shard: Shard) -> Totals:
        """Write what is measured; return the totals of each filter."""
        measured = self.ranking.measured(shard) if self.there else self._measure(shard)
        filters = ranking_filters(self.ranking.recipe.filters)
        return {name: each.totals(measured[name]) for name, each in filters.items()}

    def _measure(self, shard: Shard) -> dict[str, Measures]:
        recipe, stream = self.ranking.recipe, self.ranking.stream
        filters, store = ranking_filters(recipe.filters), stream.level.samples.store
        chain = Chain(list(filters), list(filters.values()))
        part = stream.of(shard, recipe.assigner.uses | chain.needs)
        assigned = assign_fitted(recipe.assigner, part, recipe.hard)
        *measures, _ = chain.measured(part.restricted(chain.needs), assigned)
        found = dict(zip(filters, measures, strict=True))
        for name, one in self.ranking.confirming.items():
            found[name] = {"answered": found[name]["answered"], **one.measures(shard)}
        columns = {
            f"{name}.{kind}": values
            for name, parts in found.items()
            for kind, values in parts.items()
        }
        store.write(self.ranking.product, shard.number, columns)
        return found


@dataclass(frozen=True)
class CountShard:
    """Counts the samples of a shard by the next bits of what they are ranked by."""

    ranking: Ranking
    prefixes: Mapping[str, Prefix]

    def __call__(self, shard: Shard) -> Counts:
        """Return the codes that occur, and how many samples have each."""
        filters = ranking_filters(self.ranking.recipe.filters)
        measured = self.ranking.measured(shard)
        return {
            name: _counted(prefix.codes(filters[name].ranked(measured[name])))
            for name, prefix in self.prefixes.items()
        }


def find_cuts(
    title: str, ranking: Ranking, shards: Sequence[Shard], executor: Executor
) -> dict[str, Cut]:
    """Return the cuts of a ranking. title: in messages. What was measured before is not measured
    again."""
    filters = ranking_filters(ranking.recipe.filters)
    missing = ranking.stream.level.samples.store.missing(ranking.product, shards)
    left = {shard.number for shard in missing}
    there = [shard for shard in shards if shard.number not in left]
    totals = dict.fromkeys(filters, torch.zeros(0, dtype=torch.int64))
    for own, is_there in ((missing, False), (there, True)):
        measure = FunctionWork(f"{title}: measures", MeasureShard(ranking, is_there))
        for _, found in executor.run(measure, own):
            totals = {name: added(total, found[name]) for name, total in totals.items()}
    prefixes = {name: Prefix.of(each.quotas(totals[name])) for name, each in filters.items()}
    while growing := {name: prefix for name, prefix in prefixes.items() if prefix.step}:
        tables = {name: prefix.table() for name, prefix in growing.items()}
        count = FunctionWork(f"{title}: counts", CountShard(ranking, growing))
        for _, counts in executor.run(count, shards):
            for name, table in tables.items():
                table.index_add_(0, *counts[name])
        prefixes |= {name: prefix.longer(tables[name]) for name, prefix in growing.items()}
    cuts = {name: prefix.cut() for name, prefix in prefixes.items()}
    tie = FunctionWork(f"{title}: ties", CountShard(ranking, prefixes))
    for shard, ties in zip(shards, in_order(executor.run(tie, shards), shards), strict=True):
        cuts = {name: cut.after(shard.number, *ties[name]) for name, cut in cuts.items()}
    return cuts


def _counted(codes: Tensor) -> tuple[Tensor, Tensor]:
    found, counts = torch.unique(codes, return_counts=True)
    return found, counts
