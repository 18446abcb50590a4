"""Files of annotations as data frames, in chunks, so that memory does not grow with the rows."""

import gzip
import hashlib
import json
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow.parquet as pq

from cosup.cells import from_cells, single_values
from cosup.data.sources.table import PARQUET
from cosup.errors import UserError, in_short

__all__ = [
    "ARRAYS",
    "CHUNK_ELEMENTS",
    "check_file",
    "ending",
    "file_digest",
    "first_chunk",
    "frames",
    "is_json",
    "load_json",
    "stamp",
    "table_error",
]

CHUNK_ELEMENTS = 2**20
"""Cells that are read at a time."""
CHUNK_ROWS = 2**16
"""Rows of a table that are read at a time, at most: their ids take more memory than few cells."""
READ_BYTES = 2**22
"""Bytes of a Parquet file that are read at a time, of all columns; else all of a row group, which
may be the whole file."""
LEAST_BYTES = 2**14
"""Of a column, in a file of many columns."""

SEPARATED = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
ARRAYS = (".npy", ".npz")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_PLAIN = (*SEPARATED, *LINES, ".json")
ENDINGS = (*_PLAIN, *(f"{name}.gz" for name in _PLAIN), *PARQUET, *ARRAYS)


def table_error(path: Path, problem: str, allowed: str | None = None) -> UserError:
    """Return an error about a file of annotations."""
    return UserError(problem, allowed=allowed, where=f"annotation table {path}")


def ending(path: Path) -> str:
    """Return what a file's name ends with, without `.gz`."""
    return (path.suffixes[-2:] or [""])[0].lower() if _is_zipped(path) else path.suffix.lower()


def check_file(path: Path) -> None:
    """Raise `UserError` unless this is a readable file of the format that its name indicates."""
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise table_error(path, what, "a Parquet or CSV file, JSON, or an array of NumPy")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise table_error(path, f"cannot be read: {error.strerror}") from None
    if ending(path) + (".gz" if _is_zipped(path) else "") not in ENDINGS:
        raise table_error(path, "unknown ending", ", ".join((*_PLAIN, *PARQUET, *ARRAYS, ".gz")))
    if not head:
        raise table_error(path, "is empty")
    if (head == b"PAR1") != (ending(path) in PARQUET):
        found = "is a Parquet file" if head == b"PAR1" else "is no Parquet file"
        raise table_error(path, f"{found}, although its name says otherwise")


def stamp(path: Path) -> tuple[str, int, int]:
    """Return what identifies a file's content within a process. Raises `UserError` if it is
    absent."""
    try:
        found = path.stat()
    except OSError:
        check_file(path)
        raise
    return str(path.resolve()), found.st_mtime_ns, found.st_size


def file_digest(path: Path) -> str:
    """Return the SHA-256 hash of a file's content."""
    return _digest(stamp(path))


@lru_cache(maxsize=64)
def _digest(about: tuple[str, int, int]) -> str:
    with open(about[0], "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def frames(path: Path, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
    """Yield a table in chunks of about `CHUNK_ELEMENTS` cells; at least one, which may be empty.

    columns: those that are needed; other formats than Parquet are read as a whole. Column names are
    text; so is every value of CSV files, as a class may be called "NA" or "01". Raises `UserError`.
    """
    check_file(path)
    kind = ending(path)
    try:
        if kind in PARQUET:
            yield from _parquet(path, columns)
        elif kind in SEPARATED:
            yield from _separated(path, SEPARATED[kind])
        elif kind in LINES:
            yield from _records(_lines(path))
        else:
            yield from _records(iter(_flat_json(path)))
    except UserError:
        raise
    except Exception as error:  # of pandas, pyarrow, zlib: damaged files cause errors of any kind
        name = "Parquet" if kind in PARQUET else "CSV" if kind in SEPARATED else "JSON"
        encoding = "UTF-8" if isinstance(error, UnicodeDecodeError) else None
        raise table_error(path, f"cannot be read as {name}: {in_short(error)}", encoding) from None


def first_chunk(path: Path) -> pd.DataFrame:
    """Return the first rows of a table."""
    chunks = frames(path)
    found = next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    return found


def load_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises `UserError`."""
    try:
        with _opened(path) as file:
            return _parsed(file.read())
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise table_error(path, f"cannot be read as JSON: {in_short(error)}") from None


def is_json(path: Path) -> bool:
    """Return whether a file is one JSON value, not one per line."""
    return ending(path) == ".json"


def _is_zipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _opened(path: Path) -> IO[str]:
    if _is_zipped(path):
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    frame.columns = pd.Index([str(column) for column in frame.columns])
    return single_values(frame)


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[pd.DataFrame]:
    about = pq.read_metadata(path)
    size = max(LEAST_BYTES, READ_BYTES // max(1, about.num_columns))
    with pq.ParquetFile(path, metadata=about, buffer_size=size, pre_buffer=False) as file:
        names = [str(name) for name in file.schema_arrow.names]
        chosen = None if columns is None else [name for name in names if name in columns]
        width = len(names if chosen is None else chosen)
        empty = True
        for batch in file.iter_batches(batch_size=min(CHUNK_ROWS, _rows(width)), columns=chosen):
            empty = False
            yield _named(batch.to_pandas())
        if empty:
            yield _named(file.schema_arrow.empty_table().to_pandas())


def _separated(path: Path, separator: str) -> Iterator[pd.DataFrame]:
    with _opened(path) as file:
        width = file.readline().count(separator) + 1
    with pd.read_csv(
        path,
        sep=separator,
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        chunksize=min(CHUNK_ROWS, _rows(width)),
        index_col=False,
    ) as reader:
        while (chunk := _next_chunk(reader)) is not None:
            yield from_cells(_named(chunk))


def _next_chunk(reader: Iterator[pd.DataFrame]) -> pd.DataFrame | None:
    with warnings.catch_warnings():
        # pandas only warns about fields beyond the header, and drops them.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return next(reader, None)
        except pd.errors.ParserWarning as warning:
            raise ValueError("a row has more fields than the header") from warning


def _lines(path: Path) -> Iterator[Any]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield _parsed(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {in_short(error)}") from None


def _parsed(text: str) -> Any:
    found = json.loads(text)
    if _SURROGATE.search(text):
        json.dumps(found, ensure_ascii=False).encode()  # raises an error for half a pair
    return found


def _flat_json(path: Path) -> list[Any]:
    found = load_json(path)
    return found if isinstance(found, list) else [found]


def _records(records: Iterator[Any]) -> Iterator[pd.DataFrame]:
    """Yield records as frames. Columns are those of the first record, and later ones that appear
    in the same chunk."""
    rows: list[dict[str, Any]] = []
    size, any_rows = 1, False
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise ValueError(f"item {number} is no object")
        if not rows:
            size = _rows(len(record))
        rows.append(record)
        if len(rows) >= size:
            yield _named(pd.DataFrame(rows, dtype=object))
            rows, any_rows = [], True
    if rows or not any_rows:
        yield _named(pd.DataFrame(rows, dtype=object))


def _rows(columns: int) -> int:
    return max(256, CHUNK_ELEMENTS // max(1, columns))
