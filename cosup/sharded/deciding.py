"""Assign and filter the samples of shards, and write their decisions and targets."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cosup.analysis.decisions import decisions_table, someone_right
from cosup.assigning import assign_fitted
from cosup.assignment.base import Assigner
from cosup.assignment.dawid_skene import DawidSkene, Sums
from cosup.consistency.base import Chain
from cosup.rounds import Decided
from cosup.seeds import seed_for
from cosup.sharded.evidence import ShardBatches, ShardStream
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.work import Executor, FunctionWork

__all__ = ["Counts", "DecideShard", "RoundProducts", "decide_shards", "fit_assigner"]

T = TypeVar("T")
Counts = dict[str, Tensor]
"""Sums over samples by name, int64: they are added over shards."""

BINS = 20
"""Bins of equal width of the annotations' confidence."""


def fit_assigner(
    assigner: Assigner,
    stream: ShardStream,
    shards: Sequence[Shard],
    seed: int,
    provenance: tuple[Tensor, Tensor] | None,
    executor: Executor,
) -> None:
    """Fit an assigner to all samples, as `cosup.assigning.assign` does.

    The sums of Dawid-Skene are computed by the executor; other assigners read the shards here, in
    order. seed: of the round. provenance: as in `Assigner.fit`, if it reads any.
    """
    if isinstance(assigner, DawidSkene):
        fit_by_sums(assigner, stream, shards, executor)
        return
    batches = ShardBatches(stream, shards, assigner.uses)
    known = provenance if "provenance" in assigner.uses else None
    assigner.fit(batches, stream.level.scopes, seed=seed_for(seed, "assigner"), provenance=known)


def fit_by_sums(
    assigner: DawidSkene, stream: ShardStream, shards: Sequence[Shard], executor: Executor
) -> None:
    """Fit by sums over shards, added in the order of the shards: the same ones on any executor."""

    def collect() -> Sums | None:
        work = FunctionWork("sums of dawid_skene", SumShard(assigner, stream))
        total: Sums | None = None
        for found in in_order(executor.run(work, shards), shards):
            if total is None:
                total = found
            elif found is not None:
                total.add(found)
        return total

    assigner.fit_by_sums(collect)


@dataclass(frozen=True)
class SumShard:
    """The sums of an E-step over a shard."""

    assigner: DawidSkene
    stream: ShardStream

    def __call__(self, shard: Shard) -> Sums | None:
        """Return the sums; None of a shard without samples."""
        return self.assigner.sums(ShardBatches(self.stream, [shard], self.assigner.uses))


@dataclass(frozen=True)
class RoundProducts:
    """What a round writes of each shard.

    decisions: the table of `cosup.analysis.decisions`. targets: what the student learns, with
    weights: the column `weight`. counts: of the decisions, and the last to be written.
    """

    decisions: Product
    targets: Product
    weights: Product
    counts: Product

    @staticmethod
    def of(number: int, *about: str) -> "RoundProducts":
        """Return the products of a round, whose keys are a hash of these texts."""
        kinds = ("decisions", "targets", "weights", "counts")
        return RoundProducts(*(Product.of(kind, f"round-{number}", *about) for kind in kinds))


@dataclass(frozen=True)
class DecideShard:
    """Assigns and filters the samples of a shard. assigner: fitted. hard: harden the targets."""

    stream: ShardStream
    assigner: Assigner
    chain: Chain
    number: int
    hard: bool
    products: RoundProducts

    def __call__(self, shard: Shard) -> Counts:
        """Write the decisions and targets; return their counts."""
        import pyarrow as pa

        level, assigner = self.stream.level, self.assigner
        store = level.samples.store
        stream = self.stream.of(shard, assigner.uses | self.chain.needs)
        assigned = assign_fitted(assigner, stream, self.hard)
        kept = self.chain.run(stream.restricted(self.chain.needs), assigned)
        decided = Decided(self.number, level.index, stream.student, assigned, kept)
        data = level.samples.read(shard)
        rows = np.arange(len(data))
        truth = data.truth(rows)
        table = decisions_table(
            decided, level.scopes, data.sample_ids(rows), truth, data.classes, data.domains
        )
        products, weights = self.products, assigned.weighed(kept.keep)
        store.write(
            products.decisions, shard.number, pa.Table.from_pandas(table, preserve_index=False)
        )
        store.write_probs(products.targets, shard.number, assigned.targets)
        store.write(products.weights, shard.number, {"weight": weights})
        counts = counts_of(decided, truth.labels)
        counts["best"] = someone_right(stream.level.annotations, truth.labels).sum()
        text = json.dumps({name: value.tolist() for name, value in counts.items()})
        store.write(products.counts, shard.number, pa.table({"counts": [text]}))
        return counts


def counts_of(decided: Decided, labels: Tensor) -> Counts:
    """Count the decisions on n samples. labels: [n] true classes, -1 unknown.

    samples, answered, kept; rejected: [reasons], each sample once; kept_alone: [filters];
    assigned, assigned_kept: [T], by the teacher with the most weight; confidence: [BINS]; known,
    correct, kept_known, kept_correct: of the samples whose label is known.
    """
    assigned, kept = decided.assigned, decided.kept
    label, confidence = assigned.targets.top()
    answered = confidence > 0
    teacher, teachers = assigned.weights.argmax(1), assigned.weights.shape[1]
    soft = assigned.annotations.top()[1]
    bins = (soft[answered] * BINS).long().clamp_max(BINS - 1)
    known = labels >= 0
    correct = known & answered & (label == labels)
    reasons = kept.rejected_by + 1
    return {
        "samples": torch.tensor(len(labels)),
        "answered": answered.sum(),
        "kept": kept.keep.sum(),
        "rejected": torch.bincount(reasons, minlength=len(kept.reasons) + 1)[1:],
        "kept_alone": torch.tensor(list(kept.kept_alone.values()), dtype=torch.int64),
        "assigned": torch.bincount(teacher, minlength=teachers),
        "assigned_kept": torch.bincount(teacher[kept.keep], minlength=teachers),
        "confidence": torch.bincount(bins, minlength=BINS),
        "known": known.sum(),
        "correct": correct.sum(),
        "kept_known": (known & kept.keep).sum(),
        "kept_correct": (correct & kept.keep).sum(),
    }


def decide_shards(
    decide: DecideShard, shards: Sequence[Shard], executor: Executor
) -> tuple[Counts, tuple[int, ...]]:
    """Decide on the shards that are not decided yet.

    Returns the counts of all shards, and the number of samples kept of each.
    """
    store, product = decide.stream.level.samples.store, decide.products.counts
    missing = store.missing(product, shards)
    made = dict(executor.run(FunctionWork(f"decisions of round {decide.number}", decide), missing))
    total: Counts = {}
    kept = []
    for shard in shards:
        counts = made.pop(shard.number, None)
        counts = _stored(store.table(product, shard.number)) if counts is None else counts
        total = {name: value + total.get(name, 0) for name, value in counts.items()}
        kept.append(int(counts["kept"]))
    return total, tuple(kept)


def in_order(results: Iterable[tuple[int, T]], shards: Iterable[Shard]) -> Iterator[T]:
    """Yield the results of shards in the order of the shards."""
    waiting: dict[int, T] = {}
    order = iter([shard.number for shard in shards])
    wanted = next(order, None)
    for number, found in results:
        waiting[number] = found
        while wanted in waiting:
            assert wanted is not None
            yield waiting.pop(wanted)
            wanted = next(order, None)


def _stored(table: Any) -> Counts:
    text = table.column("counts")[0].as_py()
    return {
        name: torch.tensor(value, dtype=torch.int64) for name, value in json.loads(text).items()
    }
