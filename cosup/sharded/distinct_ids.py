"""Whether each row of a manifest has an id of its own, in memory that does not grow with the rows.

Hashes of the ids are divided into parts on disk, in which equal ones are found. Their rows are then
looked up in the manifest, as different ids may have one hash.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from cosup.data.sources.manifest_rows import ManifestFile, Rows
from cosup.errors import UserError
from cosup.secrets import mask
from cosup.sharded.spill import Spill, parts_for

__all__ = ["DistinctIds"]

MOST = 1000
"""Hashes that are looked up at once."""
ID_KINDS = ("id", "uri")


class DistinctIds(AbstractContextManager["DistinctIds"]):
    """Takes the ids of all rows, and raises `UserError` if two are equal, or one is empty."""

    def __init__(self, rows: int) -> None:
        """rows: about how many there are."""
        self.parts = parts_for(rows)
        self._folder = TemporaryDirectory(prefix="cosup-ids-")
        self._spill = Spill(Path(self._folder.name, "hashes"), self.parts)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what is on disk."""
        self._folder.cleanup()

    def add(self, rows: Rows) -> None:
        """Add the ids of some rows."""
        import pyarrow as pa

        ids = rows.ids
        if "" in ids:
            row = rows.first + ids.index("") + 1
            problem = f"row {row} has no id"
            raise UserError(problem, key="path", value=mask(rows.file.path))
        hashes = _hashes(ids)
        part = (hashes % np.uint64(self.parts)).astype(np.int64)
        self._spill.add(pa.table({"hash": hashes}), part)

    def check(self, files: Iterable[ManifestFile]) -> None:
        """Raise if any two of the ids that were added are equal. files: that have them."""
        for _, table in self._spill.each():
            hashes = np.sort(table.column("hash").to_numpy())
            twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
            for start in range(0, len(twice), MOST):
                _look_up(files, twice[start : start + MOST])


def _look_up(files: Iterable[ManifestFile], hashes: NDArray[np.uint64]) -> None:
    """Raise if two rows, whose ids have one of these hashes, have the same id."""
    places: dict[str, str] = {}
    for file in files:
        for rows in file.rows(ID_KINDS):
            ids = rows.ids
            for place in np.flatnonzero(np.isin(_hashes(ids), hashes)).tolist():
                here = f"row {rows.first + place + 1} of '{mask(file.file.path)}'"
                if (other := places.setdefault(ids[place], here)) != here:
                    raise UserError(
                        f"{other} and {here} have the id {{value}}; each sample needs its own",
                        key="path",
                        value=ids[place],
                    )


def _hashes(ids: list[str]) -> NDArray[np.uint64]:
    from pandas.util import hash_array

    return np.asarray(hash_array(np.asarray(ids, dtype=object), categorize=False))
