"""Refined annotations of shards, averaged over neighbours in all shards (`cosup.refinement`).

The products with the student's probabilities are written first, a file per shard. The neighbours
are then searched among the samples with an annotation, or as many of these as `references` says,
and each shard reads the products of its neighbours. Where a filter has searched among the very same
samples for as many neighbours or more, the nearest of these are taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosup.assigning import assign_fitted
from cosup.probabilities import ProbTable, row_bytes
from cosup.recipe import Recipe
from cosup.refinement import averaged
from cosup.sharded.confirming import Confirming
from cosup.sharded.evidence import ShardStream
from cosup.sharded.neighbours import ROW, Search, gathered_probs, neighbours_of
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.work import Executor, FunctionWork

__all__ = ["Smoothing"]

GATHERED = 2**26
"""Bytes of the annotations of neighbours that are held at a time."""


@dataclass(frozen=True)
class Smoothing:
    """The refinement of a round with neighbours, and what it writes of shards.

    recipe: its assigner is fitted. name, key: of the round. seed: draws the references. k:
    neighbours of each sample; 0 if there are none, or before they are found. shared: neighbours
    that a filter has found, of which the first k are those; None for neighbours of its own.
    """

    stream: ShardStream
    recipe: Recipe
    name: str
    key: str
    seed: int
    k: int = 0
    shared: Product | None = None

    @property
    def refined(self) -> Product:
        """Return the refined annotations before they are averaged."""
        return Product("refined", self.name, self.key)

    @property
    def near(self) -> Product:
        """Return the neighbours of the samples with an annotation."""
        return Product("neighbours", self.name, self.key)

    @property
    def removed(self) -> tuple[Product, ...]:
        """Return what is removed once the round is decided."""
        return self.refined, self.near

    def found(
        self,
        title: str,
        shards: Sequence[Shard],
        executor: Executor,
        confirming: Iterable[Confirming] = (),
    ) -> "Smoothing":
        """Write what is not written yet; return what averages.

        title: in messages. confirming: filters that have found neighbours.
        """
        level, refiner = self.stream.level, self.recipe.refiner
        assert refiner is not None
        store = level.samples.store
        work = FunctionWork(f"{title}: annotations", self.write_refined)
        for _ in executor.run(work, store.missing(self.refined, shards)):
            pass
        for one in confirming:
            if (k := self._nearest_of(one, title, shards, executor)) is not None:
                return replace(self, k=k, shared=one.found)
        search = Search(
            title,
            store,
            level.features,
            self.stream.firsts,
            self.answered,
            refiner.neighbours,
            self.near,
            Product("references", self.name, self.key),
            refiner.references,
            self.seed,
        )
        return replace(self, k=search.run(shards, executor))

    def _nearest_of(
        self, one: Confirming, title: str, shards: Sequence[Shard], executor: Executor
    ) -> int | None:
        """Return how many neighbours of each sample to take of those that a filter has found; None
        if it has found others, or too few."""
        refiner = self.recipe.refiner
        assert refiner is not None
        if one.filter.k < refiner.neighbours:
            return None
        work = FunctionWork(f"{title}: samples", SameSamples(self, one.found))
        counts = [count for _, count in executor.run(work, shards)]
        if min(counts) < 0 or sum(counts) > refiner.references:
            return None
        return min(refiner.neighbours, one.k)

    def write_refined(self, shard: Shard) -> None:
        """Write the products of a shard's annotations with the student's probabilities."""
        recipe = self.recipe
        stream = self.stream.of(shard, recipe.assigner.uses)
        assigned = assign_fitted(recipe.assigner, stream, recipe.hard)
        assert recipe.refiner is not None
        assert stream.student is not None, "a round that refines follows another"
        refined = recipe.refiner.product(assigned.annotations, stream.student)
        self.stream.level.samples.store.write_probs(self.refined, shard.number, refined)

    def answered(self, shard: Shard) -> Tensor:
        """Return which samples [n] bool of a shard have an annotation."""
        return self._read(shard.number).top()[1] > 0

    def of(self, shard: Shard) -> ProbTable:
        """Return the means over the nearest neighbours and each sample itself."""
        own = self._read(shard.number)
        if not self.k:
            return own
        store, firsts = self.stream.level.samples.store, self.stream.firsts
        rows, near = neighbours_of(store, self.shared or self.near, shard.number)
        near = near[:, : self.k]  # the nearest come first
        smooth = ProbTable.empty(len(own), own.num_classes)
        step = max(1, GATHERED // (self.k * row_bytes(own.num_classes)))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            around = gathered_probs(near[start : start + step].flatten(), firsts, self._read)
            smooth.put(part, averaged(own.take(part), around))
        return smooth

    def _read(self, number: int) -> ProbTable:
        return self.stream.level.samples.store.probs(self.refined, number)


@dataclass(frozen=True)
class SameSamples:
    """Compares the samples of a shard that have an annotation with those that have neighbours."""

    smoothing: Smoothing
    found: Product

    def __call__(self, shard: Shard) -> int:
        """Return how many they are; -1 if they differ."""
        store = self.smoothing.stream.level.samples.store
        answered = torch.nonzero(self.smoothing.answered(shard))[:, 0]
        rows = store.tensor(self.found, shard.number, ROW)
        return len(rows) if torch.equal(rows, answered) else -1
