"""A table of image paths and labels."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cosup.cells import from_cells, single_values
from cosup.data.column_names import rename_to_roles
from cosup.data.images import FileImages, Images
from cosup.data.sources.base import (
    TABLE_COLUMNS,
    ClassName,
    Collection,
    Columns,
    Names,
    Source,
    collect,
    name_indices,
    ordered_names,
)
from cosup.data.sources.files import check_folder, with_unlabelled
from cosup.errors import UserError, about, in_short, unknown_name, within

if TYPE_CHECKING:  # see `Source`
    import pandas as pd

Role = Literal["sample_id", "path", "label", "domain", "group", "split"]
"""What a column of a table of images is."""
CSV = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")


@dataclass
class Table(Source):
    """A CSV or Parquet file with the columns `path,label`, and optionally `domain, split, group,
    sample_id`.

    Columns of other names that are usual for them (`image`, `filename`, `class`, `category` and the
    like) are found, and `columns` can name any. Without `sample_id`, sample ids are the paths.
    Other columns can be used by `data.group_by`. Samples with an empty label join student_train,
    unless `split` says otherwise. Without a column `label`, all are empty.
    """

    table: str
    """The file (.csv, .tsv, .parquet)."""
    root: str | None = None
    """The folder that relative paths start from; null is the folder of the table."""
    classes: list[ClassName] | None = None
    """Class names in their order; null uses those of the table, sorted."""
    columns: dict[Role, str] | None = None
    """The names of the table's columns, such as `{path: photo, label: species}`."""
    unlabelled: str | None = None
    """A folder of images without labels, which join student_train; it may hold those of the table,
    too. If the table has domains, it needs a folder of each."""

    def peek(self) -> Names:
        """Check that the table, its paths and the folder of unlabelled images exist."""
        with within("table"):
            header = SampleRows(self.table, "table", read_header(self.table))
        header.by_role(self.columns, "path", "label").column("path")
        check_folder(self.unlabelled)
        return Names(None if self.classes is None else tuple(self.classes))

    def load(self) -> Collection:
        """List one sample per row."""
        with within("table"):
            read = SampleRows(self.table, "table", read_table(self.table))
        rows = read.by_role(self.columns, "path", "label")
        paths = rows.column("path")
        ids = rows.column("sample_id") if "sample_id" in rows.frame else paths
        rows.check_distinct(ids)
        root = self.root or Path(self.table).parent
        found = collect_rows(rows, ids, FileImages(root, paths), self.classes)
        return with_unlabelled(found, root, self.unlabelled)


@dataclass(frozen=True)
class SampleRows:
    """The rows of a table of samples, all values as text.

    file: its path. key: the setting that names it. can_rename: the setting `columns` names columns.
    """

    file: str
    key: str
    frame: "pd.DataFrame"
    can_rename: bool = False

    def by_role(self, given: Mapping[Any, str] | None, *wanted: str) -> "SampleRows":
        """Return the rows with columns named by their roles.

        given: role -> column. wanted: roles that are also found by their usual names.
        """
        names = list(self.frame.columns)
        with about(f"table {self.file}"):
            columns = rename_to_roles(names, given or {}, wanted)
        return replace(self, frame=self.frame.rename(columns=columns), can_rename=True)

    def error(self, problem: str) -> UserError:
        """Return an error about the file."""
        return UserError(problem, key=self.key, value=self.file)

    def column(self, name: str, empty: bool = False) -> list[str]:
        """Return a column. Raise `UserError` if there is none, or (unless `empty`) a gap in it."""
        if name not in self.frame:
            found = ", ".join(self.frame.columns)
            hint = "; `columns` can name it" if self.can_rename else ""
            raise self.error(f"no column '{name}' (found: {found}){hint}")
        values: list[str] = self.frame[name].tolist()
        if not empty and "" in values:
            raise self.error(f"row {values.index('') + 1}: '{name}' is empty")
        return values

    def labels(self, classes: Sequence[str] | None) -> list[str]:
        """Return the labels, "" if unknown; the column may be absent if the classes are known.

        Raise `UserError` if all are unknown and the classes, too.
        """
        if "label" not in self.frame and classes:
            return [""] * len(self.frame)
        labels = self.column("label", empty=True)
        if not classes and not any(labels):
            raise self.error("every label is empty, so data.classes must have the classes' names")
        return labels

    def label_indices(self, labels: Sequence[str], names: Sequence[str]) -> list[int]:
        """Return the class index of each label; raise `UserError` for one that is no class."""
        order = {name: index for index, name in enumerate(names)}
        order.setdefault("", -1)
        for row, label in enumerate(labels, 1):
            if label not in order:
                raise unknown_name(f"class in row {row} of '{self.file}'", label, names, self.key)
        return [order[label] for label in labels]

    def groups(self, ids: Sequence[str]) -> list[str] | None:
        """Return the group of each sample, if there are any."""
        if "group" not in self.frame:
            return None
        # A sample without a group is a group of its own.
        given = self.column("group", empty=True)
        return [group or f"({name})" for group, name in zip(given, ids, strict=True)]

    def check_distinct(self, ids: Sequence[str]) -> None:
        """Raise `UserError` if two rows have one sample id."""
        first: dict[str, int] = {}
        for row, name in enumerate(ids, 1):
            if first.setdefault(name, row) != row:
                raise UserError(
                    f"rows {first[name]} and {row} of '{self.file}' have the sample_id {{value}}; "
                    "each sample needs its own (without a column sample_id it is the path)",
                    key=self.key,
                    value=name,
                )


def collect_rows(
    rows: SampleRows, ids: Sequence[str], images: Images, classes: Sequence[str] | None
) -> Collection:
    """Return the samples of a table; row n has image n. Columns without a meaning are kept."""
    frame = rows.frame
    labels = rows.labels(classes)
    names = class_names(classes, labels)
    domain_of = rows.column("domain") if "domain" in frame else ["all"] * len(ids)
    domains = ordered_names(domain_of)
    others = [name for name in frame.columns if name not in {*TABLE_COLUMNS, "path"}]
    columns = Columns(
        ids,
        rows.label_indices(labels, names),
        domain=name_indices(domain_of, domains),
        group=rows.groups(ids),
        split=rows.column("split", empty=True) if "split" in frame else None,
        extra={name: rows.column(name, empty=True) for name in others},
    )
    return collect(columns, images, names, domains)


def class_names(given: Sequence[str] | None, labels: Sequence[str]) -> list[str]:
    """Return the names of the classes: those given, else those of the labels, sorted.

    Raise `UserError` about `classes` if a name is given twice.
    """
    if not given:
        return ordered_names(label for label in labels if label)
    twice = [name for number, name in enumerate(given) if name in given[:number]]
    if twice:
        raise UserError(f"class '{twice[0]}' is given twice", key="classes", value=list(given))
    return list(given)


def check_table_file(path: str) -> None:
    """Raise `UserError`, with the path as value, unless a file of a known type is there."""
    if Path(path).suffix.lower() not in CSV + PARQUET:
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
    with _readable(path):
        if ending in CSV:
            # Text without conversion: a class may be called NA, or 007.
            read = pd.read_csv(
                path,
                sep="\t" if ending == ".tsv" else ",",
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
            )
            frame = from_cells(read)
        else:
            frame = single_values(pd.read_parquet(path))
        texts = pd.DataFrame({str(name): as_text(frame[name]) for name in frame.columns})
    if frame.empty:
        raise UserError("no row in this table", value=path)
    return texts


def read_header(path: str) -> "pd.DataFrame":
    """Read the columns of a CSV or Parquet file without its rows; errors as of read_table."""
    import pandas as pd
    from pyarrow import parquet

    check_table_file(path)
    with _readable(path):
        if Path(path).suffix.lower() in PARQUET:
            names = parquet.read_schema(path).names
            return single_values(pd.DataFrame(columns=names))
        separator = "\t" if Path(path).suffix.lower() == ".tsv" else ","
        read = pd.read_csv(path, sep=separator, dtype=str, nrows=0, encoding="utf-8-sig")
        return from_cells(read)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of pandas, pyarrow: damaged files cause errors of any kind
        kind = "Parquet" if Path(path).suffix.lower() in PARQUET else "CSV"
        raise UserError(f"cannot be read as {kind}: {in_short(error)}", value=path) from None


def as_text(values: "pd.Series") -> "pd.Series[str]":
    """Return the values as text, "" for missing ones; whole numbers have no decimals."""
    import pandas as pd

    known = values.notna()
    # pandas converts whole numbers next to missing values to floats; 3.0 was written as 3.
    if pd.api.types.is_float_dtype(values) and bool((values[known] % 1 == 0).all()):
        values = values.astype("Int64")
    return values.astype("str").where(known, "").str.strip()
