"""Annotation tables made by people, by rules or by another system.

A Parquet or CSV file has a column `sample_id` and either `label` (the name or index of a class;
blank or -1 is no label) or a column of probabilities per class. It is read in chunks and stored
compactly. Errors name the file, the row (from 1), the sample and the value.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from cosup.errors import UserError, unknown_name
from cosup.probabilities import ProbTable

__all__ = ["AnnotationTable", "check_file", "file_digest", "read_annotations"]

CHUNK_ELEMENTS = 2**22
SUM_TOLERANCE = 0.01
"""Tolerance of the sum of a row's probabilities, which are often rounded; they are rescaled."""
INDEX_COLUMNS = ("", "Unnamed: 0", "__index_level_0__")  # pandas writes them by default
PROBABILITIES = "finite, not negative, each row summing to 1"


@dataclass(frozen=True)
class AnnotationTable:
    """A checked annotation table.

    ids: [N] unique sample ids. probs: N rows over the task's C classes, all zero for samples
    without a label.
    """

    path: Path
    ids: pd.Index
    probs: ProbTable


def check_file(path: Path) -> None:
    """Raise `UserError` unless this is a readable file of the format that its name indicates."""
    where = f"annotation table {path}"
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(what, allowed="a Parquet or CSV file", where=where)
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=where) from None
    if _suffix(path) not in (".parquet", ".pq", ".csv", ".csv.gz"):
        raise UserError("unknown ending", allowed=".parquet, .csv, .csv.gz", where=where)
    if not head:
        raise UserError("is empty", where=where)
    if (head == b"PAR1") != (_suffix(path) in (".parquet", ".pq")):
        found = "is a Parquet file" if head == b"PAR1" else "is no Parquet file"
        raise UserError(f"{found}, although its name says otherwise", where=where)


def file_digest(path: Path) -> str:
    """Return the SHA-256 hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_annotations(
    path: Path,
    classes: Sequence[str],
    *,
    scope: Sequence[int] | None = None,
    may_abstain: bool = False,
) -> AnnotationTable:
    """Read and check an annotation table of the task's classes.

    scope: the classes that the annotator knows (None: all); the probability of others must be 0.
    may_abstain: allow rows without a label, or whose probabilities are all 0. Raises `UserError`.
    """
    check_file(path)
    reader = _Reader(path, tuple(classes), scope, may_abstain)
    for chunk in _chunks(path, max(256, CHUNK_ELEMENTS // max(1, len(classes)))):
        reader.add(chunk)
    return reader.finish()


class _Reader:
    """Checks the chunks of a table, in order, and stores them compactly."""

    def __init__(
        self, path: Path, classes: tuple[str, ...], scope: Sequence[int] | None, may_abstain: bool
    ) -> None:
        self.path = path
        self.classes = classes
        self.known = {name: index for index, name in enumerate(classes)}
        self.inside = np.full(len(classes), scope is None)
        self.inside[list(scope or ())] = True
        self.may_abstain = may_abstain
        self.columns: dict[str, int] | None = None
        self.ids: list[NDArray[np.object_]] = []
        self.parts: list[ProbTable] = []
        self.rows = 0

    def add(self, chunk: pd.DataFrame) -> None:
        """Check and store the next rows."""
        if not self.ids:
            self.columns = self._layout([str(column) for column in chunk.columns])
        chunk.columns = pd.Index([str(column) for column in chunk.columns])
        ids = self._ids(chunk["sample_id"])
        if self.columns is None:
            probs = self._from_labels(chunk["label"], ids)
        else:
            probs = self._from_columns(chunk, self.columns, ids)
        outside = np.argwhere((probs > 1e-6) & ~self.inside)
        if len(outside):
            row, index = (int(place) for place in outside[0])
            self._fail(row, ids, f"class '{self.classes[index]}' is outside the teacher's scope")
        support = None if self.inside.all() else torch.from_numpy(self.inside)
        self.ids.append(ids)
        self.parts.append(ProbTable.compress(torch.from_numpy(probs), support))
        self.rows += len(chunk)

    def finish(self) -> AnnotationTable:
        """Return the whole table. Raises `UserError` if it has no rows, or a sample twice."""
        if not self.rows:
            raise self._error("has no rows")
        ids = pd.Index(np.concatenate(self.ids), dtype="object")
        again = np.flatnonzero(ids.duplicated())
        if len(again):
            first = int(np.flatnonzero(ids == ids[again[0]])[0])
            found = f"sample '{ids[again[0]]}' is in rows {first + 1} and {int(again[0]) + 1}"
            raise self._error(found, allowed="one row per sample")
        return AnnotationTable(self.path, ids, ProbTable.concat(self.parts))

    def _error(self, problem: str, allowed: str | None = None) -> UserError:
        return UserError(problem, allowed=allowed, where=f"annotation table {self.path}")

    def _place(self, row: int, ids: NDArray[np.object_] | None) -> str:
        sample = "" if ids is None else f", sample '{ids[row]}'"
        return f"annotation table {self.path}, row {self.rows + row + 1}{sample}"

    def _fail(
        self,
        row: int,
        ids: NDArray[np.object_] | None,
        problem: str,
        allowed: str | None = None,
    ) -> NoReturn:
        raise UserError(problem, allowed=allowed, where=self._place(row, ids))

    def _layout(self, columns: list[str]) -> dict[str, int] | None:
        """Return the class of each probability column, or None for one column of labels."""
        if "sample_id" not in columns:
            raise self._error(f"no column 'sample_id' (found: {', '.join(columns[:10])})")
        rest = [column for column in columns if column not in ("sample_id", *INDEX_COLUMNS)]
        named = [column for column in rest if column in self.known and column != "label"]
        if "label" in rest and "label" not in self.known:
            if named:
                found = f"has a column 'label' and columns of classes, such as '{named[0]}'"
                raise self._error(found, allowed="one or the other")
            return None
        if not rest:
            raise self._error("has neither a column 'label' nor a column per class")
        return self._class_columns(rest)

    def _class_columns(self, columns: list[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for column in columns:
            index = self._class_of(column)
            if index is None:
                error = unknown_name("class", column, self.known)
                raise error.moved(where=f"annotation table {self.path}, columns")
            if index in found.values():
                found_twice = f"has two columns for class '{self.classes[index]}'"
                raise self._error(found_twice, allowed="one per class")
            found[column] = index
        absent = [c for c in np.flatnonzero(self.inside) if c not in set(found.values())]
        if absent:
            raise self._error(
                f"has no column for class '{self.classes[absent[0]]}' ({len(absent)} of "
                f"{len(self.classes)} are missing; classes outside the teacher's scope need none)"
            )
        return found

    def _class_of(self, value: Any) -> int | None:
        """Return the index of a class given by name or index; None if there is no such class."""
        if isinstance(value, float | np.floating) and float(value).is_integer():
            value = int(value)
        text = str(value)
        if text in self.known:
            return self.known[text]
        if text.isdecimal() and text.isascii() and int(text) < len(self.classes):
            return int(text)
        return None

    def _ids(self, column: "pd.Series[Any]") -> NDArray[np.object_]:
        blank = np.flatnonzero(column.isna() | (column.astype(str) == ""))
        if len(blank):
            self._fail(int(blank[0]), None, "has no sample_id")
        return column.astype(str).to_numpy(dtype=object)

    def _from_labels(
        self, column: "pd.Series[Any]", ids: NDArray[np.object_]
    ) -> NDArray[np.float32]:
        """Return one-hot rows [n, C] float32, all zero without a label."""
        codes, values = pd.factorize(column)
        blank = np.array([str(value) in ("", "-1", "-1.0") for value in values] + [True])
        none = np.flatnonzero(blank[codes])  # code -1 (NaN) reads the last entry
        if len(none) and not self.may_abstain:
            self._fail(int(none[0]), ids, "has no label", "no label with `missing: abstain`")
        index = np.zeros(len(blank), dtype=np.int64)
        for code, value in enumerate(values):
            found = None if blank[code] else self._class_of(value)
            if found is None and not blank[code]:
                row = int(np.flatnonzero(codes == code)[0])
                error = unknown_name("class", str(value), self.known)
                raise error.moved(where=self._place(row, ids))
            index[code] = found or 0
        probs = np.zeros((len(column), len(self.classes)), dtype=np.float32)
        probs[np.arange(len(column)), index[codes]] = 1.0
        probs[none] = 0.0
        return probs

    def _from_columns(
        self, chunk: pd.DataFrame, columns: dict[str, int], ids: NDArray[np.object_]
    ) -> NDArray[np.float32]:
        """Return probabilities [n, C] float32 that sum to 1, or to 0 to abstain."""
        probs = np.zeros((len(chunk), len(self.classes)), dtype=np.float64)
        for column, index in columns.items():
            probs[:, index] = pd.to_numeric(chunk[column], errors="coerce").to_numpy(np.float64)
        bad = np.argwhere(~np.isfinite(probs) | (probs < 0))
        if len(bad):
            row, index = (int(place) for place in bad[0])
            column = next(name for name, of in columns.items() if of == index)
            value = chunk[column].iloc[row]
            self._fail(row, ids, f"class '{self.classes[index]}' is '{value}'", PROBABILITIES)
        total = probs.sum(1)
        empty = total == 0 if self.may_abstain else np.zeros(len(total), dtype=bool)
        off = np.flatnonzero((np.abs(total - 1) > SUM_TOLERANCE) & ~empty)
        if len(off):
            row = int(off[0])
            hint = "; `missing: abstain` allows 0" if total[row] == 0 else ""
            self._fail(row, ids, f"probabilities sum to {total[row]:g}", PROBABILITIES + hint)
        return np.asarray(probs / np.where(empty, 1, total)[:, None], dtype=np.float32)


def _chunks(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    """Yield the table, at most `rows` rows at a time; at least one chunk, which may be empty."""
    try:
        if _suffix(path) in (".parquet", ".pq"):
            with pq.ParquetFile(path) as file:
                empty = True
                for batch in file.iter_batches(batch_size=rows):
                    empty = False
                    yield batch.to_pandas()
                if empty:
                    yield file.schema_arrow.empty_table().to_pandas()
        else:
            # Everything as text: a class may be called "NA" or "01".
            with pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                chunksize=rows,
                index_col=False,
            ) as reader:
                while (chunk := _next_chunk(reader)) is not None:
                    yield chunk
    except UserError:
        raise
    except (pa.ArrowException, ValueError, OSError, EOFError) as error:
        kind = "Parquet" if _suffix(path) in (".parquet", ".pq") else "CSV"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = f"annotation table {path}"
        raise UserError(f"cannot be read as {kind}: {reason}", where=where) from None


def _next_chunk(reader: Iterator[pd.DataFrame]) -> pd.DataFrame | None:
    with warnings.catch_warnings():
        # pandas only warns about fields beyond the header, and drops them.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return next(reader, None)
        except pd.errors.ParserWarning as warning:
            raise ValueError("a row has more fields than the header") from warning


def _suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]).lower()
