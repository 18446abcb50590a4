"""Images at any depth of a folder, some of them labelled by a table."""

import difflib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cosup.data.images import FileImages
from cosup.data.sources.base import ClassName, Collection, Columns, Names, Source, collect
from cosup.data.sources.files import (
    SPLIT_FOLDERS,
    check_folder,
    class_images,
    folders,
    with_unlabelled,
)
from cosup.data.sources.table import (
    Role,
    SampleRows,
    class_names,
    collect_rows,
    read_header,
    read_table,
)
from cosup.errors import UserError, within
from cosup.words import listed, plural, printable

if TYPE_CHECKING:  # see `Source`
    import pandas as pd

SHOWN = 2
"""How many names of each kind an error shows."""
MOST_SEARCHED = 10_000
"""Among so many names an error looks for the nearest; more would take long."""


@dataclass
class ImageFiles(Source):
    """Every image at any depth of a folder; sample ids are paths below root.

    A table may have the labels of some of them. If all images are in folders named train, val,
    valid, validation, test, teacher_train or student_train, these are their splits, unless the
    table has a column `split`.
    """

    root: str
    """The folder."""
    classes: list[ClassName] | None = None
    """Class names in their order; null uses those of `labels`, sorted."""
    labels: str | None = None
    """A CSV or Parquet file with the columns `sample_id` (or `path`, below root) and `label`, and
    optionally `split, domain, group`. Columns of other names that are usual for them (`image`,
    `filename`, `class`, `category` and the like) are found. Images without a row, or with an empty
    label, have none."""
    columns: dict[Role, str] | None = None
    """The names of the columns of `labels`, such as `{path: photo, label: species}`."""
    unlabelled: str | None = None
    """Another folder of images without labels, which join student_train."""

    def peek(self) -> Names:
        """Check that the folders, the table and its columns exist, and that there are classes."""
        folders(Path(self.root))
        check_folder(self.unlabelled)
        if self.labels is not None:
            with within("labels"):
                header = SampleRows(self.labels, "labels", read_header(self.labels))
            rows = self._by_role(header)
            for name in (_key(rows), *(() if self.classes else ("label",))):
                rows.column(name, empty=True)
        elif not self.classes:
            raise _no_classes()
        return Names(tuple(self.classes) if self.classes else None)

    def load(self) -> Collection:
        """List every image below root."""
        root = Path(self.root)
        found = class_images(root, self.unlabelled)
        paths = [PurePosixPath(path).as_posix() for path in found]
        ids, images = list(map(printable, paths)), FileImages(root, paths)
        split = _folders_of_splits(paths)
        if self.labels is not None:
            rows = self._rows(self.labels, ids)
            if split is not None and "split" not in rows.frame:
                rows.frame["split"] = split
            collection = collect_rows(rows, ids, images, self.classes)
        elif self.classes:
            names = class_names(self.classes, ())
            collection = collect(Columns(ids, [-1] * len(ids), split=split), images, names)
        else:
            raise _no_classes()
        return with_unlabelled(collection, root, self.unlabelled)

    def _by_role(self, read: SampleRows) -> SampleRows:
        has_path = "path" in {*read.frame.columns, *(self.columns or ())}
        return read.by_role(self.columns, *(() if has_path else ("sample_id",)), "label")

    def _rows(self, file: str, paths: list[str]) -> SampleRows:
        """Read the table of labels, and return a row for every image, empty for those without."""
        with within("labels"):
            read = SampleRows(file, "labels", read_table(file))
        rows = self._by_role(read)
        key = _key(rows)
        given = rows.column(key)
        rows.check_distinct(given)
        labels = rows.labels(self.classes)
        rows.label_indices(labels, class_names(self.classes, labels))
        ids = _matched(rows, given, paths)
        rows.check_distinct(ids)
        lacking = sorted(set(paths) - set(ids))
        if lacking and "domain" in rows.frame:
            raise rows.error(
                f"it has a column 'domain', but no row for {plural(len(lacking), 'image')}, such "
                f"as '{lacking[0]}'; an image without a label needs a row with its domain, too"
            )
        frame: pd.DataFrame = rows.frame.drop(columns=[key]).assign(label=labels)
        return SampleRows(file, "labels", frame.set_axis(ids).reindex(paths, fill_value=""))


def _no_classes() -> UserError:
    return UserError(
        "must be given, or else data.labels with a label of every class", key="classes"
    )


def _key(rows: SampleRows) -> str:
    """Return the column that names the images."""
    return "sample_id" if "sample_id" in rows.frame or "path" not in rows.frame else "path"


def _matched(rows: SampleRows, given: list[str], paths: list[str]) -> list[str]:
    """Return the path of each row's image; `./a/b.png` is `a/b.png`.

    Raise `UserError` if there is no such image.
    """
    known = set(paths)
    ids = [name if name in known else PurePosixPath(name).as_posix() for name in given]
    missing = [name for name in ids if name not in known]
    if not missing:
        return ids
    same_name = [path for path in paths if path.rpartition("/")[2] == missing[0].rpartition("/")[2]]
    searched = paths[:MOST_SEARCHED]
    near = same_name[:1] or difflib.get_close_matches(missing[0], searched, n=1, cutoff=0.6)
    raise UserError(
        f"{len(missing)} of {plural(len(ids), 'row')} name no image below data.root, such as "
        f"{listed(map(repr, missing[:SHOWN]))}; the images there are called "
        f"{listed(map(repr, paths[:SHOWN]))}",
        key=rows.key,
        value=rows.file,
        nearest=near,
    )


def _folders_of_splits(paths: list[str]) -> list[str] | None:
    """Return the first folder of each path if all are named as splits."""
    first = [path.partition("/")[0] for path in paths if "/" in path]
    return first if len(first) == len(paths) and set(first) <= SPLIT_FOLDERS else None
