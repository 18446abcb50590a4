"""Tables with a row per sample or answer: the forms `labels`, `long`, `wide` and `matrix`."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cosup.teachers.tables.frames import frames
from cosup.teachers.tables.layout import NO_ANSWER, Layout
from cosup.teachers.tables.votes import ALONE, VoteCollector, Votes

__all__ = ["read_rows"]


def read_rows(path: Path, layout: Layout) -> Votes:
    """Read all answers of a table, in chunks. Raises `UserError`."""
    if layout.form in ("wide", "matrix"):
        return _read_wide(path, layout)
    return _read_answers(path, layout)


def _read_answers(path: Path, layout: Layout) -> Votes:
    assert layout.label is not None
    found = VoteCollector(path, layout.form, [ALONE] if layout.annotator is None else [])
    for chunk in frames(path, layout.read):
        sample = found.start(_column(chunk, layout.sample_id))
        who = np.zeros(len(chunk), dtype=np.int32)
        if layout.annotator is not None:
            who = found.annotators(_column(chunk, layout.annotator))
        confidence = None if layout.confidence is None else _column(chunk, layout.confidence)
        found.add(sample, who, _column(chunk, layout.label), confidence)
        found.end(len(chunk))
    return found.finish()


def _read_wide(path: Path, layout: Layout) -> Votes:
    found = VoteCollector(path, layout.form, layout.columns, every_row=True)
    blank = ("", NO_ANSWER) if layout.form == "matrix" else ("",)
    for chunk in frames(path, layout.read):
        sample = found.start(_column(chunk, layout.sample_id))
        for at, name in enumerate(layout.columns):
            who = np.full(len(chunk), at, dtype=np.int32)
            found.add(sample, who, _column(chunk, name), blank=blank)
        found.end(len(chunk))
    return found.finish()


def _column(chunk: pd.DataFrame, name: str) -> "pd.Series[Any]":
    """Return a column; a chunk of JSON records lacks those that none of them has."""
    if name in chunk:
        return chunk[name]
    return pd.Series([None] * len(chunk), dtype=object)
