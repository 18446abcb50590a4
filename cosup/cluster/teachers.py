"""Teachers and features computed by a pool of actors: trained in parallel, annotated by shard.

Results return to the driver, which alone writes them, to the same files as a local run.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import ray
import torch
from torch import Tensor

from cosup.cluster.actor import LossRecords, pack, unpack
from cosup.cluster.kept_teachers import RemoteTeacher
from cosup.cluster.pool import Pool
from cosup.cluster.work_queue import WorkItem
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.models.section import BackboneSection
from cosup.probabilities import ProbTable
from cosup.teachers.annotate import OnShard, annotate, groups_within, weight_bytes
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import RemoteExtraction
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.sent import SentTeacher
from cosup.teachers.store import AnnotationStore
from cosup.teachers.train import kind_of, load_group, save_group

__all__ = ["annotate_with_pool", "features_by_pool", "train_groups"]


def train_groups(
    pool: Callable[[], Pool],
    groups: Sequence[Sequence[TeacherSpec]],
    training: Training,
) -> None:
    """Train in parallel the groups that `training.directory` lacks, and store them there.

    pool: returns the pool; called only if there is work. Groups that are not trained on images
    (linear teachers on cached features, checkpoints, callables, tables) are left to the driver.
    """
    assert training.directory is not None
    items = []
    for specs in groups:
        if not _trains_on_images(specs) or load_group(specs, training) is not None:
            continue
        description = f"training of {', '.join(spec.name for spec in specs)}"
        args = (tuple(specs), str(training.directory.absolute()))
        items.append(WorkItem(description, "train", args))
    if not items:
        return
    for _, (trained, losses) in pool().run(items, unlimited=True):
        _store_trained(trained, losses, training)


def _trains_on_images(specs: Sequence[TeacherSpec]) -> bool:
    """Return whether a training decodes images: of a kind that does, or to augment them."""
    spec = specs[0]
    return spec.trained and (kind_of(spec).reads_images or spec.training.augments)


def _store_trained(trained: Sequence[SentTeacher], losses: LossRecords, training: Training) -> None:
    """Store a group of teachers and report its losses, as if it had been trained here."""
    teachers = [one.restore(training) for one in trained]
    for record in losses:
        training.report(*record)
    save_group(teachers, training)


def annotate_with_pool(
    pool: Callable[[], Pool],
    teachers: Sequence[Teacher],
    data: ImageData,
    store: AnnotationStore,
    compute: Compute,
    on_shard: OnShard | None = None,
    memory: float = math.inf,
) -> None:
    """Annotate the shards of these teachers that the store lacks, as `cosup.teachers.annotate`.

    pool: returns the pool; called only if actors have work. memory: bytes of the weights of the
    teachers that annotate together in an actor.
    """
    missing = {t.name: {split: store.missing(split, t) for split in store.sizes} for t in teachers}
    total = sum(len(shards) for splits in missing.values() for shards in splits.values())
    done = 0

    def report(split: str, name: str, *_: int) -> None:
        nonlocal done
        done += 1
        if on_shard is not None:
            on_shard(split, name, done, total)

    remote = [teacher for teacher in teachers if teacher.reads_images]
    local = [teacher for teacher in teachers if not teacher.reads_images]
    annotate(local, data, store, compute, on_shard=report)
    if not any(missing[teacher.name][split] for teacher in remote for split in store.sizes):
        return
    for item, tables in pool().run(_shard_items(remote, missing, data, store, memory)):
        split, shard, writers = item.context
        for teacher, arrays in zip(writers, tables, strict=True):
            table = ProbTable.from_tensors(store.num_classes, unpack(arrays))
            store.write(split, teacher, shard, table)
            report(split, teacher.name)


def _shard_items(
    teachers: Sequence[Teacher],
    missing: Mapping[str, Mapping[str, Sequence[int]]],
    data: ImageData,
    store: AnnotationStore,
    memory: float,
) -> Iterator[WorkItem]:
    """Yield one item per group and shard that teachers of the group have yet to annotate."""
    for number, group in enumerate(groups_within(teachers, memory)):
        if not any(missing[teacher.name][split] for teacher in group for split in store.sizes):
            continue
        remote = tuple(
            RemoteTeacher(t.spec, t.steps, t.identity, weight_bytes(t), ray.put(pack(t.tensors())))
            for t in group
        )
        for split in store.sizes:
            for shard in sorted({s for teacher in group for s in missing[teacher.name][split]}):
                positions = [i for i, t in enumerate(group) if shard in missing[t.name][split]]
                rows = store.rows(split, shard)
                yield WorkItem(
                    f"annotations of {split}, samples {rows.start} to {rows.stop - 1}",
                    "annotate",
                    (remote, positions, split, rows.start, rows.stop),
                    samples=partial(_sample_ids, data, split, rows),
                    affinity=number,
                    context=(split, shard, [group[position] for position in positions]),
                )


def _sample_ids(data: ImageData, split: str, rows: slice) -> list[str]:
    found, own = data.part(split)
    return found.sample_ids(own[rows])


def features_by_pool(
    pool: Callable[[], Pool],
    data: ImageData,
    batch: int,
    block_rows: int,
    identity: Callable[[BackboneSection], str] | None = None,
    device: str = "cpu",
    threads: int = 1,
) -> RemoteExtraction:
    """Return an extraction of features of `data`, and of its shifted sets, by a pool, about
    `block_rows` at a time.

    Features of other samples (novel classes) are left to the driver. pool: returns the pool; called
    only if there is work. batch: of the extraction. identity: returns the identity of the driver's
    backbone, which must be that of every actor's; None skips the check. device, threads:
    of the actors.
    """
    rows = max(1, block_rows // batch) * batch  # so that batches equal the local run's

    def blocks(section: BackboneSection, split: str, start: int) -> Iterator[Tensor]:
        found, cached_rows = data.part(split)
        if found.drawn:
            cached_rows = np.arange(len(found))
        name = "all samples" if found.drawn else split
        items = (
            WorkItem(
                f"features of {name}, rows {first} to {last - 1}",
                "extract",
                (section, None if identity is None else identity(section), split, first, last),
                samples=partial(found.sample_ids, cached_rows[first:last]),
            )
            for first in range(start, len(cached_rows), rows)
            for last in [min(first + rows, len(cached_rows))]
        )
        for _, block in pool().run(items, ordered=True):
            yield torch.from_numpy(np.array(block))

    return RemoteExtraction(data, torch.device(device), threads, blocks)
