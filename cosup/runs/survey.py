"""Look at a folder or a table: which source reads it, who labelled what, and what is left over."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.config.external import ColumnsSection, ExternalSection
from cosup.config.teachers import TeachersSection
from cosup.data.sources import SOURCES, Collection
from cosup.data.sources.base import TABLE_COLUMNS, ordered_names
from cosup.data.sources.files import FILE_TYPES, SPLIT_FOLDERS, folders, images_below
from cosup.data.sources.manifest_rows import TAR
from cosup.data.sources.table import CSV, PARQUET, read_table
from cosup.errors import UserError, raise_all
from cosup.layout import Layout
from cosup.runs.guess_columns import ImageNames, guess_columns
from cosup.teachers.tables.checks import check_tables
from cosup.teachers.tables.frames import ENDINGS, first_chunk
from cosup.teachers.tables.layout import find_layout
from cosup.teachers.tables.reading import open_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AnnotatorTable", "Found", "other_columns", "survey"]

TELLING = re.compile(r"label|truth|true|gold|target", re.IGNORECASE)
"""Names of tables of true labels."""
WITHOUT_LABELS = re.compile(r"(un|not|no)[-_ ]?(label|annotat|sort|class)", re.IGNORECASE)
"""Names of folders whose images have no label."""
WEIGHTS = frozenset({".safetensors", ".pt", ".pth", ".bin"})
IDX = re.compile(r"(train|t10k)-images[-.]idx3-ubyte(\.gz)?")
FLAT = (*CSV, *PARQUET, *(f"{name}.gz" for name in CSV))
"""Endings of tables of columns."""
ONE_ANNOTATOR = ("labels", "probabilities")
"""Forms of tables that hold the answers of one annotator."""


NOT_READ = (
    "by its name it has true labels; for that it needs a column of the paths of images below "
    "data.root and one of labels (data.columns)"
)


@dataclass(frozen=True)
class AnnotatorTable:
    """A table of what annotators said.

    annotators: their names, empty where it names none. columns: role -> column, where the names of
    the columns do not tell.
    """

    file: Path
    form: str
    annotators: tuple[str, ...]
    columns: Mapping[str, str]

    @property
    def entry(self) -> dict[str, Any]:
        """Return its entry of `teachers.external`."""
        entry: dict[str, Any] = {"annotations": str(self.file)}
        if self.columns:
            entry["columns"] = dict(self.columns)
        return {**entry, "missing": "abstain"} if self.form in ONE_ANNOTATOR else entry


@dataclass(frozen=True)
class Found:
    """What a folder or a table holds.

    data: the settings of the section `data` that read it. samples: what they read; None if there
    are images, but no class is known. images: their number. tables: what annotators said.
    assumed: what was taken for granted, a sentence each. left_out: file -> why it is not used.
    """

    data: Mapping[str, Any]
    samples: Collection | None
    images: int
    tables: tuple[AnnotatorTable, ...] = ()
    weights: tuple[Path, ...] = ()
    scripts: tuple[Path, ...] = ()
    assumed: tuple[str, ...] = ()
    left_out: Mapping[Path, str] = field(default_factory=dict)

    @property
    def labelled(self) -> int:
        """Return the number of samples with a label."""
        return 0 if self.samples is None else int((self.samples.table["label"] >= 0).sum())


@dataclass(frozen=True)
class _Reading:
    """Settings of the section `data`, and the samples that they read; None if no class is known.

    assumed: as in `Found`.
    """

    data: dict[str, Any]
    samples: Collection | None
    assumed: tuple[str, ...] = ()


class _Look:
    """What the tables of a folder are compared with, and their first rows, which are read once.

    images: the names of the images.
    """

    def __init__(self, images: ImageNames) -> None:
        self.images = images
        self._heads: dict[Path, pd.DataFrame] = {}

    def head(self, file: Path) -> "pd.DataFrame":
        """Return the first rows of a table. Raises `UserError` for a file that cannot be read."""
        if file not in self._heads:
            self._heads[file] = first_chunk(file)
        return self._heads[file]


def survey(path: Path) -> Found:
    """Look at a folder of images, with or without tables in it, or at a table of images.

    Images are listed, not decoded. Tables are read. Raises `UserError` if there is neither an image
    nor a table of images.
    """
    if path.is_file():
        return _read_by(_of_file(path))
    if not path.is_dir():
        raise UserError("no folder or table {value}", value=str(path))
    if any(IDX.fullmatch(entry.name) for entry in path.iterdir()):
        return _read_by({"source": "idx", "root": str(path)})
    roots = _roots(path)
    files = list(_files_in(path))
    tables = [file for file in files if file.name.lower().endswith(ENDINGS)]
    paths = images_below(roots[0])
    look = _Look(ImageNames(paths))
    labels = _labels(roots, tables, look)
    others = [file for file in tables if labels is None or file != _table_of(labels)]
    reading = labels or _by_folders(roots[0], _labels_said(others, look))
    annotators, left_out = _annotators(others, reading.samples, look)
    if labels is not None:
        twice = f"by its name it has true labels, and those of '{_table_of(labels)}' are used"
        left_out = {file: twice if why == NOT_READ else why for file, why in left_out.items()}
    return Found(
        reading.data,
        reading.samples,
        len(paths) if reading.samples is None else len(reading.samples.table),
        tuple(annotators),
        tuple(file for file in files if file.suffix.lower() in WEIGHTS),
        tuple(file for file in files if file.suffix == ".py"),
        reading.assumed,
        left_out,
    )


def _of_file(path: Path) -> dict[str, Any]:
    """Return the settings of the section `data` that read a table or a manifest."""
    manifest = {"source": "manifest", "path": str(path)}
    if path.suffix.lower() == TAR:
        return manifest
    if path.suffix.lower() in PARQUET:
        columns = read_table(str(path)).columns
        if "uri" in columns and "path" not in columns:
            return manifest
    return {"source": "table", "table": str(path)}


def _read_by(data: dict[str, Any]) -> Found:
    samples = _load(data)
    return Found(data, samples, len(samples.table))


def _load(data: Mapping[str, Any]) -> Collection:
    """Return the samples that these settings of the section `data` read. Raises `UserError`."""
    settings = {name: value for name, value in data.items() if name != "source"}
    found: Collection = SOURCES.get(data["source"])(**settings).load()
    return found


def _loads(data: Mapping[str, Any]) -> Collection | None:
    try:
        return _load(data)
    except UserError:
        return None


def _roots(path: Path) -> list[Path]:
    """Return the folder that holds all images, and the folders above it up to `path`."""
    total = len(images_below(path))
    if not total:
        raise UserError("no image in this folder", value=str(path), allowed=FILE_TYPES)
    found = [path]
    while True:
        inner = [found[0] / name for name in folders(found[0])]
        counts = {folder: count for folder in inner if (count := len(images_below(folder)))}
        if list(counts.values()) != [total]:
            return found
        (folder,) = counts
        if folder.resolve() in {known.resolve() for known in found}:  # a link to a folder above
            return found
        found.insert(0, folder)


def _files_in(path: Path) -> Iterator[Path]:
    """Yield the files in a folder, and in its folders that hold no image and are no run."""
    for entry in sorted(path.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_file():
            yield entry
        elif entry.is_dir() and not Layout(entry).is_run() and not images_below(entry):
            yield from _files_in(entry)


def _labels(roots: Sequence[Path], files: Sequence[Path], look: _Look) -> _Reading | None:
    """Return how a table of true labels is read; None without one.

    A table of one label per image may also be what one annotator said. It is taken for the truth if
    its name says so, or if it is the only one.
    """
    readings = (_labels_of(file, roots, look) for file in files)
    found = [reading for reading in readings if reading is not None]
    telling = [reading for reading in found if TELLING.search(_table_of(reading).stem)]
    return next(iter(telling or (found if len(found) == 1 else [])), None)


def _table_of(labels: _Reading) -> Path:
    return Path(labels.data["labels"] if "labels" in labels.data else labels.data["table"])


def _labels_of(file: Path, roots: Sequence[Path], look: _Look) -> _Reading | None:
    """Return how a table is read as labels of images; None if it is none of these."""
    if file.suffix.lower() not in CSV + PARQUET:
        return None
    try:
        section = _entry(file, look, None)
        layout = find_layout(file, section, look.head(file), None)
    except UserError:
        return None
    if layout.form != "labels":
        return None
    assumed = (f"'{file}' has true labels, not the answers of one annotator",)
    columns = section.columns.model_dump(exclude_none=True)
    more = {"columns": columns} if columns else {}
    for root in roots:
        data = {"source": "images", "root": str(root), "labels": str(file), **more}
        samples = _loads(data)
        if samples is not None:
            return _Reading(data, samples, assumed)
    if "sample_id" in columns:
        more = {"columns": {"path": columns.pop("sample_id"), **columns}}
    data = {"source": "table", "table": str(file), **more}
    samples = _loads(data)
    there = samples is not None and Path(samples.images.where(0)).exists()
    return _Reading(data, samples, assumed) if there else None


def _entry(file: Path, look: _Look, classes: Sequence[str] | None) -> ExternalSection:
    """Return the entry of `teachers.external` for a table, with the columns that its names do not
    tell. Raises `UserError`."""
    flat = file.name.lower().endswith(FLAT)
    columns = guess_columns(file, look.head(file), look.images, classes) if flat else {}
    return ExternalSection(annotations=str(file), columns=ColumnsSection(**columns))


def _labels_said(files: Sequence[Path], look: _Look) -> list[str]:
    """Return the labels that tables of annotators hold, as names of classes in their order."""
    found: set[str] = set()
    for file in files:
        try:
            section = _entry(file, look, None)
            votes = open_table(section, None).votes
            if votes is not None:
                found.update(votes.labels)
            elif file.suffix.lower() in CSV + PARQUET:
                found.update(find_layout(file, section, look.head(file), None).columns)
        except UserError:
            continue
    return ordered_names(found)


def _by_folders(root: Path, said: Sequence[str]) -> _Reading:
    """Return how images are read by their folders.

    said: labels that annotators gave. Folders with none of these names are no classes.
    """
    more = _unlabelled(root)
    domains = {"source": "domain_folder", "root": str(root), **more}
    found = _loads(domains)
    if found is not None and _has_domains(found) and _fits(found, said):
        return _Reading(domains, found, ("a folder is a domain, and each folder in it a class",))
    classes = {"source": "image_folder", "root": str(root), **more}
    found = _loads(classes)
    if found is not None and len(found.classes) > 1 and _fits(found, said):
        return _Reading(classes, found, ("a folder is a class",))
    loose: dict[str, Any] = {"source": "images", "root": str(root)}
    if not said:
        return _Reading(loose, None)
    loose["classes"] = list(said)
    return _Reading(loose, _load(loose), ("the classes are the labels that the tables hold",))


def _unlabelled(root: Path) -> dict[str, str]:
    """Return the setting for a folder whose name says that its images have no label."""
    names = [name for name in folders(root) if WITHOUT_LABELS.match(name)]
    return {"unlabelled": str(root / names[0])} if len(names) == 1 else {}


def _has_domains(found: Collection) -> bool:
    """Return whether most classes are in several domains, and the domains no splits."""
    if len(found.domains) < 2 or set(found.domains) <= SPLIT_FOLDERS:
        return False
    per_class = found.table.groupby("label")["domain"].nunique()
    return bool((per_class > 1).mean() >= 0.5)


def _fits(found: Collection, said: Sequence[str]) -> bool:
    return not said or bool(set(found.classes) & set(said))


def _annotators(
    files: Sequence[Path], samples: Collection | None, look: _Look
) -> tuple[list[AnnotatorTable], dict[Path, str]]:
    """Return the tables of annotators that fit the samples, and why the others do not."""
    tables, left_out = [], {}
    for file in files:
        try:
            tables.append(_annotator_table(file, samples, look))
        except UserError as error:
            telling = TELLING.search(file.stem) and file.suffix.lower() in CSV + PARQUET
            left_out[file] = NOT_READ if telling else str(error.errors[0])
    return tables, left_out


def _annotator_table(file: Path, samples: Collection | None, look: _Look) -> AnnotatorTable:
    """Return a table whose answers are about the samples. Raises `UserError`."""
    classes = None if samples is None else samples.classes
    section = _entry(file, look, classes)
    opened = open_table(section, classes)
    if opened.form == "labels" and TELLING.search(file.stem):
        raise UserError(NOT_READ)
    columns = section.columns.model_dump(exclude_none=True)
    table = AnnotatorTable(file, opened.form, opened.annotators if opened.several else (), columns)
    if samples is not None:
        external = ExternalSection.model_validate(table.entry)
        teachers = TeachersSection(hierarchy=None, external=[external])
        raise_all(check_tables(teachers, classes, samples.table["sample_id"].tolist()))
    return table


def other_columns(samples: Collection) -> list[str]:
    """Return the columns of a table of images that have no fixed meaning."""
    return [name for name in samples.table.columns if name not in TABLE_COLUMNS]
