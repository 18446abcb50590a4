"""The ids of all samples of a manifest, in parts on disk, and where in the shards each is."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosup.data.images import Ints
from cosup.data.sources.manifest_rows import KINDS, ManifestFile
from cosup.data.table import ImageData
from cosup.sharded.shards import Shard, Shards
from cosup.sharded.spill import Spill, parts_of
from cosup.teachers.tables.matching import shared_part

__all__ = ["ELSEWHERE", "LISTED", "ManifestIds", "SamplePart"]

LISTED, ELSEWHERE = -1, -2
"""Instead of a shard: a sample of the labelled splits, and one that the run leaves out."""
NEEDED = tuple(kind for kind in KINDS if kind != "domain")


class SamplePart(NamedTuple):
    """Some samples. names: ids. shards: numbers of their shards, `LISTED` or `ELSEWHERE`. places:
    among the samples of the shard, or rows of the listed ones."""

    names: list[str]
    shards: NDArray[np.int32]
    places: Ints

    @staticmethod
    def none() -> "SamplePart":
        """Return no samples."""
        return SamplePart([], np.empty(0, np.int32), np.empty(0, np.int64))


class ManifestIds:
    """The ids of a manifest. listed: its labelled samples. folder: for the parts."""

    def __init__(self, shards: Shards, listed: ImageData, folder: Path, parts: int) -> None:
        self.shards = shards
        self.listed = listed
        self.folder = folder
        self.parts = parts
        self._spills: dict[bool, Spill] = {}

    def part(self, number: int, exact: bool) -> SamplePart:
        """Return the samples of a part. exact: divided by ids, else by file names."""
        if exact not in self._spills:
            self._spills[exact] = self._divided(exact)
        table = self._spills[exact].read(number)
        if table is None:
            return SamplePart.none()
        return SamplePart(
            table.column("id").to_pylist(),
            table.column("shard").to_numpy(),
            table.column("place").to_numpy(),
        )

    def _divided(self, exact: bool) -> Spill:
        import pyarrow as pa

        spill = Spill(self.folder / f"ids-{'exact' if exact else 'names'}", self.parts)
        change = shared_part("exact" if exact else "stem")
        for names, shards, places in self._all():
            columns = {"id": pa.array(names, pa.string()), "shard": shards, "place": places}
            spill.add(pa.table(columns), parts_of([change(name) for name in names], self.parts))
        return spill

    def _all(self) -> Iterator[SamplePart]:
        """Read the manifest once."""
        rows_of = {name: row for row, name in enumerate(self.listed.table["sample_id"])}
        by_file: dict[int, list[Shard]] = {}
        for shard in self.shards:
            by_file.setdefault(shard.file, []).append(shard)
        for number, file in enumerate(self.shards.reader.files):
            yield from self._of_file(file, by_file.get(number, []), rows_of)

    def _of_file(
        self, file: ManifestFile, shards: Sequence[Shard], rows_of: Mapping[str, int]
    ) -> Iterator[SamplePart]:
        firsts = np.array([shard.first for shard in shards], dtype=np.int64)
        starts = np.cumsum([0, *(shard.samples for shard in shards)])
        numbers = np.array([shard.number for shard in shards], dtype=np.int32)
        seen = 0
        for rows in file.rows(NEEDED):
            names, student = rows.ids, self.shards.reader.plan.splits(rows) == "student_train"
            found = np.full(len(rows), ELSEWHERE, dtype=np.int32)
            places = np.array([rows_of.get(name, -1) for name in names], dtype=np.int64)
            found[(places >= 0) & ~student] = LISTED
            own = np.flatnonzero(student)
            shard = np.searchsorted(firsts, rows.first + own, side="right") - 1
            if len(own):
                found[own] = numbers[shard]
                places[own] = seen + np.arange(len(own)) - starts[shard]
            seen += len(own)
            yield SamplePart(names, found, places)
