"""Evidence on the samples of shards, read from the store one shard at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from cosup.assignment.parts import Part
from cosup.evidence import Evidence, Scopes
from cosup.levels import MAX_ELEMENTS, Level, Stream
from cosup.probabilities import ProbTable
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.work import Executor, FunctionWork, Samples, in_order

__all__ = ["ShardBatches", "ShardLevel", "ShardParts", "ShardStream", "TableAnnotations"]

T = TypeVar("T")


@dataclass(frozen=True)
class TableAnnotations:
    """Annotations of the samples of one shard: a table of each teacher."""

    tables: Sequence[ProbTable]

    def __len__(self) -> int:
        return len(self.tables[0])

    def iter_dense(self, max_elements: int = MAX_ELEMENTS) -> Iterator[tuple[slice, Tensor]]:
        """Yield batches of at most `max_elements` values; an empty one without samples, by which
        filters and assigners decide on none."""
        step = max(1, max_elements // (len(self.tables) * self.tables[0].num_classes))
        for start in range(0, max(len(self), 1), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, torch.stack([table.dense(rows) for table in self.tables], dim=1)


@dataclass(frozen=True)
class ShardLevel:
    """A level of the hierarchy, its annotations in a store.

    annotations: the product of each teacher. features: of the student's backbone.
    """

    index: int
    scopes: Scopes
    samples: Samples
    annotations: tuple[Product, ...]
    features: Product

    @property
    def num_classes(self) -> int:
        """C."""
        return self.scopes.classes.shape[1]


@dataclass(frozen=True)
class ShardStream:
    """Evidence on the samples of any shard.

    firsts: the position of each shard's first sample among all samples. student, coarse:
    predictions of the latest student, and of the last one of the level above; None without one.
    global_probs, local_probs: predictions of students that a filter compares, once trained.
    """

    level: ShardLevel
    firsts: tuple[int, ...] = field(repr=False)
    student: Product | None = None
    coarse: Product | None = None
    global_probs: Product | None = None
    local_probs: Product | None = None

    def of(self, shard: Shard, needs: frozenset[str]) -> Stream:
        """Read what is needed of a shard; `needs` are those of an assigner or of filters."""
        level, number = self.level, shard.number
        store = level.samples.store
        tables = [store.probs(product, number) for product in level.annotations]
        features = None
        if needs & {"features", "provenance"}:
            features = store.tensor(level.features, number, "features")
        truth, labels = None, None
        if needs & {"truth", "domains", "labels"}:
            data = level.samples.read(shard)
            rows = np.arange(len(data))
            truth, labels = data.truth(rows), data.given(rows)

        def read(product: Product | None) -> ProbTable | None:
            return None if product is None else store.probs(product, number)

        return Stream(
            Level(level.index, level.scopes, TableAnnotations(tables)),
            read(self.student),
            features,
            truth,
            read(self.coarse),
            read(self.global_probs),
            read(self.local_probs),
            labels=labels,
            first=self.firsts[number],
        ).restricted(needs)


@dataclass(frozen=True)
class ShardBatches:
    """Evidence on all samples in batches, in order: one shard after another is read."""

    stream: ShardStream
    shards: Sequence[Shard]
    needs: frozenset[str]

    def __iter__(self) -> Iterator[Evidence]:
        for shard in self.shards:
            yield from self.stream.of(shard, self.needs)


@dataclass(frozen=True)
class ShardParts:
    """The samples of all shards as `cosup.assignment.parts.Parts`: a part is a shard."""

    stream: ShardStream
    shards: Sequence[Shard]
    needs: frozenset[str]
    executor: Executor

    @property
    def batches(self) -> ShardBatches:
        """Return the evidence on all samples, read here."""
        return ShardBatches(self.stream, self.shards, self.needs)

    def each(self, function: Part[T]) -> Iterator[T]:
        """Yield the result of each shard, in order: the same ones by any executor."""
        work = FunctionWork("sums of the assigner", PartOf(function, self.stream, self.needs))
        return in_order(self.executor.run(work, self.shards), self.shards)


@dataclass(frozen=True)
class PartOf(Generic[T]):
    """A function of parts, as one of shards."""

    function: Part[T]
    stream: ShardStream
    needs: frozenset[str]

    def __call__(self, shard: Shard) -> T:
        """Return the result of a shard."""
        batches = ShardBatches(self.stream, [shard], self.needs)
        return self.function(batches, shard.number)
