"""A table of image paths and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cosup.data.images import FileImages
from cosup.data.sources.base import COLUMNS, Collection, Source, coded, collect, ordered_names
from cosup.errors import UserError

if TYPE_CHECKING:  # the config imports sources for their settings, and needs no pandas
    import pandas as pd


@dataclass
class Table(Source):
    """A CSV or Parquet file: `path,label` and optionally `domain, split, group, sample_id`.

    A sample is called by its `sample_id`, or else by its path. Other columns are kept for
    `data.group_by`. An empty label is unknown, which only `student_train` may hold.
    """

    table: str
    """The file (.csv, .tsv, .parquet)."""
    root: str | None = None
    """The folder that relative paths start from; null is the table's own."""
    classes: list[str] | None = None
    """Class names in their order; null takes those of the table, sorted."""

    def load(self) -> Collection:
        """One sample per row."""
        frame = read_table(self.table)
        paths = self._column(frame, "path")
        labels = self._column(frame, "label", empty=True)
        ids = self._column(frame, "sample_id") if "sample_id" in frame else paths
        self._distinct(ids)
        names = self.classes or ordered_names(label for label in labels if label)
        if not names:
            raise UserError(f"'{self.table}': every label is empty")
        if "domain" in frame:
            domain_of = self._column(frame, "domain")
            domains = ordered_names(domain_of)
        else:
            domain_of, domains = ["all"] * len(frame), ["all"]
        further = [name for name in frame.columns if name not in {*COLUMNS, "path"}]
        return collect(
            ids,
            [-1 if code < 0 else code for code in self._codes(labels, names)],
            names,
            FileImages(self.root or Path(self.table).parent, paths),
            domain=coded(domain_of, domains, "domain"),
            domains=domains,
            group=self._groups(frame, ids),
            split=self._column(frame, "split", empty=True) if "split" in frame else None,
            further={name: self._column(frame, name, empty=True) for name in further},
        )

    def _column(self, frame: "pd.DataFrame", name: str, empty: bool = False) -> list[str]:
        if name not in frame:
            found = ", ".join(frame.columns)
            raise UserError(f"'{self.table}' has no column '{name}' (found: {found})")
        values: list[str] = frame[name].tolist()
        if not empty and "" in values:
            raise UserError(f"'{self.table}' row {values.index('') + 1}: '{name}' is empty")
        return values

    def _codes(self, labels: Sequence[str], names: Sequence[str]) -> list[int]:
        order = {name: index for index, name in enumerate(names)}
        order.setdefault("", -1)
        for row, label in enumerate(labels, 1):
            if label not in order:
                known = ", ".join(names)
                raise UserError(f"'{self.table}' row {row}: label '{label}' is not among {known}")
        return [order[label] for label in labels]

    def _groups(self, frame: "pd.DataFrame", ids: list[str]) -> list[str] | None:
        if "group" not in frame:
            return None
        # A sample that names no group is one of its own.
        given = self._column(frame, "group", empty=True)
        return [group or f"({name})" for group, name in zip(given, ids, strict=True)]

    def _distinct(self, ids: Sequence[str]) -> None:
        first: dict[str, int] = {}
        for row, name in enumerate(ids, 1):
            if first.setdefault(name, row) != row:
                raise UserError(
                    f"'{self.table}': sample_id '{name}' stands in rows {first[name]} and {row}; "
                    "each sample needs its own (without a sample_id column it is the path)"
                )


def read_table(path: str, what: str = "data.table") -> "pd.DataFrame":
    """A CSV or Parquet file, every value as text ("" where there is none).

    what: the setting that its errors name.
    """
    import pandas as pd

    ending = Path(path).suffix.lower()
    if ending not in (".csv", ".tsv", ".parquet", ".pq"):
        raise UserError(f"{what}: '{path}' must end in .csv, .tsv or .parquet")
    try:
        if ending in (".csv", ".tsv"):
            # Text as it stands: a class may be called NA, or 007.
            frame = pd.read_csv(
                path,
                sep="\t" if ending == ".tsv" else ",",
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
            )
        else:
            frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{what}: no file '{path}'") from None
    except (OSError, ValueError) as error:
        kind = "Parquet" if ending in (".parquet", ".pq") else "CSV"
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what}: '{path}' can't be read as {kind}: {reason}") from None
    if frame.empty:
        raise UserError(f"{what}: '{path}' holds no row")
    return pd.DataFrame({str(name): _as_text(frame[name]) for name in frame.columns})


def _as_text(values: "pd.Series") -> "pd.Series[str]":
    import pandas as pd

    known = values.notna()
    # Whole numbers beside missing ones become floats in pandas; 3.0 was written as 3.
    if pd.api.types.is_float_dtype(values) and bool((values[known] % 1 == 0).all()):
        values = values.astype("Int64")
    return values.astype("str").where(known, "").str.strip()
