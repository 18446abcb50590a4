"""Read annotation tables: each file once for all of its annotators."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from cosup.config.external import ExternalSection, Form
from cosup.errors import UserError, unknown_name
from cosup.teachers.tables.answers import Answers, ProbabilityAnswers, label_answers, no_answers
from cosup.teachers.tables.arrays import load_arrays, read_matrix
from cosup.teachers.tables.frames import (
    ARRAYS,
    check_file,
    ending,
    first_chunk,
    frames,
    is_json,
    load_json,
    stamp,
    table_error,
)
from cosup.teachers.tables.layout import Layout, find_layout
from cosup.teachers.tables.nested import nested_form, read_nested
from cosup.teachers.tables.probabilities import ProbabilityReader
from cosup.teachers.tables.rows import read_rows
from cosup.teachers.tables.votes import ALONE, Votes

__all__ = [
    "Opened",
    "TableKey",
    "open_table",
    "pick_annotator",
    "probability_reader",
    "read_answers",
    "read_whole",
    "table_key",
    "unknown_annotator",
]

KEPT = 4
"""Files whose answers are kept in memory, for their other annotators."""


@dataclass(frozen=True)
class TableKey:
    """What the answers of a file depend on: files, settings of the reading, and class names."""

    stamps: tuple[tuple[str, int, int], ...]
    section: ExternalSection
    classes: tuple[str, ...] | None

    @property
    def path(self) -> Path:
        """Return the file."""
        assert self.section.annotations is not None
        return Path(self.section.annotations)


@dataclass(frozen=True)
class Opened:
    """An opened file. annotators: their names, (`ALONE`,) where it names none. votes: all answers;
    None for probabilities, which are read for the teacher's scope."""

    form: Form
    annotators: tuple[str, ...]
    votes: Votes | None

    @property
    def several(self) -> bool:
        """Whether the file names its annotators."""
        return self.annotators != (ALONE,)


def table_key(section: ExternalSection, classes: Sequence[str] | None) -> TableKey:
    """Return what an entry's file is kept under. Raises `UserError` if a file is absent."""
    files = [Path(file) for file in (section.annotations, section.ids) if file is not None]
    reading = ExternalSection(
        annotations=section.annotations,
        form=section.form,
        columns=section.columns,
        ids=section.ids,
    )
    for file in files:
        check_file(file)
    return TableKey(
        tuple(stamp(file) for file in files),
        reading,
        None if classes is None else tuple(classes),
    )


def open_table(section: ExternalSection, classes: Sequence[str] | None) -> Opened:
    """Return the form, annotators and answers of a file; they are kept for later calls.

    classes: names of the task's classes; None if they are not known. Raises `UserError`.
    """
    return _open(table_key(section, classes))


@lru_cache(maxsize=KEPT)
def _open(key: TableKey) -> Opened:
    path, section = key.path, key.section
    if (whole := read_whole(key)) is not None:
        return whole
    layout = find_layout(path, section, first_chunk(path), key.classes)
    if layout.form == "probabilities":
        return _soft(layout.form)
    return _opened(read_rows(path, layout))


def read_whole(key: TableKey) -> Opened | None:
    """Return an opened file of a format that is read as a whole: an array, or JSON with nested
    objects; None for others, which are read in chunks."""
    path, section = key.path, key.section
    if ending(path) in ARRAYS:
        arrays = load_arrays(path, section)
        _require(path, section, "matrix" if arrays.is_matrix else "probabilities")
        return _opened(read_matrix(arrays)) if arrays.is_matrix else _soft("probabilities")
    if is_json(path):
        content = load_json(path)
        form = nested_form(path, content)
        if form is not None:
            _require(path, section, form)
            return _opened(read_nested(path, content, form, section.columns))
    return None


def _opened(votes: Votes) -> Opened:
    return Opened(votes.form, votes.annotators, votes)


def _soft(form: Form) -> Opened:
    return Opened(form, (ALONE,), None)


def _require(path: Path, section: ExternalSection, found: Form) -> None:
    if section.form not in ("auto", found):
        raise table_error(path, f"is not of the form '{section.form}'", f"form '{found}'")


def read_answers(
    section: ExternalSection,
    classes: Sequence[str],
    scope: Sequence[int] | None = None,
    may_abstain: bool = False,
) -> Answers:
    """Read and check the answers of one annotator (`section.annotator`).

    scope: the classes that the annotator knows (None: all). may_abstain: allow rows without an
    answer. Raises `UserError`.
    """
    opened = open_table(section, classes)
    if opened.votes is not None:
        annotator = pick_annotator(section, opened)
        return label_answers(opened.votes, annotator, classes, scope, may_abstain)
    reader, chunks = probability_reader(section, classes, scope, may_abstain)
    path, (ids, probs) = reader.path, reader.read(chunks)
    found = ProbabilityAnswers(
        path,
        opened.form,
        ids,
        np.ones(len(ids), dtype=np.int64),
        np.arange(len(ids), dtype=np.int32),
        probs,
    )
    if not found.given().any():
        raise no_answers(path)
    return found


def probability_reader(
    section: ExternalSection,
    classes: Sequence[str],
    scope: Sequence[int] | None,
    may_abstain: bool,
) -> tuple[ProbabilityReader, Iterator[pd.DataFrame]]:
    """Return what reads the probabilities of a file, and the file in chunks. Raises `UserError`."""
    path = table_key(section, classes).path
    if ending(path) in ARRAYS:
        arrays = load_arrays(path, section)
        if arrays.values.shape[1] != len(classes):
            raise table_error(path, f"has {arrays.values.shape[1]} columns", f"{len(classes)}")
        layout = Layout("probabilities", "sample_id", columns=tuple(classes))
        chunks = arrays.frames(classes)
    else:
        layout = find_layout(path, section, first_chunk(path), classes)
        chunks = frames(path, layout.read)
    return ProbabilityReader(path, layout, classes, scope, may_abstain), chunks


def pick_annotator(section: ExternalSection, opened: Opened) -> str:
    """Return the annotator that an entry names, or the only one of its file.

    Raises `UserError` with the key `annotator`.
    """
    if section.annotator is None:
        assert len(opened.annotators) == 1, "an entry for several annotators is not expanded"
        return opened.annotators[0]
    if section.annotator not in opened.annotators or not opened.several:
        raise unknown_annotator(section, section.annotator, opened, "annotator")
    return section.annotator


def unknown_annotator(section: ExternalSection, name: str, opened: Opened, key: str) -> UserError:
    """Return the error for an annotator that a file does not name."""
    where = f"annotation table {section.annotations}"
    if not opened.several:
        problem = f"its form is '{opened.form}', which names no annotators"
        return UserError(problem, key=key, value=name, where=where)
    return unknown_name("annotator", name, opened.annotators, key=key).moved(where=where)
