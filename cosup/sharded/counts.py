"""What is counted of the decisions on shards: sums over samples, which are added over shards."""

import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cosup.analysis.decisions import refinement_counts
from cosup.consistency.base import ABSTAINED, Chain, Kept, KeptCounts
from cosup.evidence import Scopes, Truth
from cosup.metrics.scores import assignment_sums
from cosup.rounds import Decided
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Executor, FunctionWork

__all__ = [
    "Counts",
    "added_counts",
    "counts_of",
    "counts_of_shards",
    "filter_counts",
    "kept_counts",
    "write_counts",
]

Counts = dict[str, Tensor]
"""Sums over samples by name, int64 or float64: they are added over shards."""

BINS = 20
"""Bins of equal width of the annotations' confidence."""


def counts_of(decided: Decided, scopes: Scopes, truth: Truth) -> Counts:
    """Count the decisions on n samples.

    samples, answered, kept; rejected: [reasons], each sample once; kept_alone: [filters];
    assigned, assigned_kept: [T], by the teacher with the most weight; confidence: [BINS]; known,
    correct, kept_known, kept_correct: of the samples whose label is known; on_specialists,
    in_scope: weight of these on teachers of a part, and on those in scope (float64); and
    `refinement_counts`.
    """
    assigned, kept, labels = decided.assigned, decided.kept, truth.labels
    in_scope, on_specialists = assignment_sums(assigned.weights, scopes, truth)
    label, confidence = assigned.targets.top()
    answered = confidence > 0
    teacher, teachers = assigned.weights.argmax(1), assigned.weights.shape[1]
    soft = assigned.annotations.top()[1]
    bins = (soft[answered] * BINS).long().clamp_max(BINS - 1)
    known = labels >= 0
    correct = known & answered & (label == labels)
    return {
        **filter_counts(kept),
        "answered": answered.sum(),
        "assigned": torch.bincount(teacher, minlength=teachers),
        "assigned_kept": torch.bincount(teacher[kept.keep], minlength=teachers),
        "confidence": torch.bincount(bins, minlength=BINS),
        "known": known.sum(),
        "correct": correct.sum(),
        "kept_known": (known & kept.keep).sum(),
        "kept_correct": (correct & kept.keep).sum(),
        "on_specialists": on_specialists,
        "in_scope": in_scope,
        **refinement_counts(decided, truth),
    }


def filter_counts(kept: Kept) -> Counts:
    """Return the counts of `counts_of` that tell how filters decide."""
    reasons = kept.rejected_by + 1
    return {
        "samples": torch.tensor(len(kept.keep)),
        "kept": kept.keep.sum(),
        "rejected": torch.bincount(reasons, minlength=len(kept.reasons) + 1)[1:],
        "kept_alone": torch.tensor(list(kept.kept_alone.values()), dtype=torch.int64),
    }


def kept_counts(counts: Counts, chain: Chain) -> KeptCounts:
    """Return the numbers of all samples that the filters of a chain keep."""
    reasons = (*chain.names, ABSTAINED)
    return KeptCounts(
        int(counts["samples"]),
        int(counts["kept"]),
        dict(zip(reasons, counts["rejected"].tolist(), strict=True)),
        dict(zip(chain.names, counts["kept_alone"].tolist(), strict=True)),
        chain.settings,
    )


def added_counts(first: Counts, second: Counts) -> Counts:
    """Return the sums over the samples of both; `first` may be empty."""
    return {name: value + first.get(name, 0) for name, value in second.items()}


def write_counts(store: ShardStore, product: Product, number: int, counts: Counts) -> None:
    """Write the counts of a shard."""
    import pyarrow as pa

    text = json.dumps({name: value.tolist() for name, value in counts.items()})
    store.write(product, number, pa.table({"counts": [text]}))


def counts_of_shards(
    name: str,
    function: Callable[[Shard], Counts],
    product: Product,
    store: ShardStore,
    shards: Sequence[Shard],
    missing: Sequence[Shard],
    executor: Executor,
) -> Iterator[Counts]:
    """Yield the counts of each shard, in order.

    function: computes them for those that are missing, and writes them. product: of the others.
    """
    made = dict(executor.run(FunctionWork(name, function), missing))
    for shard in shards:
        counts = made.pop(shard.number, None)
        yield _read(store, product, shard.number) if counts is None else counts


def _read(store: ShardStore, product: Product, number: int) -> Counts:
    text = store.table(product, number).column("counts")[0].as_py()
    return {name: torch.from_numpy(np.array(value)) for name, value in json.loads(text).items()}
