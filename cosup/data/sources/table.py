"""A table of image paths and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cosup.data.images import FileImages
from cosup.data.sources.base import (
    TABLE_COLUMNS,
    Collection,
    Columns,
    Names,
    Source,
    collect,
    name_indices,
    ordered_names,
)
from cosup.errors import UserError, in_short, known_names, within

if TYPE_CHECKING:  # see `Source`
    import pandas as pd

_CSV = (".csv", ".tsv")
_PARQUET = (".parquet", ".pq")


@dataclass
class Table(Source):
    """A CSV or Parquet file with the columns `path,label`, and optionally `domain, split, group,
    sample_id`.

    Without `sample_id`, sample ids are the paths. Other columns can be used by `data.group_by`. An
    empty label is unknown, which is allowed in `student_train` only.
    """

    table: str
    """The file (.csv, .tsv, .parquet)."""
    root: str | None = None
    """The folder that relative paths start from; null is the folder of the table."""
    classes: list[str] | None = None
    """Class names in their order; null uses those of the table, sorted."""

    def peek(self) -> Names:
        """Check that the table exists."""
        with within("table"):
            check_table_file(self.table)
        return Names(None if self.classes is None else tuple(self.classes))

    def load(self) -> Collection:
        """List one sample per row."""
        with within("table"):
            frame = read_table(self.table)
        paths = self._column(frame, "path")
        labels = self._column(frame, "label", empty=True)
        ids = self._column(frame, "sample_id") if "sample_id" in frame else paths
        self._check_distinct(ids)
        names = self.classes or ordered_names(label for label in labels if label)
        if not names:
            raise self._error("every label is empty")
        if "domain" in frame:
            domain_of = self._column(frame, "domain")
            domains = ordered_names(domain_of)
        else:
            domain_of, domains = ["all"] * len(frame), ["all"]
        extra = [name for name in frame.columns if name not in {*TABLE_COLUMNS, "path"}]
        columns = Columns(
            ids,
            self._label_indices(labels, names),
            domain=name_indices(domain_of, domains),
            group=self._groups(frame, ids),
            split=self._column(frame, "split", empty=True) if "split" in frame else None,
            extra={name: self._column(frame, name, empty=True) for name in extra},
        )
        images = FileImages(self.root or Path(self.table).parent, paths)
        return collect(columns, images, names, domains)

    def _error(self, problem: str) -> UserError:
        return UserError(problem, key="table", value=self.table)

    def _column(self, frame: "pd.DataFrame", name: str, empty: bool = False) -> list[str]:
        if name not in frame:
            raise self._error(f"no column '{name}' (found: {', '.join(frame.columns)})")
        values: list[str] = frame[name].tolist()
        if not empty and "" in values:
            raise self._error(f"row {values.index('') + 1}: '{name}' is empty")
        return values

    def _label_indices(self, labels: Sequence[str], names: Sequence[str]) -> list[int]:
        order = {name: index for index, name in enumerate(names)}
        order.setdefault("", -1)
        for row, label in enumerate(labels, 1):
            if label not in order:
                raise UserError(
                    f"'{self.table}' row {row} has label {{value}}",
                    key="table",
                    value=label,
                    allowed=known_names(names),
                )
        return [order[label] for label in labels]

    def _groups(self, frame: "pd.DataFrame", ids: list[str]) -> list[str] | None:
        if "group" not in frame:
            return None
        # A sample without a group is a group of its own.
        given = self._column(frame, "group", empty=True)
        return [group or f"({name})" for group, name in zip(given, ids, strict=True)]

    def _check_distinct(self, ids: Sequence[str]) -> None:
        first: dict[str, int] = {}
        for row, name in enumerate(ids, 1):
            if first.setdefault(name, row) != row:
                raise UserError(
                    f"rows {first[name]} and {row} of '{self.table}' have the sample_id {{value}}; "
                    "each sample needs its own (without a column sample_id it is the path)",
                    key="table",
                    value=name,
                )


def check_table_file(path: str) -> None:
    """Raise `UserError`, with the path as value, unless a file of a known type is there."""
    if Path(path).suffix.lower() not in _CSV + _PARQUET:
        raise UserError("unknown file type", value=path, allowed=".csv, .tsv or .parquet")
    if not Path(path).exists():
        raise UserError("no file {value}", value=path)


def read_table(path: str) -> "pd.DataFrame":
    """Read a CSV or Parquet file, all values as text ("" if missing).

    Raise `UserError`, with the path as value, if that fails or the file has no row.
    """
    import pandas as pd

    check_table_file(path)
    ending = Path(path).suffix.lower()
    try:
        if ending in _CSV:
            # Text without conversion: a class may be called NA, or 007.
            frame = pd.read_csv(
                path,
                sep="\t" if ending == ".tsv" else ",",
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
            )
        else:
            frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        kind = "Parquet" if ending in _PARQUET else "CSV"
        raise UserError(f"cannot be read as {kind}: {in_short(error)}", value=path) from None
    if frame.empty:
        raise UserError("no row in this table", value=path)
    return pd.DataFrame({str(name): _as_text(frame[name]) for name in frame.columns})


def _as_text(values: "pd.Series") -> "pd.Series[str]":
    import pandas as pd

    known = values.notna()
    # pandas converts whole numbers next to missing values to floats; 3.0 was written as 3.
    if pd.api.types.is_float_dtype(values) and bool((values[known] % 1 == 0).all()):
        values = values.astype("Int64")
    return values.astype("str").where(known, "").str.strip()
