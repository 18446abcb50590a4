"""Shards of a manifest: contiguous rows of its files, listed by number and read one at a time.

The labelled samples that train teachers, validate and test are few, and listed whole. Those of
student_train are not: of them a run knows the number in each shard (`cosup.sharded.opening`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosup.data.sources import Collection, Columns, collect
from cosup.data.sources.base import TABLE_COLUMNS
from cosup.data.sources.manifest_rows import KINDS, ManifestFile, Rows, join_rows
from cosup.data.table import ImageData
from cosup.errors import RunError
from cosup.secrets import mask
from cosup.sharded.splits import SplitPlan

__all__ = ["Shard", "ShardReader", "Shards", "take"]


class Shard(NamedTuple):
    """Some rows of one file.

    number: among all shards. file: number of the file. first: its first row in the file. rows: how
    many. head: where the first row begins in a tar file, in bytes. samples: those of student_train.
    """

    number: int
    file: int
    first: int
    rows: int
    head: int
    samples: int


@dataclass(frozen=True)
class ShardReader:
    """What a process needs to read any shard.

    files: of the manifest. plan: of the splits. fingerprint: of the manifest and of all settings
    that a sample depends on; of the seed if student_train is drawn.
    """

    files: tuple[ManifestFile, ...] = field(repr=False)
    plan: SplitPlan
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    fingerprint: str

    def read(self, shard: Shard) -> ImageData:
        """Return the samples of student_train in a shard; their images are read when needed.

        Raise `RunError` if the manifest has changed, and `UserError` if it cannot be read.
        """
        file = self.files[shard.file]
        parts = list(file.rows(KINDS, shard.first, shard.rows, shard.head))
        taken = [take(rows, self.plan.splits(rows) == "student_train") for rows in parts]
        counts = sum(map(len, parts)), sum(map(len, taken))
        if counts != (shard.rows, shard.samples):
            raise RunError(
                f"shard {shard.number} of the manifest has {counts[1]} samples in {counts[0]} rows "
                f"instead of {shard.samples} in {shard.rows}: it has changed since the run began",
                where=mask(file.file.path),
            )
        found = self.collection(taken, [file] * len(taken))
        return self._data(found, f"{self.fingerprint}-{shard.number}")

    def blank(self) -> ImageData:
        """Return data without any sample, of these classes and domains."""
        return self._data(self.collection([], []), self.fingerprint)

    def collection(self, parts: Sequence[Rows], files: Sequence[ManifestFile]) -> Collection:
        """Return rows as samples. files: that of each part."""
        classes = {name: number for number, name in enumerate(self.classes)} | {"": -1}
        domains = {name: number for number, name in enumerate(self.domains)}
        ids = [name for rows in parts for name in rows.ids]
        one = len(self.domains) == 1
        columns = Columns(
            ids,
            [classes[name] for name in _joined(parts, "label")],
            domain=[0] * len(ids) if one else [domains[name] for name in _joined(parts, "domain")],
            group=[
                group or f"({name})"
                for group, name in zip(_joined(parts, "group"), ids, strict=True)
            ],
            split=[name for rows in parts for name in self.plan.splits(rows)],
        )
        state = " ".join(file.file.stat for file in self.files)
        return collect(columns, join_rows(parts, files, state), self.classes, self.domains)

    def _data(self, found: Collection, fingerprint: str) -> ImageData:
        table = found.table[list(TABLE_COLUMNS)].assign(given=found.table["label"])
        return ImageData(table, self.classes, self.domains, found.images, fingerprint)


@dataclass(frozen=True)
class Shards:
    """The samples of student_train as shards, those without any left out.

    known: whether any of these samples has a label.
    """

    reader: ShardReader
    shards: tuple[Shard, ...] = field(repr=False)
    known: bool

    def __len__(self) -> int:
        return len(self.shards)

    def __iter__(self) -> Iterator[Shard]:
        return iter(self.shards)

    @property
    def samples(self) -> int:
        """Return the number of samples of all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return self.reader.classes

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the names of the domains."""
        return self.reader.domains

    @property
    def fingerprint(self) -> str:
        """Return a hash of the manifest and of how it is divided."""
        return self.reader.fingerprint


def take(rows: Rows, chosen: NDArray[np.bool_]) -> Rows:
    """Return the chosen ones of some rows, in order. `first` and `head` lose their meaning."""
    places = np.flatnonzero(chosen).tolist()
    return Rows(
        rows.file,
        rows.first,
        {kind: [values[place] for place in places] for kind, values in rows.texts.items()},
        [rows.start[place] for place in places] if rows.start else [],
        [rows.size[place] for place in places] if rows.size else [],
    )


def _joined(parts: Sequence[Rows], kind: str) -> list[str]:
    return [text for rows in parts for text in rows.texts.get(kind) or [""] * len(rows)]
