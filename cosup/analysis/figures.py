"""The contents of the page: its sections and figures, in order.

`SECTIONS` is the only list of figures. The page, the tables of `tables(run)`, the written files and
the terminal's report all follow it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cosup.analysis.domains import CLASSES, DOMAINS, SUPERVISION_DOMAINS
from cosup.analysis.examples import EXAMPLES
from cosup.analysis.figure import Figure, Unavailable
from cosup.analysis.filters import FILTERS
from cosup.analysis.records import Run
from cosup.analysis.results import OVERVIEW
from cosup.analysis.rounds import LOAD, ROUNDS
from cosup.analysis.routing import ASSIGNMENT, FLOW
from cosup.analysis.student import CALIBRATION, CONFUSION, STUDENT_TEACHERS
from cosup.analysis.teachers import ANNOTATION_ACCURACY, TEACHERS
from cosup.analysis.training import COST, WEIGHTS
from cosup.files import write_atomic
from cosup.layout import TableFile

__all__ = ["FIGURES", "SECTIONS", "TABLES", "Section", "findings", "tables", "write_tables"]


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    id: str
    title: str
    figures: Sequence[Figure] = ()


SECTIONS = (
    Section("verdict", "Verdict", [OVERVIEW]),
    Section("teachers", "Teachers", [TEACHERS, ANNOTATION_ACCURACY]),
    Section("routing", "Routing", [ROUNDS, ASSIGNMENT, LOAD, FLOW]),
    Section("filters", "Filters", [FILTERS]),
    Section(
        "student",
        "Student",
        [
            DOMAINS,
            SUPERVISION_DOMAINS,
            CLASSES,
            STUDENT_TEACHERS,
            CONFUSION,
            CALIBRATION,
            WEIGHTS,
        ],
    ),
    Section("examples", "Examples", [EXAMPLES]),
    Section("cost", "Cost", [COST]),
    Section("reproduce", "Config, environment and how to reproduce"),
)
FIGURES = {figure.name: figure for section in SECTIONS for figure in section.figures}
"""The figures of the page by name."""
TABLES = {name: figure.table for name, figure in FIGURES.items()}
"""The function that makes each table; its docstring describes the columns. Shares and accuracies
are fractions in [0, 1]."""


def tables(run: Run) -> dict[str, pd.DataFrame]:
    """Make the tables of a run, by name; `run.absent` gives the reason for each one left out.

    Raises `RunError`, naming the file, for a record that cannot be read.
    """
    run.absent.clear()
    found = {}
    for name, figure in FIGURES.items():
        try:
            found[name] = figure.table(run)
        except Unavailable as reason:
            run.absent[name] = str(reason)
    return found


def findings(run: Run, tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """State the main result of each table in words, by the table's name."""
    found = {
        name: figure.sentence(run, tables[name])
        for name, figure in FIGURES.items()
        if name in tables
    }
    return {name: sentence for name, sentence in found.items() if sentence}


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write each table as NAME.parquet and NAME.csv (UTF-8, with a header)."""
    for name, table in tables.items():
        TableFile(folder / f"{name}.parquet").write(table)
        text = table.to_csv(index=False, lineterminator="\n")
        write_atomic(folder / f"{name}.csv", text.encode("utf-8", errors="surrogateescape"))
