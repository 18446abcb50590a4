"""What the filter `neighbours` ranks by, of shards (`cosup.consistency.neighbours`).

Neighbours depend on features and given labels alone: they are found once for all rounds and
controls. Two passes over them then count labels: that of each sample's neighbours is its new one,
and the new ones of its neighbours confirm its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cosup.consistency.base import Chain, Measures
from cosup.consistency.neighbours import Neighbours, confirmed, most_frequent
from cosup.sharded.evidence import ShardStream
from cosup.sharded.neighbours import Search, gathered, neighbours_of
from cosup.sharded.shards import Shard
from cosup.sharded.store import LABEL, Product, ShardStore
from cosup.sharded.work import Executor, FunctionWork

__all__ = ["Confirming", "confirming_filters", "find_corrected"]

NEIGHBOURS = "neighbours"
"""Kind of products: of neighbours by features."""


@dataclass(frozen=True)
class Confirming:
    """A filter that compares given labels of neighbours, and what it writes of shards.

    k: neighbours of each sample; 0 if there are none, or before they are found.
    """

    stream: ShardStream
    filter: Neighbours
    k: int = 0

    @property
    def found(self) -> Product:
        """Return the neighbours of samples with a given label, among all of these."""
        return self._product(NEIGHBOURS)

    @property
    def given(self) -> Product:
        """Return the given labels [n] of a shard, -1 without one."""
        return self._product("given_labels")

    @property
    def corrected(self) -> Product:
        """Return the most frequent given label [n] of the neighbours, -1 without any."""
        return self._product("corrected_labels")

    @property
    def removed(self) -> tuple[Product, ...]:
        """Return what is removed once a round is decided."""
        return self.given, self.corrected

    def search(self, title: str) -> Search:
        """Return the search for the neighbours."""
        level = self.stream.level
        return Search(
            title,
            level.samples.store,
            level.features,
            self.stream.firsts,
            self.known,
            self.filter.k,
            self.found,
            self._product("references"),
        )

    def write_given(self, shard: Shard) -> None:
        """Write the given labels of a shard."""
        samples = self.stream.level.samples
        data = samples.read(shard)
        labels = data.given(np.arange(len(data)))
        samples.store.write(self.given, shard.number, {LABEL: labels})

    def known(self, shard: Shard) -> Tensor:
        """Return which samples [n] bool of a shard have a given label."""
        return self._labels(self.given, shard.number) >= 0

    def write_corrected(self, shard: Shard) -> None:
        """Write the most frequent given labels of the neighbours."""
        rows, votes = self._votes(shard, self.given)
        corrected = torch.full_like(self._labels(self.given, shard.number), -1)
        corrected[rows] = most_frequent(votes)
        self._store.write(self.corrected, shard.number, {LABEL: corrected})

    def measures(self, shard: Shard) -> Measures:
        """Return what the filter ranks a shard by, as `Neighbours.judged`, without `answered`."""
        labels = self._labels(self.given, shard.number)
        sure = torch.zeros(len(labels))
        clean = torch.zeros(len(labels), dtype=torch.bool)
        if not self.k:  # nobody confirms a label, so none is judged
            labels = torch.full_like(labels, -1)
        else:
            rows, votes = self._votes(shard, self.corrected)
            sure[rows], clean[rows] = confirmed(labels[rows], votes)
        return {"labels": labels, "sure": sure, "clean": clean}

    def _votes(self, shard: Shard, product: Product) -> tuple[Tensor, Tensor]:
        """Return the rows of the samples with neighbours, and the labels [m, k] of these."""
        rows, near = neighbours_of(self._store, self.found, shard.number)

        def read(number: int) -> Tensor:
            return self._labels(product, number)

        return rows, gathered(near, self.stream.firsts, read)

    @property
    def _store(self) -> ShardStore:
        return self.stream.level.samples.store

    def _labels(self, product: Product, number: int) -> Tensor:
        return self._store.tensor(product, number, LABEL)

    def _product(self, kind: str) -> Product:
        level = self.stream.level
        about = *vars(level.features).values(), level.samples.key, str(self.filter.k)
        return Product.of(kind, "given_label", *about)


def confirming_filters(stream: ShardStream, chain: Chain) -> dict[str, Confirming]:
    """Return the filters of a chain that compare labels of neighbours, by their name in it."""
    return {
        name: Confirming(stream, each)
        for name, each in zip(chain.names, chain.filters, strict=True)
        if isinstance(each, Neighbours)
    }


def find_corrected(
    title: str,
    confirming: Mapping[str, Confirming],
    shards: Sequence[Shard],
    executor: Executor,
) -> dict[str, Confirming]:
    """Find the neighbours that are not found yet, and their labels. title: in messages."""
    ready = {}
    for name, one in confirming.items():
        store = one.stream.level.samples.store
        given = FunctionWork(f"{title}: given labels", one.write_given)
        for _ in executor.run(given, store.missing(one.given, shards)):
            pass
        ready[name] = replace(one, k=one.search(title).run(shards, executor))
        if ready[name].k:
            work = FunctionWork(f"{title}: labels of neighbours", one.write_corrected)
            for _ in executor.run(work, store.missing(one.corrected, shards)):
                pass
    return ready
