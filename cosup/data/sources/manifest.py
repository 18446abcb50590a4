"""A manifest: Parquet files, or WebDataset's tar files, that name images on any storage."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cosup.data.sources.base import ClassName, Collection, Names, Source
from cosup.data.sources.manifest_rows import (
    KINDS,
    PARQUET,
    TAR,
    ManifestColumns,
    ManifestFile,
    Rows,
    join_rows,
)
from cosup.data.sources.table import SampleRows, collect_rows
from cosup.data.storage import find_files
from cosup.errors import UserError, within
from cosup.remote import is_uri
from cosup.secrets import mask

if TYPE_CHECKING:  # see `Source`
    import pandas as pd

DEFAULT_COLUMNS = ManifestColumns()


@dataclass
class Manifest(Source):
    """Parquet files of `id, uri, label, domain, split`, or tar files of images (WebDataset).

    The files and the images are on this machine or at URIs (s3://, gs://, file://, and those of
    fsspec). Only the uri must be there. In a tar file, `KEY.jpg` is an image, `KEY.cls` its label,
    and `KEY.json` an object with the label, the domain and the split; the sample id is
    `TAR/KEY`. Samples with an empty label join student_train, unless the split says otherwise.
    """

    path: str
    """A file (.parquet, .pq, .tar), a folder of such files, or a glob of them; a path or a URI."""
    root: str | None = None
    """The folder or URI that relative uris start from; null is the folder of the file that has
    them."""
    columns: ManifestColumns = DEFAULT_COLUMNS
    """The names of the columns."""
    classes: list[ClassName] | None = None
    """Class names in their order; null uses those of the labels, sorted."""
    sharded: Literal["auto"] | bool = "auto"
    """Work on student_train shard by shard (`execution.shard_size`), without listing its samples;
    auto is false up to 500,000 rows of Parquet files, and for tar files."""
    max_labelled: Annotated[int, Field(gt=0, le=10_000_000)] = 200_000
    """sharded: the largest number of labelled samples in teacher_train, validation and test, which
    are listed in memory; ten millions take some 10 GB."""

    def peek(self) -> Names:
        """Check that the files exist, and that the first one has the columns."""
        first = self.files()[0]
        kinds = first.kinds()
        known = first.is_tar or "domain" in kinds
        return Names(
            None if self.classes is None else tuple(self.classes), None if known else ("all",)
        )

    def load(self) -> Collection:
        """List one sample per row, or per image of a tar file."""
        files = self.files()
        parts = [(rows, file) for file in files for rows in file.rows()]
        if not parts:
            raise UserError("no row in it", key="path", value=mask(self.path))
        rows, owners = [one for one, _ in parts], [file for _, file in parts]
        state = " ".join(file.file.stat for file in files)
        table = SampleRows(mask(self.path), "path", _frame(rows))
        ids = table.column("sample_id")
        table.check_distinct(ids)
        return collect_rows(table, ids, join_rows(rows, owners, state), self.classes)

    def files(self) -> list[ManifestFile]:
        """Return the files of the manifest, sorted. Raise `UserError` if there is none, or if
        Parquet and tar files are mixed."""
        with within("path"):
            found = find_files(self.path, (*PARQUET, TAR))
            columns = ManifestColumns.model_validate(self.columns)
            names = prefixes([file.path for file in found])
            files = [
                ManifestFile(file, columns, self.root, name)
                for file, name in zip(found, names, strict=True)
            ]
            if len({file.is_tar for file in files}) > 1:
                raise UserError(
                    "has both Parquet and tar files",
                    value=mask(self.path),
                    allowed="a glob of one kind, such as FOLDER/*.tar",
                )
        return files


def prefixes(paths: Sequence[str]) -> list[str]:
    """Return what the sample ids of each tar file begin with: its path below the folder that holds
    them all, without the ending."""
    bodies = [path.partition("?")[0] if is_uri(path) else path for path in paths]
    parts = [body.split("/") for body in bodies]
    shared = 0
    while len({tuple(names[: shared + 1]) for names in parts}) == 1 < len(parts[0]) - shared:
        shared += 1
    return [os.path.splitext("/".join(names[shared:]))[0] + "/" for names in parts]


def _frame(rows: Sequence[Rows]) -> "pd.DataFrame":
    """Return the rows of all files as a table, with the columns that any of them has."""
    import pandas as pd

    kinds = [kind for kind in KINDS if any(kind in part.texts for part in rows)]
    columns = {
        kind: [text for part in rows for text in part.texts.get(kind) or [""] * len(part)]
        for kind in kinds
        if kind not in ("id", "uri")
    }
    used = {kind: values for kind, values in columns.items() if kind == "label" or any(values)}
    ids = [name for part in rows for name in part.ids]
    return pd.DataFrame({"sample_id": ids, **used}, dtype="str")
