"""Annotating: every teacher says what it sees in every sample, shard by shard, into the store."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from cosup.data.table import ImageData
from cosup.probabilities import ProbTable
from cosup.teachers.base import Resources, Teacher
from cosup.teachers.store import AnnotationStore
from cosup.teachers.table import ANNOTATED

__all__ = ["OnShard", "annotate", "open_store"]

OnShard = Callable[[str, str, int, int], None]
"""Called after each shard: split, teacher, shards done, shards to do (of this call)."""


def open_store(directory: Path, data: ImageData, shard_size: int) -> AnnotationStore:
    """The store of a run's annotations; other samples, or another order, make its shards stale."""
    return AnnotationStore(
        directory,
        "-".join(data.split_fingerprint(split)[:16] for split in ANNOTATED),
        len(data.classes),
        {split: len(data.rows(split)) for split in ANNOTATED},
        shard_size,
    )


def annotate(
    teachers: Sequence[Teacher],
    data: ImageData,
    store: AnnotationStore,
    resources: Resources,
    splits: Sequence[str] = ANNOTATED,
    on_shard: OnShard | None = None,
) -> None:
    """Fill the store with what it is missing of these teachers.

    Teachers that read the same (the same transform, the same features) share one pass, so each
    image is decoded once for all of them. Raises `RunError` for a full disk.
    """
    todo = {
        split: {teacher.name: store.missing(split, teacher) for teacher in teachers}
        for split in splits
    }
    total = sum(len(shards) for missing in todo.values() for shards in missing.values())
    done = 0
    for split, missing in todo.items():
        for group in _groups(teachers):
            for name in _annotate_group(group, data, store, resources, split, missing):
                done += 1
                if on_shard is not None:
                    on_shard(split, name, done, total)


def _groups(teachers: Sequence[Teacher]) -> list[list[Teacher]]:
    """Teachers by what they read."""
    groups: dict[str, list[Teacher]] = {}
    for teacher in teachers:
        groups.setdefault(teacher.reads, []).append(teacher)
    return list(groups.values())


def _annotate_group(
    group: Sequence[Teacher],
    data: ImageData,
    store: AnnotationStore,
    resources: Resources,
    split: str,
    missing: dict[str, list[int]],
) -> Iterator[str]:
    """Annotate the missing shards of teachers that read the same; the name of each shard's
    teacher as it is written."""
    shards = sorted({shard for teacher in group for shard in missing[teacher.name]})
    if not shards:
        return
    rows = data.rows(split)
    wanted = np.concatenate([rows[store.rows(split, shard)] for shard in shards])
    lengths = [len(rows[store.rows(split, shard)]) for shard in shards]
    batches = group[0].inputs(data, wanted, resources)
    for shard, pieces in zip(shards, _by_shard(batches, lengths), strict=True):
        writers = [teacher for teacher in group if shard in missing[teacher.name]]
        tables: list[list[ProbTable]] = [[] for _ in writers]
        for piece in pieces:
            for position, teacher in enumerate(writers):
                probs = teacher.annotate(piece)
                tables[position].append(ProbTable.compress(probs, teacher.support))
        for teacher, parts in zip(writers, tables, strict=True):
            store.write(split, teacher, shard, ProbTable.concat(parts))
            yield teacher.name


def _by_shard(batches: Iterator[Tensor], lengths: Sequence[int]) -> Iterator[Iterator[Tensor]]:
    """For each shard the pieces of batches that make it up; each must be used up in turn."""
    rest: list[Tensor] = []

    def pieces(length: int) -> Iterator[Tensor]:
        while length > 0:
            batch = rest.pop() if rest else next(batches)
            if len(batch) > length:
                rest.append(batch[length:])
                batch = batch[:length]
            length -= len(batch)
            yield batch

    for length in lengths:
        yield pieces(length)
