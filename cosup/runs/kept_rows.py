"""Rows of a table that is written over a long time: kept image by image, and then written whole.

They are collected in `.NAME.rows` beside the output, a line of JSON for the rows of each image,
after a line about where they are from. The output itself is whole or absent. `.NAME.lock` is there
while a process writes.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from cosup.cells import from_cells, to_csv
from cosup.errors import UserError, in_short
from cosup.files import discard, disk_errors, remove_empty, write_atomic
from cosup.runs.lock import Locked, check_unlocked, locked

__all__ = ["ENDINGS", "KeptRows", "Row", "check_output", "written_alone"]

ENDINGS = (".csv", ".jsonl", ".parquet")
AT_ONCE = 10_000
"""Rows that are in memory at once."""

Row = dict[str, Any]


def check_output(output: Path, may_exist: bool) -> None:
    """Raise `UserError` for an output of an unknown type, that another process is writing, or that
    exists unless it may."""
    if output.suffix.lower() not in ENDINGS:
        raise UserError("unknown file type", value=str(output), allowed=", ".join(ENDINGS))
    if output.is_dir():
        raise UserError("is a folder", value=str(output), allowed="a file")
    try:
        check_unlocked(_lock_of(output))
    except Locked as error:
        raise _locked_error(output, error) from None
    except OSError as error:
        raise _not_writable(output, error) from None
    _check_free(output, may_exist)


@contextmanager
def written_alone(output: Path | None, may_exist: bool) -> Iterator[None]:
    """Lock an output while this is open; None: there is none. Its folder is made if it is missing.

    Raise `UserError` if another process is writing it or has written it since `check_output`, and
    for a folder that cannot be written. Nothing is left but what was written inside.
    """
    if output is None:
        yield
        return
    folder, lock = output.absolute().parent, _lock_of(output)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with ExitStack() as stack:
        stack.callback(remove_empty, made)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(lock))
        except Locked as error:
            raise _locked_error(output, error) from None
        except OSError as error:
            raise _not_writable(output, error) from None
        stack.callback(lock.unlink, missing_ok=True)  # before it is released
        _check_free(output, may_exist)
        yield


def _check_free(output: Path, may_exist: bool) -> None:
    if may_exist:
        return
    if output.exists():
        problem = "exists already; --overwrite replaces it, --resume adds images without a row"
        raise UserError(problem, value=str(output))
    if _kept_of(output).exists():
        problem = "an unfinished command left rows of it; go on by --resume, or --overwrite them"
        raise UserError(problem, value=str(output))


class KeptRows:
    """The rows of an output, none, one or several for each image.

    output: .csv, .jsonl or .parquet. columns: of each row; those named `probability...` are
    numbers, and the others text. image: the column with the path of the image. origin: says where
    the rows are from; those of another origin cannot be continued.
    """

    def __init__(
        self, output: Path, columns: Sequence[str], origin: str, image: str = "path"
    ) -> None:
        self.output = output
        self.columns = tuple(columns)
        self.origin = origin
        self.image = image
        self.file = _kept_of(output)

    def open(self, resume: bool) -> None:
        """Start anew, or with the rows of an interrupted command or else of the output.

        Raise `UserError` for rows of another origin or with other columns.
        """
        if not resume or not (self.file.exists() or self.output.exists()):
            write_atomic(self.file, self._header())
            return
        if not self.file.exists():
            rows = groupby(self._rows_of_output(), itemgetter(self.image))
            lines = b"".join(_line([path, list(found)]) for path, found in rows)
            write_atomic(self.file, self._header() + lines)
            return
        self._drop_torn_line()
        with self.file.open("rb") as file:
            if file.readline() != self._header():
                problem = "its rows are by others than those asked now; --overwrite replaces it"
                raise UserError(problem, value=str(self.output))

    def images(self) -> set[str]:
        """Return the paths of all images."""
        return {path for path, _ in self._lines()}

    def append(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Add the rows of images, by path, which a crash afterwards does not lose."""
        with disk_errors(self.output), self.file.open("ab") as file:
            file.writelines(map(_line, rows.items()))

    def finish(self) -> None:
        """Write the output, and remove what was kept."""
        write_atomic(self.output, self._write)
        self.discard()

    def discard(self) -> None:
        """Remove what was kept."""
        discard(self.file)

    def _header(self) -> bytes:
        return _line({"origin": self.origin, "columns": self.columns})

    def _lines(self) -> Iterator[tuple[str, list[Row]]]:
        with self.file.open("rb") as file:
            file.readline()
            yield from map(json.loads, file)

    def _rows(self) -> Iterator[Row]:
        return chain.from_iterable(rows for _, rows in self._lines())

    def _write(self, path: Path) -> None:
        ending = self.output.suffix.lower()
        rows = self._rows()
        parts = iter(lambda: list(islice(rows, AT_ONCE)), [])
        if ending == ".parquet":
            self._write_parquet(path, parts)
            return
        with path.open("w", encoding="utf-8", newline="") as file:
            if ending == ".csv":
                file.write(to_csv(pd.DataFrame(columns=list(self.columns))))
            for part in parts:
                if ending == ".csv":
                    frame = pd.DataFrame(part, columns=list(self.columns))
                    file.write(to_csv(frame, header=False))
                else:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part)

    def _write_parquet(self, path: Path, parts: Iterator[list[Row]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = [pa.float64() if _is_number(name) else pa.string() for name in self.columns]
        schema = pa.schema(list(zip(self.columns, kinds, strict=True)))
        with pq.ParquetWriter(path, schema) as writer:
            for rows in parts:
                writer.write_table(pa.Table.from_pylist(rows, schema))

    def _rows_of_output(self) -> list[Row]:
        ending = self.output.suffix.lower()
        try:
            if ending == ".parquet":
                frame = pd.read_parquet(self.output)
            elif ending == ".csv":
                text = {name: str for name in self.columns if not _is_number(name)}
                read = pd.read_csv(self.output, dtype=text, keep_default_na=False)
                frame = from_cells(read)
            else:
                lines = self.output.read_text(encoding="utf-8").splitlines()
                frame = pd.DataFrame([json.loads(line) for line in lines])
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"cannot be read: {in_short(error)}", value=str(self.output)) from None
        if tuple(frame.columns) != self.columns:
            raise UserError(
                "has other columns; --overwrite replaces it",
                value=str(self.output),
                allowed=", ".join(self.columns),
            )
        return [dict(zip(self.columns, row, strict=True)) for row in frame.itertuples(index=False)]

    def _drop_torn_line(self) -> None:
        """Cut off what a killed process wrote of its last line."""
        content = self.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.file, whole)


def _kept_of(output: Path) -> Path:
    return output.with_name(f".{output.name}.rows")


def _lock_of(output: Path) -> Path:
    return output.with_name(f".{output.name}.lock")


def _locked_error(output: Path, error: Locked) -> UserError:
    problem = f"is being written by another command (process {error.process}); wait for it"
    return UserError(problem, value=str(output))


def _not_writable(output: Path, error: OSError) -> UserError:
    return UserError(f"its folder cannot be written ({error.strerror})", value=str(output))


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _is_number(column: str) -> bool:
    return column.startswith("probability")
