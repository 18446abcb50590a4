"""Annotate all samples with all teachers, shard by shard, into the annotation store."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosup.data.shifted import shifted_split
from cosup.data.table import ImageData
from cosup.models.compute import Compute, Precision
from cosup.probabilities import ProbTable
from cosup.progress import Advance, working_on
from cosup.teachers.base import RowTeacher, Teacher
from cosup.teachers.rows import SampleRows
from cosup.teachers.store import AnnotationStore
from cosup.teachers.table import ANNOTATED
from cosup.words import percent

__all__ = [
    "OUTSIDE",
    "OnShard",
    "annotate",
    "annotate_batches",
    "annotate_by_name",
    "annotate_rows",
    "groups_of",
    "groups_within",
    "note_outside",
    "open_store",
    "weight_bytes",
]

log = logging.getLogger(__name__)

OUTSIDE, MOST_IMAGES = "outside", 512
"""The mass outside is measured on so many images at most, spread over student_train."""

HELD_BYTES = 64 * 2**20
"""Probabilities that the teachers of a pass leave on the device before they are copied: a copy
waits for the device, and between two copies it works without a pause."""

OnShard = Callable[[str, str, int, int], None]
"""Called after each shard: split, teacher, number of shards done, number of shards of this call."""


def open_store(
    directory: Path, data: ImageData, shard_size: int, precision: Precision = "float32"
) -> AnnotationStore:
    """Return the store of a run's annotations; its shards are valid for these samples only, and for
    this precision of networks."""
    return AnnotationStore(
        directory,
        "-".join(data.split_fingerprint(split)[:16] for split in ANNOTATED),
        len(data.classes),
        {
            **{split: len(data.rows(split)) for split in ANNOTATED},
            **{shifted_split(name): len(part) for name, part in data.shifted.items()},
        },
        shard_size,
        precision,
        {shifted_split(n): p.split_fingerprint("test") for n, p in data.shifted.items()},
    )


def annotate(
    teachers: Sequence[Teacher],
    data: ImageData,
    store: AnnotationStore,
    compute: Compute,
    splits: Sequence[str] | None = None,
    on_shard: OnShard | None = None,
    memory: float = math.inf,
) -> None:
    """Annotate the shards of these teachers that the store lacks.

    Teachers with equal inputs (`reads`) share one pass, so each image is decoded once for all of
    them, as far as their weights take at most `memory` bytes together (`groups_within`). The device
    holds those of one pass at a time, and none at the end. Those that look their answers up by
    sample abstain on shifted sets: they know the run's own samples alone. splits: None are all of
    the store, shifted sets included. Raises `RunError` for a full disk.
    """
    todo = {
        split: {teacher.name: store.missing(split, teacher) for teacher in teachers}
        for split in (store.sizes if splits is None else splits)
    }
    total = sum(len(shards) for missing in todo.values() for shards in missing.values())
    done = 0
    for group in groups_within(teachers, memory):
        for split, missing in todo.items():
            for name in _annotate_group(group, data, store, compute, split, missing):
                done += 1
                if on_shard is not None:
                    on_shard(split, name, done, total)
        _unload(group)


def _unload(teachers: Iterable[Teacher]) -> None:
    for teacher in teachers:
        teacher.unload()


def _abstentions(store: AnnotationStore, split: str, shard: int) -> ProbTable:
    rows = store.rows(split, shard)
    return ProbTable.compress(torch.zeros(rows.stop - rows.start, store.num_classes))


def groups_of(teachers: Sequence[Teacher]) -> list[list[Teacher]]:
    """Group teachers by their inputs."""
    groups: dict[str, list[Teacher]] = {}
    for teacher in teachers:
        groups.setdefault(teacher.reads, []).append(teacher)
    return list(groups.values())


def groups_within(teachers: Sequence[Teacher], memory: float) -> list[list[Teacher]]:
    """Group teachers by their inputs, so that the weights of a group take at most `memory` bytes,
    or it is one teacher. The order within each group of `groups_of` is kept."""
    groups: list[list[Teacher]] = []
    for same in groups_of(teachers):
        taken = 0
        for position, teacher in enumerate(same):
            size = weight_bytes(teacher)
            if position == 0 or taken + size > memory:
                groups.append([])
                taken = 0
            groups[-1].append(teacher)
            taken += size
    return groups


def weight_bytes(teacher: Teacher) -> int:
    """Return the bytes of a teacher's weights, as it holds them."""
    return sum(tensor.nbytes for tensor in teacher.tensors().values())


def _annotate_group(
    group: Sequence[Teacher],
    data: ImageData,
    store: AnnotationStore,
    compute: Compute,
    split: str,
    missing: dict[str, list[int]],
) -> Iterator[str]:
    """Annotate the missing shards of teachers with equal inputs.

    Yields the teacher's name after each shard is written.
    """
    shards = sorted({shard for teacher in group for shard in missing[teacher.name]})
    if not shards:
        return
    found, rows = data.part(split)
    abstains = found is not data and isinstance(group[0], RowTeacher)
    for shard in shards:
        writers = [teacher for teacher in group if shard in missing[teacher.name]]
        if abstains:
            tables = [_abstentions(store, split, shard)] * len(writers)
        else:
            part = rows[store.rows(split, shard)]
            with working_on(f"annotating {split}: image", len(part)) as advance:
                tables = annotate_rows(writers, found, part, compute, advance)
        for teacher, table in zip(writers, tables, strict=True):
            store.write(split, teacher, shard, table)
            yield teacher.name


def annotate_rows(
    teachers: Sequence[Teacher],
    data: ImageData,
    rows: SampleRows,
    compute: Compute,
    on_rows: Advance | None = None,
) -> list[ProbTable]:
    """Return the annotations of rows of one split by teachers with equal inputs.

    on_rows: called after each batch with the number of its rows.
    """
    return annotate_batches(teachers, teachers[0].inputs(data, rows, compute), on_rows)


def annotate_batches(
    teachers: Sequence[Teacher], batches: Iterable[Tensor], on_rows: Advance | None = None
) -> list[ProbTable]:
    """Return the annotations of the samples of these batches (there may be none), by teachers that
    read them.

    Batches start at the first row. The last digits of an annotation depend on the batch that the
    image is in, so each shard is annotated by itself: it then has the same bits in every process
    and after every interruption.
    """
    answers = [_Answers(teacher, HELD_BYTES // len(teachers)) for teacher in teachers]
    for batch in batches:
        for found in answers:
            found.add(batch)
        if on_rows is not None:
            on_rows(len(batch))
    return [found.table() for found in answers]


class _Answers:
    """The annotations of one teacher. held_bytes: of probabilities that are left on its device."""

    def __init__(self, teacher: Teacher, held_bytes: int) -> None:
        self.teacher = teacher
        self.held_bytes = held_bytes
        self._held: list[Tensor] = []
        self._tables = [ProbTable.compress(torch.zeros(0, teacher.num_classes))]

    def add(self, batch: Tensor) -> None:
        """Annotate a batch."""
        self._held.append(self.teacher.answer(batch))
        if sum(probs.nbytes for probs in self._held) >= self.held_bytes:
            self._copy()

    def table(self) -> ProbTable:
        """Return the annotations of all batches."""
        self._copy()
        return ProbTable.concat(self._tables)

    def _copy(self) -> None:
        """Copy what is held from the device, and compress it by batch."""
        if not self._held:
            return
        sizes, probs = list(map(len, self._held)), torch.cat(self._held).cpu()
        self._held = []
        for part in torch.split(probs, sizes):
            self._tables.append(ProbTable.compress(part))


def annotate_by_name(
    teachers: Sequence[Teacher], data: ImageData, rows: SampleRows, compute: Compute
) -> dict[str, ProbTable]:
    """Return the annotations of rows of one split by each teacher, in the order of the teachers."""
    found = {
        teacher.name: table
        for group in groups_of(teachers)
        for teacher, table in zip(group, annotate_rows(group, data, rows, compute), strict=True)
    }
    return {teacher.name: found[teacher.name] for teacher in teachers}


def note_outside(
    teachers: Sequence[Teacher], data: ImageData, store: AnnotationStore, compute: Compute
) -> None:
    """Measure how much of their probability teachers give to what is not in their scope.

    The mean over images of student_train is noted in the store, once for its annotations, and
    logged; teachers without `knows_more` are left out.
    """
    rows = data.rows("student_train")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_IMAGES)).astype(int)]
    for teacher in teachers:
        if not teacher.knows_more or OUTSIDE in store.noted("student_train", teacher.name):
            continue
        batches = teacher.inputs(data, rows, compute)
        share = float(torch.cat([teacher.outside(batch) for batch in batches]).mean())
        teacher.unload()
        store.note("student_train", teacher.name, **{OUTSIDE: share})
        log.info(
            "teacher %s: %s of its probability (mean of %d images) is of classes not in its "
            "scope, and left out",
            teacher.name,
            percent(share),
            len(rows),
        )
