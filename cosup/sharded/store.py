"""What is computed for each shard, as one Parquet file per shard, on this machine or at a URI.

A file is named by what it is and by a key of all that it depends on. So a shard that is computed
twice is written to the same file, and what is missing is found by names. A file is there as a whole
or not at all. Parquet's own checksums of pages are verified when it is read.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosup import remote
from cosup.data.storage import read_bytes
from cosup.errors import RunError, in_short
from cosup.files import write_atomic
from cosup.manifest import Damaged, State
from cosup.probabilities import ProbTable
from cosup.remote import is_uri
from cosup.secrets import mask
from cosup.sharded.shards import Shard

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FOLD", "LABEL", "WEIGHT", "Product", "Record", "ShardStore", "table_of", "tensors_of"]

ENDING = ".parquet"
KEY_LETTERS = 16
CLASSES = b"classes"
TO_DO = "remove it, and resume the run, which makes it again"
WEIGHT, FOLD, LABEL = "weight", "fold", "label"
"""Columns of the weights of samples in the student's loss: 0 is left out; their folds; and their
labels (-1 unknown), where the student learns them."""


@dataclass(frozen=True)
class Product:
    """What is computed for each shard. kind, name: such as `annotations` and a teacher's name. key:
    a hash of everything that it depends on, but for the shard."""

    kind: str
    name: str
    key: str

    @staticmethod
    def of(kind: str, name: str, *about: str) -> "Product":
        """Return a product whose key is a hash of these texts."""
        return Product(kind, name, hashlib.sha256("\x1f".join(about).encode()).hexdigest()[:32])

    @property
    def folder(self) -> str:
        """Return the folder of its files below that of the store."""
        return f"{self.kind}/{self.name}/{self.key[:KEY_LETTERS]}"


@dataclass(frozen=True)
class Record:
    """A file of a store. path: below the store's folder. sha256: of its content."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardStore:
    """A folder of products. root: a path or a URI."""

    root: str

    def missing(self, product: Product, shards: Iterable[Shard]) -> list[Shard]:
        """Return the shards of which the product is not there."""
        present = self._present(product)
        return [shard for shard in shards if _name(shard.number) not in present]

    def write(
        self,
        product: Product,
        number: int,
        content: "pa.Table | Mapping[str, Tensor]",
        facts: Mapping[bytes, bytes] | None = None,
    ) -> Record:
        """Write the product of one shard: a table, or tensors [n, ...] as columns.

        facts: kept with the table. Raise `RunError` for a full disk or a storage that fails.
        """
        from pyarrow import parquet

        table = table_of(content) if isinstance(content, Mapping) else content
        if facts:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **facts})
        sink = io.BytesIO()
        parquet.write_table(
            table,
            sink,
            compression="zstd",
            use_dictionary=[f.name for f in table.schema if _repeats(f)],
            write_page_checksum=True,
        )
        place, whole = f"{product.folder}/{_name(number)}", sink.getvalue()
        self._put(place, whole)
        return Record(place, len(whole), hashlib.sha256(whole).hexdigest())

    def table(
        self, product: Product, number: int, columns: Sequence[str] | None = None
    ) -> "pa.Table":
        """Read the product of one shard. Raise `RunError` (of a local file, `Damaged`) if it is
        missing or not as it was written."""
        place = f"{product.folder}/{_name(number)}"
        with self._damage_told(place):
            return self._read(place, columns)[0]

    def _read(self, place: str, columns: Sequence[str] | None) -> "tuple[pa.Table, bytes]":
        """Return a table, and the whole file."""
        import pyarrow as pa
        from pyarrow import parquet

        whole = read_bytes(self._path(place))
        # `read_table` makes a dataset of the file first, which takes twice as long as a small file
        # does, and reads it by a thread of its own.
        file = parquet.ParquetFile(
            pa.BufferReader(whole), page_checksum_verification=True, pre_buffer=False
        )
        named = None if columns is None else list(columns)
        table = file.read(columns=named, use_threads=False)
        if gone := set(named or ()) - set(table.column_names):
            raise ValueError(f"it has no column {', '.join(sorted(gone))}")
        return table, whole

    @contextmanager
    def _damage_told(self, place: str) -> Iterator[None]:
        """Raise `RunError` (of a local file, `Damaged`) for a file that cannot be read."""
        path = self._path(place)
        try:
            yield
        except RunError:
            raise
        except FileNotFoundError:
            reason = "the file is gone (resume the run, which makes it again)"
            raise self._damaged(path, reason) from None
        except Exception as error:  # of damaged files: errors of any class
            raise self._damaged(path, f"{in_short(error)} ({TO_DO})") from None

    def _damaged(self, path: str, reason: str) -> RunError:
        if is_uri(path):
            return RunError(f"is damaged: {reason}", where=mask(path))
        return Damaged(Path(path), reason)

    def tensors(
        self, product: Product, number: int, columns: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Read tensors that `write` was given; raise as `table`."""
        place = f"{product.folder}/{_name(number)}"
        with self._damage_told(place):
            return tensors_of(self._read(place, columns)[0])

    def tensor(self, product: Product, number: int, column: str) -> Tensor:
        """Read one of the tensors that `write` was given; raise as `table`."""
        return self.tensors(product, number, [column])[column]

    def write_probs(self, product: Product, number: int, probs: ProbTable) -> Record:
        """Write class probabilities of the samples of one shard."""
        facts = {CLASSES: str(probs.num_classes).encode()}
        return self.write(product, number, probs.tensors(), facts)

    def probs(self, product: Product, number: int) -> ProbTable:
        """Read class probabilities that `write_probs` was given; raise as `table`."""
        place = f"{product.folder}/{_name(number)}"
        with self._damage_told(place):
            table, _ = self._read(place, None)
            facts = table.schema.metadata or {}
            return ProbTable.from_tensors(int(facts[CLASSES]), tensors_of(table))

    def find(self, product: Product, number: int) -> Record:
        """Return the record of the product of one shard, as it is there now; raise as `table`."""
        place = f"{product.folder}/{_name(number)}"
        with self._damage_told(place):
            _, whole = self._read(place, None)
        return Record(place, len(whole), hashlib.sha256(whole).hexdigest())

    def take(self, product: Product, number: int, other: "ShardStore") -> bool:
        """Take the product of one shard over from another store; return whether it is whole there.

        Files on one file system of this machine are linked to (a hard link), others are copied.
        """
        place = f"{product.folder}/{_name(number)}"
        try:
            with other._damage_told(place):
                _, whole = other._read(place, None)
        except RunError:
            return False
        source, path = other._path(place), self._path(place)
        if is_uri(source) or is_uri(path) or not _linked(Path(source), Path(path)):
            self._put(place, whole)
        return True

    def state(self, record: Record) -> State:
        """Return the state of a file."""
        try:
            whole = read_bytes(self._path(record.path))
        except OSError:
            return State.MISSING
        is_whole = hashlib.sha256(whole).hexdigest() == record.sha256
        return State.WHOLE if is_whole else State.DAMAGED

    def discard(self, path: str) -> None:
        """Remove a file, if it is there."""
        found = self._path(path)
        if is_uri(found):
            remote.remove(found)
        else:
            Path(found).unlink(missing_ok=True)

    def remove(self, product: Product) -> None:
        """Remove the files of a product, of all shards."""
        path = self._path(product.folder)
        if is_uri(path):
            remote.remove(path)
            return
        for name in self._present(product):
            Path(path, name).unlink(missing_ok=True)
        for folder in (Path(path), Path(path).parent):
            with suppress(OSError):  # of other products, or gone
                folder.rmdir()

    def _present(self, product: Product) -> set[str]:
        path = self._path(product.folder)
        if is_uri(path):
            return set(remote.listing(path))
        try:
            return {name for name in os.listdir(path) if name.endswith(ENDING)}
        except FileNotFoundError:
            return set()

    def _put(self, place: str, content: bytes) -> None:
        path = self._path(place)
        if not is_uri(path):
            write_atomic(Path(path), content)
            return
        with TemporaryDirectory() as folder:
            file = Path(folder, "content")
            file.write_bytes(content)
            remote.put(file, path)

    def _path(self, place: str) -> str:
        return remote.join(self.root, place) if is_uri(self.root) else f"{self.root}/{place}"


def _linked(source: Path, path: Path) -> bool:
    """Return whether a file is now one that is there under another name, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, path)
    except OSError:  # another file system, or one without such links
        return False
    return True


def _name(number: int) -> str:
    return f"{number:07d}{ENDING}"


def table_of(tensors: Mapping[str, Tensor]) -> "pa.Table":
    """Return tensors as columns: [n] of numbers, [n, k] of lists of k numbers."""
    import pyarrow as pa

    columns = {}
    for name, tensor in tensors.items():
        values = pa.array(tensor.detach().cpu().reshape(-1).numpy())
        wide = tensor.dim() > 1
        columns[name] = (
            pa.FixedSizeListArray.from_arrays(values, tensor.shape[1]) if wide else values
        )
    return pa.table(columns)


def tensors_of(table: "pa.Table") -> dict[str, Tensor]:
    """Return the tensors that `table_of` was given."""
    import pyarrow as pa

    found = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        wide = pa.types.is_fixed_size_list(column.type)
        flat = column.flatten() if wide else column
        values = torch.from_numpy(flat.to_numpy(zero_copy_only=False).copy())
        found[name] = values.view(-1, column.type.list_size) if wide else values
    return found


def _repeats(column: "pa.Field") -> bool:
    """Return whether a column's values are texts, which often repeat."""
    import pyarrow as pa

    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))
