"""The annotation tables of a sharded run, divided once into the annotations of each shard."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from cosup.data.images import Ints
from cosup.data.table import ImageData
from cosup.errors import Mistakes
from cosup.probabilities import DENSE_LIMIT, TOP_K
from cosup.progress import working_on
from cosup.sharded.image_work import write_annotations
from cosup.sharded.sample_ids import ManifestIds
from cosup.sharded.shards import Shard, Shards
from cosup.sharded.spill import parts_for
from cosup.sharded.store import Product
from cosup.sharded.table_join import TableJoin
from cosup.sharded.work import Samples, parts
from cosup.teachers.base import ROWS_PER_BATCH
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.table import TableRead, TableTeacher
from cosup.teachers.table_errors import external_of
from cosup.teachers.tables.reading import table_key
from cosup.teachers.tables.scan import Scan, scan_table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ShardTables"]

VALUES = 32
"""Probabilities of a row that take as much memory as the rest of it."""


class ShardTables:
    """Reads annotation tables for the listed samples and for shards, a part of bounded size at a
    time, however large the row groups of a Parquet file are.

    Parts grow beyond 10^9 rows, and where many ids share a file name. NPZ files, and JSON that is
    one value, are read as a whole. METHODS.md section 15 has the memory that was measured.

    A table is read when an answer of it is needed first. What is divided lies in the temporary
    folder of this machine until `close`.
    """

    def __init__(self, teachers: Iterable[TeacherSpec], listed: ImageData, shards: Shards) -> None:
        """teachers: those that are annotators of a table are read. listed: the labelled samples."""
        self.listed = listed
        self.shards = shards
        self.specs = [t for t in teachers if t.external is not None and not t.simulated]
        self._folder: TemporaryDirectory[str] | None = None
        self._ids: dict[int, ManifestIds] = {}
        self._joins: dict[str, TableJoin] = {}
        self._reads: dict[str, TableRead] = {}

    def close(self) -> None:
        """Remove what was divided; a table that is needed again is read again."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None
        self._ids, self._joins = {}, {}

    def read(self, spec: TeacherSpec) -> TableRead:
        """Return what is read for a teacher, with its answers on the listed samples.

        Raise `UserError` as a run that lists its samples.
        """
        if spec.name not in self._reads:
            self._join(spec)
        return self._reads[spec.name]

    def read_all(self) -> dict[str, TableRead]:
        """Return what is read for every teacher. Raise the errors of all tables."""
        mistakes, files = Mistakes(), self._files()
        with working_on("reading annotation tables: file", len(files)) as advance:
            for specs in files:
                with mistakes.caught():
                    self.read(specs[0])
                advance(1)
        mistakes.raise_all()
        return {spec.name: self._reads[spec.name] for spec in self.specs}

    def write(
        self, teachers: Sequence[TableTeacher], products: Mapping[str, Product], samples: Samples
    ) -> None:
        """Write the annotations of these teachers of the shards that lack them.

        products: by teacher.
        """
        store = samples.store
        missing = {t.name: set(store.missing(products[t.name], self.shards)) for t in teachers}
        total = sum(map(len, missing.values()))
        with working_on("annotations of tables: shard", total) as advance:
            for specs in self._files():
                names = [spec.name for spec in specs]
                own = [t for t in teachers if t.name in names and missing[t.name]]
                if not own:
                    continue
                join = self._join(own[0].spec)
                for teacher, shard, answers in _answers(join, own, missing):
                    rows = torch.from_numpy(_whole(shard, samples))
                    lookup = join.lookup(names.index(teacher.name), answers, shard.samples)
                    write_annotations(
                        store,
                        [products[teacher.name]],
                        [teacher.looking_up(lookup)],
                        shard.number,
                        parts(rows, ROWS_PER_BATCH),
                    )
                    advance(1)

    def _files(self) -> list[list[TeacherSpec]]:
        """Return the teachers of each file that is read in one way."""
        found: dict[object, list[TeacherSpec]] = {}
        for spec in self.specs:
            external = external_of(spec)
            key = table_key(external, self.listed.classes)
            found.setdefault((key, external.match, external.unmatched), []).append(spec)
        return list(found.values())

    def _join(self, spec: TeacherSpec) -> TableJoin:
        """Return the join of a teacher's file."""
        if spec.name not in self._joins:
            specs = next(own for own in self._files() if spec in own)
            if self._folder is None:
                self._folder = TemporaryDirectory(prefix="cosup-tables-")
            scan = scan_table(external_of(spec), self.listed.classes)
            count = self._parts(scan)
            folder = Path(self._folder.name)
            if count not in self._ids:
                self._ids[count] = ManifestIds(
                    self.shards, self.listed, folder / f"ids-{count}", count
                )
            own = folder / f"table-{len(self._joins)}"
            join = TableJoin(scan, specs, self._ids[count], self.listed.classes, own)
            for one, read in zip(specs, join.run(), strict=True):
                self._joins[one.name], self._reads[one.name] = join, read
        return self._joins[spec.name]

    def _parts(self, scan: Scan) -> int:
        """Return in how many parts a table and the samples are divided."""
        rows = max(scan.answers, len(self.listed) + self.shards.samples)
        if scan.form == "probabilities":
            classes = len(self.listed.classes)
            rows *= 1 + (classes if classes <= DENSE_LIMIT else 2 * TOP_K) // VALUES
        return parts_for(rows)


def _answers(
    join: TableJoin, teachers: Sequence[TableTeacher], missing: Mapping[str, set[Shard]]
) -> "Iterator[tuple[TableTeacher, Shard, pa.Table]]":
    """Yield the answers of each teacher on each shard that it lacks: rows of the join's answers."""
    names = [spec.name for spec in join.specs]
    wanted = sorted(set[Shard]().union(*(missing[teacher.name] for teacher in teachers)))
    for number in range(join.answers.parts):
        own = [shard for shard in wanted if shard.number % join.answers.parts == number]
        if not own:
            continue
        rows = join.answers_of(number)
        shards, who = (rows.column(name).to_numpy() for name in ("shard", "who"))
        keys = shards.astype(np.int64) * len(names) + who
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        for shard in own:
            for teacher in (one for one in teachers if shard in missing[one.name]):
                key = shard.number * len(names) + names.index(teacher.name)
                start, end = np.searchsorted(keys, [key, key + 1])
                yield teacher, shard, rows.take(order[start:end])


def _whole(shard: Shard, samples: Samples) -> Ints:
    """Return the rows of a shard's samples that have an image."""
    rows = np.arange(shard.samples)
    if samples.checked is None:
        return rows
    broken = samples.store.table(samples.checked, shard.number).column("row").to_numpy()
    return np.setdiff1d(rows, broken)
