"""Guess what the columns of a table are by what they hold, where their names do not say it."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cosup.config.external import ExternalSection
from cosup.errors import UserError
from cosup.teachers.tables.layout import find_layout, text_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ImageNames", "guess_columns"]

MOST_LOOKED_AT = 1000
"""Distinct values of a column that are compared with the names of images."""


class ImageNames:
    """The names of images: paths, file names, and these without their endings."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.known: set[str] = set()
        for path in map(PurePosixPath, paths):
            self.known |= {str(path), path.name, path.stem}

    def __contains__(self, value: str) -> bool:
        path = PurePosixPath(value)
        return value in self.known or path.name in self.known


def guess_columns(
    file: Path, head: "pd.DataFrame", images: ImageNames, classes: Sequence[str] | None
) -> dict[str, str]:
    """Return the columns of a flat table by role, as `columns` of its entry; {} where their names
    say it already, and where what they hold does not tell.

    head: the first rows of the file. classes: names of the task's classes; None if they are not
    known. Looked for are tables with a row per answer (`sample_id`, `annotator`, `label`), with a
    row per image and its label, and with a row per image and columns of annotators who give the
    same labels.
    """
    head = head.rename(columns=str)
    found = _named(file, head, classes)
    if found is not None:
        return found
    texts = head.map(text_of, na_action="ignore")
    texts = texts.where(texts != "")
    names = [str(name) for name in texts]
    sample_id = next((name for name in names if _names_images(texts[name], images)), None)
    if sample_id is None:
        return {}
    others = [name for name in names if name != sample_id]
    repeated = [name for name in others if _repeats(texts[name])]
    if texts[sample_id].is_unique:
        said = [set(texts[name].dropna()) for name in others]
        if len(others) == 1 and repeated:
            return {"sample_id": sample_id, "label": others[0]}
        alike = len(said) > 1 and all(said[0] & other for other in said)
        return {"sample_id": sample_id} if alike else {}
    once = {name: not texts.duplicated([sample_id, name]).any() for name in others}
    annotators = [name for name in repeated if once[name]]
    if classes:
        labels = [name for name in others if set(texts[name].dropna()) <= set(classes)]
    else:
        labels = [name for name in repeated if not once[name]]
    if len(annotators) != 1 or len(labels) != 1:
        return {}
    return {"sample_id": sample_id, "annotator": annotators[0], "label": labels[0]}


def _named(
    file: Path, head: "pd.DataFrame", classes: Sequence[str] | None
) -> dict[str, str] | None:
    """Return {} if the names of the columns say what they are, else None."""
    try:
        layout = find_layout(file, ExternalSection(annotations=str(file)), head, classes)
    except UserError:
        return None
    one_per_image = layout.form != "long"
    return None if one_per_image and head[layout.sample_id].duplicated().any() else {}


def _names_images(values: "pd.Series[str]", images: ImageNames) -> bool:
    """Return whether at least half of the distinct values name images."""
    looked_at = values.dropna().drop_duplicates().head(MOST_LOOKED_AT)
    return bool(len(looked_at)) and bool(looked_at.map(images.__contains__).mean() >= 0.5)


def _repeats(values: "pd.Series[str]") -> bool:
    """Return whether values occur twice on average, as names of annotators and classes do."""
    given = values.dropna()
    return 0 < 2 * given.nunique() <= len(given)
