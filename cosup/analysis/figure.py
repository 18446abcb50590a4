"""The parts of a figure, and the requirements that a table may have of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from cosup.analysis.arrays import Bools
from cosup.analysis.drawing import View
from cosup.analysis.records import Run
from cosup.analysis.stages import NOT_LISTED
from cosup.controls import NO_TEST, NO_TRUE_LABEL

__all__ = [
    "Excerpt",
    "Figure",
    "NotListed",
    "Unavailable",
    "Unmeasured",
    "require_labels",
    "require_listed",
    "require_rounds",
    "require_samples",
    "require_test",
]

NO_SAMPLES = "the run has no samples.parquet: it was made by an earlier version of cosup"
NOT_PREPARED = "teachers and annotations are not finished"
NO_ROUND = "no round is finished"


class Unavailable(Exception):
    """Raised when a table cannot be made from a run. The text gives the reason."""


class Unmeasured(Unavailable):
    """Raised for a table of what is measured on test samples, where there are none.

    The report says so once, and not for each figure.
    """

    def __init__(self) -> None:
        super().__init__(NO_TEST)


class NotListed(Unavailable):
    """Raised for a table that has or needs a row for each sample of a sharded run.

    The report says so for optional figures, too.
    """

    def __init__(self) -> None:
        super().__init__(NOT_LISTED)


@dataclass(frozen=True)
class Excerpt:
    """The part of a table that is printed on the terminal.

    columns: the columns, in this order. ends: a column; a long table is shortened to the rows
    that are highest and lowest in it. Without it the last rows are printed. pivot: a column whose
    values become columns of the printed table.
    """

    columns: Sequence[str]
    ends: str = ""
    pivot: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    name: the name of its table, also in `tables(run)` and in the written files. about: a note on
    how to read the drawing, or "". table: makes the table from a run; raises `Unavailable` if the
    run lacks what it needs. sentence: states the main result of the table in words, or returns "".
    draw: turns the table into drawings. excerpt: what is printed on the terminal; None: nothing.
    optional: the figure is left out where a run lacks it, and the reason is not listed.
    """

    name: str
    title: str
    table: Callable[[Run], pd.DataFrame]
    sentence: Callable[[Run, pd.DataFrame], str]
    draw: Callable[[pd.DataFrame], Sequence[View]]
    about: str = ""
    excerpt: Excerpt | None = None
    optional: bool = False


def require_samples(run: Run) -> None:
    """Raise `Unavailable` for a run without a table of its samples."""
    if not run.prepared:
        raise Unavailable(NO_SAMPLES if run.finished else NOT_PREPARED)


def require_rounds(run: Run) -> None:
    """Raise `Unavailable` for a run without a finished round, which has no student yet."""
    require_samples(run)
    if not run.rounds:
        raise Unavailable(NO_ROUND)


def require_listed(run: Run) -> None:
    """Raise `NotListed` for a sharded run, of which no table has a row for each sample."""
    if run.sharded:
        raise NotListed


def require_test(run: Run) -> None:
    """Raise `Unavailable` for a run that is not prepared, `Unmeasured` without test samples."""
    require_samples(run)
    if not run.measured:
        raise Unmeasured


def require_labels(known: Bools) -> None:
    """Raise `Unavailable` if no label is known."""
    if not known.any():
        raise Unavailable(NO_TRUE_LABEL)
