"""Tables with a row per sample or answer: the forms `labels`, `long`, `wide` and `matrix`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cosup.teachers.tables.frames import frames
from cosup.teachers.tables.layout import NO_ANSWER, Layout
from cosup.teachers.tables.votes import ALONE, VoteCollector, Votes

__all__ = ["collect_rows", "known_before", "read_rows"]


def read_rows(path: Path, layout: Layout) -> Votes:
    """Read all answers of a table, in chunks. Raises `UserError`."""
    found = VoteCollector(path, layout.form, *known_before(layout))
    collect_rows(layout, found)
    return found.finish()


def known_before(layout: Layout) -> tuple[Sequence[str], bool]:
    """Return the annotators that are known before the first row, and whether each row is about all
    of them."""
    if layout.form in ("wide", "matrix"):
        return layout.columns, True
    return [ALONE] if layout.annotator is None else [], False


def collect_rows(layout: Layout, found: VoteCollector) -> None:
    """Add the answers of the collector's file to it, in chunks. Raises `UserError`."""
    if layout.form in ("wide", "matrix"):
        _collect_wide(layout, found)
    else:
        _collect_answers(layout, found)


def _collect_answers(layout: Layout, found: VoteCollector) -> None:
    assert layout.label is not None
    for chunk in frames(found.path, layout.read):
        sample = found.start(_column(chunk, layout.sample_id))
        who = np.zeros(len(chunk), dtype=np.int32)
        if layout.annotator is not None:
            who = found.annotators(_column(chunk, layout.annotator))
        confidence = None if layout.confidence is None else _column(chunk, layout.confidence)
        found.add(sample, who, _column(chunk, layout.label), confidence)
        found.end(len(chunk))


def _collect_wide(layout: Layout, found: VoteCollector) -> None:
    blank = ("", NO_ANSWER) if layout.form == "matrix" else ("",)
    for chunk in frames(found.path, layout.read):
        sample = found.start(_column(chunk, layout.sample_id))
        for at, name in enumerate(layout.columns):
            who = np.full(len(chunk), at, dtype=np.int32)
            found.add(sample, who, _column(chunk, name), blank=blank)
        found.end(len(chunk))


def _column(chunk: pd.DataFrame, name: str) -> "pd.Series[Any]":
    """Return a column; a chunk of JSON records lacks those that none of them has."""
    if name in chunk:
        return chunk[name]
    return pd.Series([None] * len(chunk), dtype=object)
