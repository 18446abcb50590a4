"""The form of a table, found by its columns and its first rows.

Forms follow the packages that people bring their tables from:

- `long`, crowd-kit's (`task, worker, label`; https://crowd-kit.readthedocs.io) and cleanlab's
  (`task, annotator, label`, `cleanlab.multiannotator.convert_long_to_wide_dataset`);
- `wide`, cleanlab's `labels_multiannotator`: a row per sample, a column per annotator, blank where
  an annotator was not asked;
- `matrix`, snorkel's label matrix (https://snorkel.readthedocs.io, `LFApplier`): the same with
  class indices, and -1 where a labelling function abstains;
- Label Studio's CSV and JSON-MIN exports are long; the name of the choices is a column.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.config.external import ColumnsSection, ExternalSection, Form
from cosup.data.column_names import USUAL, usual_name
from cosup.errors import unknown_name
from cosup.teachers.tables.frames import table_error

__all__ = ["NO_ANSWER", "Layout", "class_of", "find_layout", "sample_id_column", "text_of"]

INDEX_COLUMNS = ("", "Unnamed: 0", "__index_level_0__")  # pandas writes them by default
LABEL_STUDIO = ("id", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
"""Columns of Label Studio's exports that say nothing of the class."""

NO_ANSWER = "-1"
"""A label that says that there is none, as snorkel's; blank cells are none either."""


@dataclass(frozen=True)
class Layout:
    """The form of a table, and what its columns are.

    sample_id, annotator, label, confidence: columns; None where the form has none. columns: those
    of the annotators (`wide`, `matrix`) or classes (`probabilities`).
    """

    form: Form
    sample_id: str
    annotator: str | None = None
    label: str | None = None
    confidence: str | None = None
    columns: tuple[str, ...] = ()

    @property
    def read(self) -> list[str]:
        """Return the columns that are read."""
        single = (self.sample_id, self.annotator, self.label, self.confidence)
        return [*(column for column in single if column is not None), *self.columns]


def find_layout(
    path: Path, section: ExternalSection, head: pd.DataFrame, classes: Sequence[str] | None
) -> Layout:
    """Return the layout of a table by its first rows.

    classes: names of the task's classes; None if they are not known. Raises `UserError`.
    """
    names = list(head.columns)
    sample_id = sample_id_column(path, names, section)
    known = set(classes or ())
    annotator = _column(path, names, section.columns, "annotator", known)
    label = _label_column(path, names, section, known, sample_id)
    confidence = _column(path, names, section.columns, "confidence", known)
    rest = [name for name in names if name not in {*USUAL["sample_id"], sample_id, *INDEX_COLUMNS}]
    form = section.form
    if form == "auto":
        form = _form(path, head, rest, annotator, label, classes)
    if form in ("long", "labels"):
        if label is None:
            raise table_error(path, f"no column 'label' (found: {', '.join(names[:10])})")
        if form == "labels":
            return Layout(form, sample_id, None, label, confidence)
        if annotator is None:
            found = ", ".join(names[:10])
            raise table_error(path, f"no column 'annotator' (found: {found})")
        return Layout(form, sample_id, annotator, label, confidence)
    if form not in ("wide", "matrix", "probabilities"):
        raise table_error(path, f"is a table, not form '{form}'", "JSON")
    if not rest:
        raise table_error(path, "has neither a column 'label' nor a column per class or annotator")
    return Layout(form, sample_id, columns=tuple(rest))


def sample_id_column(path: Path, names: Sequence[str], section: ExternalSection) -> str:
    """Return the column of the sample ids. Raises `UserError` without one."""
    found = _column(path, names, section.columns, "sample_id")
    if found is None:
        allowed = f"{', '.join(USUAL['sample_id'])}; or `columns.sample_id`"
        problem = f"no column 'sample_id' (found: {', '.join(names[:10])})"
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            allowed = "commas between the columns, or tabs in a file .tsv"
        raise table_error(path, problem, allowed)
    return found


def text_of(value: Any) -> str:
    """Return a cell that is not missing as text. Whole numbers have no decimals: pandas turns those
    beside missing values into floats."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def class_of(text: str, known: dict[str, int], by_index: bool = False) -> int | None:
    """Return the index of a class given by name or index (`by_index`: by index alone); None if
    there is no such class."""
    if text in known and not by_index:
        return known[text]
    number = text.removesuffix(".0")
    if number.isdecimal() and number.isascii() and int(number) < len(known):
        return int(number)
    return None


def _column(
    path: Path,
    names: Sequence[str],
    section: ColumnsSection,
    role: str,
    not_among: Iterable[str] = (),
) -> str | None:
    """Return the column of a role: the one that the config names, or one of a usual name."""
    asked: str | None = getattr(section, role)
    if asked is not None:
        if asked not in names:
            error = unknown_name("column", asked, names, key=f"columns.{role}")
            raise error.moved(where=f"annotation table {path}")
        return asked
    return usual_name(role, names, set(not_among))


def _label_column(
    path: Path, names: Sequence[str], section: ExternalSection, known: set[str], sample_id: str
) -> str | None:
    found = _column(path, names, section.columns, "label", known)
    if found is not None or "annotation_id" not in names:
        return found
    # Label Studio names the column of the choices after the control tag.
    others = {*LABEL_STUDIO, *USUAL["annotator"], *USUAL["sample_id"], sample_id}
    left = [name for name in names if name not in others]
    return left[0] if len(left) == 1 else None


def _form(
    path: Path,
    head: pd.DataFrame,
    rest: Sequence[str],
    annotator: str | None,
    label: str | None,
    classes: Sequence[str] | None,
) -> Form:
    known = [name for name in rest if name in set(classes or ())]
    if label is not None:
        if known and annotator is None:
            found = f"has a column '{label}' and columns of classes, such as '{known[0]}'"
            raise table_error(path, found, "one or the other")
        return "labels" if annotator is None else "long"
    # Annotators may be numbered, and so may classes be: their cells tell them apart.
    if any(not name.isdecimal() for name in known):
        return "probabilities"
    cells = head[list(rest)].head(1000).apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    named = bool(rest) and all(class_of(name, _numbered(classes)) is not None for name in rest)
    fractions = bool((np.isfinite(cells) & (cells != np.floor(cells))).any())
    if _are_probabilities(cells) and (named or fractions):
        return "probabilities"
    return "matrix" if _is_matrix(cells, classes) else "wide"


def _numbered(classes: Sequence[str] | None) -> dict[str, int]:
    return {name: index for index, name in enumerate(classes or ())}


def _are_probabilities(cells: NDArray[np.float64]) -> bool:
    """Return whether most rows are numbers from 0 to 1 that sum to 1, over several columns."""
    if not len(cells) or cells.shape[1] < 2:
        return False
    with np.errstate(invalid="ignore"):
        fits = ((cells >= 0) & (cells <= 1)).all(1) & (np.abs(cells.sum(1) - 1) < 0.02)
    return bool(fits.mean() > 0.5)


def _is_matrix(cells: NDArray[np.float64], classes: Sequence[str] | None) -> bool:
    """Return whether cells are class indices, with -1 among them, that are no names of others."""
    renamed = any(name.isdecimal() and int(name) != at for at, name in enumerate(classes or ()))
    whole = bool((cells == np.floor(cells)).all())
    return whole and not renamed and bool((cells == int(NO_ANSWER)).any())
