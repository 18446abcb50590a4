"""Annotation tables in files, and configs of them."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cosup.config.teachers import TeachersSection
from cosup.errors import UserError
from cosup.teachers.tables.checks import check_tables, read_entry
from cosup.teachers.tables.teachers import expand_tables

CLASSES = ["cat", "dog", "bird"]


def file(path: Path, content: Any) -> Path:
    """Write text, or JSON of anything else."""
    text = content if isinstance(content, str) else json.dumps(content)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def section(*entries: dict[str, Any]) -> TeachersSection:
    found = [{**entry, "annotations": str(entry["annotations"])} for entry in entries]
    return TeachersSection.model_validate({"hierarchy": None, "external": found})


def answers(
    path: Path, classes: Sequence[str] = CLASSES, **settings: Any
) -> dict[str, dict[str, torch.Tensor]]:
    """Return what the teachers of one table say: name -> sample id -> probabilities."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    entries = section({"annotations": path, **settings}).external
    for _, entry in expand_tables(entries, classes):
        read = read_entry(entry, classes, None)
        assert entry.name is not None
        ids = [str(read.ids[place]) for place in read.sample]
        found[entry.name] = dict(zip(ids, read.dense(), strict=True))
    return found


def labels(
    path: Path, classes: Sequence[str] = CLASSES, **settings: Any
) -> dict[str, dict[str, str]]:
    """Return the classes that the teachers of one table name: name -> sample id -> class."""
    return {
        name: {sample: classes[int(row.argmax())] for sample, row in rows.items() if row.sum() > 0}
        for name, rows in answers(path, classes, **settings).items()
    }


def errors(
    path: Path,
    ids: Sequence[str] | None = None,
    classes: Sequence[str] | None = CLASSES,
    **settings: Any,
) -> list[UserError]:
    """Return the errors of one table; each is one line that names the file or the entry."""
    found = check_tables(section({"annotations": path, **settings}), classes, ids)
    for error in found:
        assert "\n" not in str(error)
        assert str(path) in str(error) or error.key[:2] == ("teachers", "external")
    return found


def one_error(path: Path, ids: Sequence[str] | None = None, **settings: Any) -> str:
    (error,) = errors(path, ids, **settings)
    return str(error)
