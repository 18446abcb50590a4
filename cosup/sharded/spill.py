"""Rows that are too many for memory, in parts on the disk of this machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosup.data.images import Ints
from cosup.errors import RunError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PART_ROWS", "Spill", "parts_for", "parts_of"]

PART_ROWS = 2**18
"""Rows of a part, on average."""
MOST_PARTS = 4096
"""Beyond, parts grow: what is held would be written in too many pieces."""
HELD_BYTES = 2**23
"""Of rows that are held before they are written, in a piece of each part."""


class Spill:
    """Rows in `parts` files of a folder; a part keeps the order in which its rows came."""

    def __init__(self, folder: Path, parts: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.parts = parts
        self._held: list[tuple[pa.Table, Ints]] = []

    def add(self, rows: "pa.Table", part: Ints) -> None:
        """Add rows to their parts [n]. Raise `RunError` if they cannot be written."""
        self._held.append((rows, part))
        if sum(held.nbytes for held, _ in self._held) >= HELD_BYTES:
            self._write()

    def read(self, part: int, columns: Sequence[str] | None = None) -> "pa.Table | None":
        """Return the rows of a part, or these columns of them; None without any."""
        import pyarrow as pa

        self._write()
        path, found = self._path(part), []
        if not path.exists():
            return None
        with pa.OSFile(str(path)) as file:
            while file.tell() < file.size():
                found.append(pa.ipc.open_stream(file).read_all())
        table = pa.concat_tables(found).combine_chunks()
        return table if columns is None else table.select(list(columns))

    def each(self, columns: Sequence[str] | None = None) -> "Iterator[tuple[int, pa.Table]]":
        """Yield the parts that have rows: the number of each, and what `read` returns."""
        for number in range(self.parts):
            if (rows := self.read(number, columns)) is not None:
                yield number, rows

    def _write(self) -> None:
        """Write the rows that are held."""
        import pyarrow as pa

        if not self._held:
            return
        tables, numbers = zip(*self._held, strict=True)
        self._held = []
        part = np.concatenate(numbers)
        ordered = pa.concat_tables(tables).take(np.argsort(part, kind="stable"))
        ends = np.bincount(part, minlength=self.parts).cumsum()
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if end > start:
                self._append(number, ordered.slice(int(start), int(end - start)))

    def _append(self, part: int, rows: "pa.Table") -> None:
        import pyarrow as pa

        path, options = self._path(part), pa.ipc.IpcWriteOptions(compression="lz4")
        try:
            with pa.OSFile(str(path), mode="ab") as file:
                stream = pa.ipc.new_stream(file, rows.schema, options=options)
                stream.write_table(rows)
                stream.close()
        except OSError as error:
            problem = f"cannot be written: {error.strerror or error}"
            raise RunError(f"{problem}; TMPDIR names another folder", where=str(path)) from None

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:04d}.arrow"


def parts_for(rows: int) -> int:
    """Return in how many parts so many rows are divided."""
    return max(1, min(MOST_PARTS, -(-rows // PART_ROWS)))


def parts_of(keys: Sequence[str], parts: int) -> Ints:
    """Return the part [n] of each key, which depends on the key alone."""
    from pandas.util import hash_array

    if parts == 1:
        return np.zeros(len(keys), dtype=np.int64)
    hashes = hash_array(np.asarray(keys, dtype=object), categorize=False)
    return (hashes % np.uint64(parts)).astype(np.int64)
