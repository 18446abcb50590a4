"""Teachers on a cluster: trained side by side, and annotating shard by shard.

What the actors make comes back to the driver, which alone writes it, where the local run would.

Features on a cluster: actors extract ranges of rows, the driver writes them in their order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import ray
import torch
from torch import Tensor

from cosup.cluster.actor import Losses, Sent, Trained, pack, unpack
from cosup.cluster.pool import Pool
from cosup.cluster.tasks import Unit
from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.errors import RunError
from cosup.models.compute import Compute
from cosup.models.section import BackboneSection
from cosup.probabilities import ProbTable
from cosup.teachers import annotate as local
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import RemoteBlocks
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.store import AnnotationStore
from cosup.teachers.table import ANNOTATED
from cosup.teachers.train import kind_of, load_group, save_group

__all__ = [
    "annotate",
    "feature_blocks",
    "train_groups",
]


CREW = 8
"""Teachers that annotate together, so that an image is decoded once for all of them."""


def train_groups(
    pool: Callable[[], Pool],
    groups: Sequence[tuple[Sequence[TeacherSpec], TeachersSection]],
    training: Training,
) -> None:
    """Train side by side the groups that `training.directory` doesn't keep; afterwards it does.

    pool: gives the pool, asked for only if there is something to do. Groups that aren't trained on
    images are left to the driver: linear teachers on features, checkpoints, callables, tables.
    """
    assert training.directory is not None
    units = []
    for specs, section in groups:
        own = replace(training, section=section)
        if not _trains_images(specs, section) or load_group(specs, own) is not None:
            continue
        what = f"training of {', '.join(spec.name for spec in specs)}"
        sent = (tuple(specs), section, str(training.directory.absolute()))
        units.append(Unit(what, "train", sent, about=own))
    if not units:
        return
    for unit, (trained, losses) in pool().run(units, long=True):
        _keep(trained, losses, unit.about)


def _trains_images(specs: Sequence[TeacherSpec], section: TeachersSection) -> bool:
    kind = kind_of(specs[0], section)
    trained = kind.needs_labelled_samples and section.model.checkpoint is None
    return kind.reads_images and trained


def _keep(trained: Sequence[Trained], losses: Losses, training: Training) -> None:
    """What came back of a group, as if it had been trained here."""
    teachers = []
    for one in trained:
        kind = kind_of(one.spec, training.section)
        teacher = kind.restore(one.spec, training, unpack(one.state), one.steps)
        if teacher.identity != one.identity:
            raise RunError(
                f"teacher '{one.spec.name}' is another here than where it was trained: the "
                "versions of libraries must be the same on every node"
            )
        teachers.append(teacher)
    for name, step, loss in losses:
        training.report(name, step, loss)
    save_group(teachers, training)


def annotate(
    pool: Callable[[], Pool],
    teachers: Sequence[Teacher],
    data: ImageData,
    store: AnnotationStore,
    compute: Compute,
    on_shard: local.OnShard | None = None,
) -> None:
    """Fill the store with what it misses of these teachers, as `cosup.teachers.annotate` does.

    pool: gives the pool, asked for only if an actor has something to do.
    """
    missing = {t.name: {split: store.missing(split, t) for split in ANNOTATED} for t in teachers}
    total = sum(len(shards) for splits in missing.values() for shards in splits.values())
    done = 0

    def tell(split: str, name: str, *_: int) -> None:
        nonlocal done
        done += 1
        if on_shard is not None:
            on_shard(split, name, done, total)

    elsewhere = [teacher for teacher in teachers if teacher.reads_images]
    here = [teacher for teacher in teachers if not teacher.reads_images]
    local.annotate(here, data, store, compute, on_shard=tell)
    if not any(missing[teacher.name][split] for teacher in elsewhere for split in ANNOTATED):
        return
    for unit, said in pool().run(_units(elsewhere, missing, data, store)):
        split, shard, writers = unit.about
        for teacher, arrays in zip(writers, said, strict=True):
            table = ProbTable.from_tensors(store.num_classes, unpack(arrays))
            store.write(split, teacher, shard, table)
            tell(split, teacher.name)


def _units(
    teachers: Sequence[Teacher],
    missing: Mapping[str, Mapping[str, Sequence[int]]],
    data: ImageData,
    store: AnnotationStore,
) -> Iterator[Unit]:
    """One unit per crew and shard that some of the crew have yet to annotate."""
    for number, crew in enumerate(_crews(teachers)):
        if not any(missing[teacher.name][split] for teacher in crew for split in ANNOTATED):
            continue
        sent = tuple(Sent(t.spec, t.steps, t.identity, ray.put(pack(t.state()))) for t in crew)
        for split in ANNOTATED:
            for shard in sorted({s for teacher in crew for s in missing[teacher.name][split]}):
                wanted = [i for i, t in enumerate(crew) if shard in missing[t.name][split]]
                rows = store.rows(split, shard)
                yield Unit(
                    f"annotations of {split}, samples {rows.start} to {rows.stop - 1}",
                    "annotate",
                    (sent, wanted, split, rows.start, rows.stop),
                    samples=partial(_ids, data, split, rows),
                    crew=number,
                    about=(split, shard, [crew[place] for place in wanted]),
                )


def _crews(teachers: Sequence[Teacher]) -> Iterator[list[Teacher]]:
    """Teachers that read the same, at most `CREW` at a time."""
    for group in local.groups_of(teachers):
        for start in range(0, len(group), CREW):
            yield group[start : start + CREW]


def _ids(data: ImageData, split: str, rows: slice) -> list[str]:
    return data.sample_ids(data.rows(split)[rows])


def feature_blocks(
    pool: Callable[[], Pool],
    data: ImageData,
    batch_size: int,
    shard_rows: int,
    identity: Callable[[BackboneSection], str] | None = None,
) -> RemoteBlocks:
    """Has a pool extract features of `data`, which its actors read too, about `shard_rows` at a
    time; those of other samples (novel classes) are left to this process.

    pool: gives the pool, asked for when there is something to do. identity: of the driver's own
    backbone, which every actor's must have; None asks for none.
    """
    rows = max(1, shard_rows // batch_size) * batch_size  # so that every batch is the local run's

    def blocks(
        section: BackboneSection, asked: ImageData, split: str, start: int
    ) -> Iterator[Tensor] | None:
        if asked is not data:
            return None
        places = np.arange(len(data)) if data.drawn else data.rows(split)
        return _extract(start, places, section, split)

    def _extract(
        start: int, places: np.ndarray, section: BackboneSection, split: str
    ) -> Iterator[Tensor]:
        units = (
            Unit(
                f"features of {'all samples' if data.drawn else split}, rows {first} to {last - 1}",
                "extract",
                (section, None if identity is None else identity(section), split, first, last),
                samples=partial(data.sample_ids, places[first:last]),
            )
            for first in range(start, len(places), rows)
            for last in [min(first + rows, len(places))]
        )
        for _, block in pool().run(units, ordered=True):
            yield torch.from_numpy(np.array(block))

    return blocks
