"""The rows of a manifest: of Parquet files, or of the members of WebDataset's tar files.

Rows are read in batches, from any row on, so that a manifest of any length is read in constant
memory.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from cosup.data.images import Images
from cosup.data.sources.files import IMAGE_ENDINGS
from cosup.data.storage import StoredFile, open_file
from cosup.data.stored_images import MemberImages, Members, UriImages
from cosup.errors import RunError, UserError, in_short, unknown_name
from cosup.remote import is_uri, split
from cosup.sections import Section

__all__ = ["KINDS", "PARQUET", "TAR", "ManifestColumns", "ManifestFile", "Rows", "join_rows"]

PARQUET = (".parquet", ".pq")
TAR = ".tar"
ROWS = 65_536
"""Rows that are read at once."""
READ_BYTES = 2**20
"""Bytes of a tar file that are read at once, to find its members."""
COLUMN_BYTES = 2**20
"""Bytes of a column of a Parquet file that are read at once; else those of all its rows in a row
group, which may be the whole file."""
MOST_TEXT = 2**20
"""Bytes of a label or of a JSON object in a tar file; more is no label."""


class ManifestColumns(Section):
    """The names of the columns. One of the default name may be absent; null ignores it.

    In tar files these are keys of the JSON objects.
    """

    id: str | None = "id"
    """Sample ids, each of them once; without them the uris are used."""
    uri: str = "uri"
    """Paths or URIs of the images; relative ones start from `root`."""
    label: str | None = "label"
    """Names of classes; empty or missing where the class is not known."""
    domain: str | None = "domain"
    """Names of domains; without them all samples are of one domain."""
    split: str | None = "split"
    """Splits (`data.splits`)."""
    group: str | None = "group"
    """Names of groups, which no split divides."""


KINDS = tuple(ManifestColumns.model_fields)


@dataclass(frozen=True)
class Rows:
    """Some rows of a file, in order.

    first: number of the first row in the file. texts: the values of each kind of column that the
    file has, "" where missing. start, size: where the images are in a tar file, in bytes. head:
    where the first member of each sample begins in it.
    """

    file: StoredFile
    first: int
    texts: dict[str, list[str]]
    start: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    head: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.texts.values())))

    @property
    def ids(self) -> list[str]:
        """Return the ids, or the uris where the file has none."""
        return self.texts["id"] if "id" in self.texts else self.texts["uri"]


@dataclass(frozen=True)
class ManifestFile:
    """A file of a manifest. root: what relative uris start from; None: the file's folder."""

    file: StoredFile
    columns: ManifestColumns
    root: str | None = None
    name: str = ""
    """Begins the sample ids of a tar file."""

    @property
    def is_tar(self) -> bool:
        """Return whether it is a tar file of WebDataset."""
        return self.file.path.partition("?")[0].lower().endswith(TAR)

    @property
    def folder(self) -> str:
        """Return what relative uris start from."""
        if self.root is not None:
            return self.root
        path = self.file.path
        return split(path)[0] if is_uri(path) else os.path.dirname(path)

    def kinds(self) -> list[str]:
        """Return the kinds of columns that it has. Raise `UserError` for one that is missing."""
        if self.is_tar:
            return list(KINDS)
        with self._parquet() as parquet:
            return self._kinds(parquet.schema_arrow.names)

    def count(self) -> int:
        """Return the number of rows of a Parquet file."""
        with self._parquet() as parquet:
            return int(parquet.metadata.num_rows)

    def rows(
        self,
        kinds: Sequence[str] = KINDS,
        first: int = 0,
        count: int | None = None,
        head: int = 0,
    ) -> Iterator[Rows]:
        """Yield rows in batches: `count` of them from `first`, or all.

        kinds: the kinds of columns to read, as far as the file has them. head: where the first of
        these rows begins in a tar file. Raise `UserError` for a file that cannot be read.
        """
        found = self._tar_rows(first, head) if self.is_tar else self._parquet_rows(kinds, first)
        left = count
        for rows in found:
            part = rows if left is None or len(rows) <= left else _cut(rows, left)
            if len(part):
                yield part
            if left is not None:
                left -= len(part)
                if left <= 0:
                    return

    def _kinds(self, names: Sequence[str]) -> list[str]:
        found = []
        for kind in KINDS:
            name = getattr(self.columns, kind)
            if name in names:
                found.append(kind)
            elif name is not None and (kind == "uri" or name != kind):
                raise unknown_name(
                    f"column of '{self.file.path}'", name, names, key=("columns", kind)
                )
        return found

    def _parquet_rows(self, kinds: Sequence[str], first: int) -> Iterator[Rows]:
        with self._parquet() as parquet:
            own = [kind for kind in self._kinds(parquet.schema_arrow.names) if kind in kinds]
            names = [getattr(self.columns, kind) for kind in own]
            sizes = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
            start, groups = 0, list(range(len(sizes)))
            while groups and start + sizes[groups[0]] <= first:
                start += sizes[groups.pop(0)]
            # Threads are no faster with few columns, and each keeps memory of its own.
            batches = parquet.iter_batches(
                ROWS, row_groups=groups, columns=names, use_threads=False
            )
            for batch in batches:
                skipped = min(max(0, first - start), len(batch))
                columns = (batch.column(name).slice(skipped) for name in names)
                texts = {kind: _texts(one) for kind, one in zip(own, columns, strict=True)}
                if skipped < len(batch):
                    yield Rows(self.file, start + skipped, texts)
                start += len(batch)

    def _tar_rows(self, first: int, head: int) -> Iterator[Rows]:
        with self._explained("a tar file"), _reader(self.file.path) as source:
            source.seek(head)
            samples = self._samples(source)
            while part := [sample for _, sample in zip(range(ROWS), samples, strict=False)]:
                texts = {kind: [one.texts.get(kind, "") for one in part] for kind in KINDS}
                yield Rows(
                    self.file,
                    first,
                    texts,
                    [one.start for one in part],
                    [one.size for one in part],
                    [one.head for one in part],
                )
                first += len(part)

    def _samples(self, source: Any) -> "Iterator[_Sample]":
        """Yield the samples of an open tar file: neighbours whose names begin alike."""
        with tarfile.open(fileobj=source, mode="r:") as tar:
            for key, members in groupby(_members(tar), lambda member: _key(member.name)[0]):
                texts, place, head = {"id": f"{self.name}{key}", "uri": key}, (0, 0), -1
                for member in members:
                    head = member.offset if head < 0 else head
                    ending = _key(member.name)[1]
                    if f".{ending.rpartition('.')[2]}" in IMAGE_ENDINGS:
                        texts["uri"], place = member.name, (member.offset_data, member.size)
                    elif ending in ("cls", "json") and member.size <= MOST_TEXT:
                        held = tar.extractfile(member)
                        assert held is not None, "only files are listed"
                        texts |= self._labels(ending, member.name, held.read())
                yield _Sample(texts, head, *place)

    def _labels(self, ending: str, name: str, content: bytes) -> dict[str, str]:
        """Return what a member says of its sample."""
        try:
            if ending == "cls":
                return {"label": content.decode().strip()}
            said = json.loads(content)
        except (ValueError, RecursionError) as error:
            form = "UTF-8" if ending == "cls" else "JSON"
            problem = f"its member '{name}' is no {form}: {in_short(error)}"
            raise UserError(problem, key="path", value=self.file.path) from None
        if not isinstance(said, dict):
            return {}
        names = {kind: getattr(self.columns, kind) for kind in KINDS if kind not in ("id", "uri")}
        return {k: str(said[name]) for k, name in names.items() if said.get(name) is not None}

    @contextmanager
    def _parquet(self) -> Iterator[Any]:
        from pyarrow.parquet import ParquetFile

        with self._explained("Parquet"), open_file(self.file.path) as file:
            yield ParquetFile(file, buffer_size=COLUMN_BYTES, pre_buffer=False)

    @contextmanager
    def _explained(self, form: str) -> Iterator[None]:
        try:
            yield
        except (UserError, RunError):
            raise
        except Exception as error:  # of damaged files, and of storages: errors of any class
            problem = f"cannot be read as {form}: {in_short(error)}"
            raise UserError(problem, key="path", value=self.file.path) from None


class _Sample(NamedTuple):
    """A sample of a tar file, and where its image and its first member are."""

    texts: dict[str, str]
    head: int
    start: int
    size: int


def join_rows(parts: Sequence[Rows], files: Sequence[ManifestFile], state: str) -> Images:
    """Return the images of rows of several files (all tar files, or none).

    files: the file of each part. state: of the manifest, for the fingerprint.
    """
    if not files or not files[0].is_tar:
        names = [name for rows in parts for name in rows.texts["uri"]]
        folders: list[str] = []
        for rows, file in zip(parts, files, strict=True):
            folders += [file.folder] * len(rows)
        return UriImages(names, folders, state)
    tars = list(dict.fromkeys(file.file for file in files))
    numbers = [tars.index(rows.file) for rows in parts]
    return MemberImages(
        Members(
            [tar.path for tar in tars],
            [tar.stat for tar in tars],
            np.repeat(np.asarray(numbers, np.int64), [len(rows) for rows in parts]),
            np.asarray([start for rows in parts for start in rows.start], np.int64),
            np.asarray([size for rows in parts for size in rows.size], np.int64),
            [name for rows in parts for name in rows.texts["uri"]],
        )
    )


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar file, without keeping them.

    Raise `ReadError` if it is cut off or damaged: `tarfile` takes that for its end.
    """
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        if member.isfile() and not _key(member.name)[0].rpartition("/")[2].startswith("."):
            yield member
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut off, its end is missing")
    if any(block):
        raise tarfile.ReadError(f"no header at byte {tar.offset}")


def _key(name: str) -> tuple[str, str]:
    """Return what the names of a sample's members share, and the ending, as WebDataset does."""
    folder, mark, last = name.rpartition("/")
    start, _, ending = last.partition(".")
    return folder + mark + start, ending.lower()


@contextmanager
def _reader(path: str) -> Iterator[Any]:
    """Open a path or URI as a file of Python."""
    if not is_uri(path):
        with open(path, "rb") as file:
            yield file
        return
    with open_file(path) as raw, io.BufferedReader(raw, READ_BYTES) as buffered:
        yield buffered


def _cut(rows: Rows, count: int) -> Rows:
    """Return the first of some rows."""
    return Rows(
        rows.file,
        rows.first,
        {kind: values[:count] for kind, values in rows.texts.items()},
        rows.start[:count],
        rows.size[:count],
        rows.head[:count],
    )


def _texts(column: Any) -> list[str]:
    """Return the values of an Arrow column as text, "" for missing ones; 3.0 is 3."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        values = column.to_pylist()
        return ["" if v is None or v != v else str(int(v) if v == v // 1 else v) for v in values]
    texts: list[str] = pc.utf8_trim_whitespace(
        pc.fill_null(pc.cast(column, pa.string()), "")
    ).to_pylist()
    return texts
