"""The contents of the page: its chapters and figures, in order.

`CHAPTERS` is the only list of figures. The page, the tables of `tables(run)`, the written files and
the terminal's report all follow it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from cosup.analysis.agreement import AGREEMENT_FIGURE
from cosup.analysis.annotation_accuracy import ANNOTATION_ACCURACY_FIGURE
from cosup.analysis.candidates import CANDIDATES_FIGURE
from cosup.analysis.domains import CLASSES_FIGURE, DOMAINS_FIGURE
from cosup.analysis.evidence import EVIDENCE_FIGURE
from cosup.analysis.examples import EXAMPLES_FIGURE
from cosup.analysis.figure import Figure, NotListed, Unavailable, Unmeasured
from cosup.analysis.filters import FILTERS_FIGURE
from cosup.analysis.labels import LABELS_FIGURE
from cosup.analysis.limits import LIMITS_FIGURE
from cosup.analysis.records import Run
from cosup.analysis.results import OVERVIEW_FIGURE
from cosup.analysis.review_list import REVIEW_LIST_FIGURE
from cosup.analysis.rounds import LOAD_FIGURE, ROUNDS_FIGURE
from cosup.analysis.routing import ASSIGNMENT_FIGURE, FLOW_FIGURE
from cosup.analysis.shifted import SHIFTED_FIGURE
from cosup.analysis.source_tables import SOURCE_TABLES_FIGURE
from cosup.analysis.sources import PARTS_FIGURE, SOURCES_FIGURE
from cosup.analysis.student import CALIBRATION_FIGURE, CONFUSION_FIGURE, STUDENT_TEACHERS_FIGURE
from cosup.analysis.supervision_domains import SUPERVISION_DOMAINS_FIGURE
from cosup.analysis.teachers import TEACHERS_FIGURE
from cosup.analysis.training import COST_FIGURE, WEIGHTS_FIGURE
from cosup.files import csv_bytes
from cosup.layout.kinds import File
from cosup.progress import working_on

__all__ = ["CHAPTERS", "FIGURES", "TABLES", "Chapter", "findings", "tables", "write_tables"]


@dataclass(frozen=True)
class Chapter:
    """A chapter of the page: a title and figures."""

    id: str
    title: str
    figures: Sequence[Figure] = ()


CHAPTERS = (
    Chapter("verdict", "Verdict", [OVERVIEW_FIGURE, LIMITS_FIGURE, CANDIDATES_FIGURE]),
    Chapter(
        "sources",
        "Whom to trust",
        [SOURCES_FIGURE, PARTS_FIGURE, AGREEMENT_FIGURE, EVIDENCE_FIGURE, SOURCE_TABLES_FIGURE],
    ),
    Chapter("labels", "Labels", [LABELS_FIGURE, REVIEW_LIST_FIGURE]),
    Chapter("teachers", "Teachers", [TEACHERS_FIGURE, ANNOTATION_ACCURACY_FIGURE]),
    Chapter("routing", "Routing", [ROUNDS_FIGURE, ASSIGNMENT_FIGURE, LOAD_FIGURE, FLOW_FIGURE]),
    Chapter("filters", "Filters", [FILTERS_FIGURE]),
    Chapter(
        "student",
        "Student",
        [
            DOMAINS_FIGURE,
            SUPERVISION_DOMAINS_FIGURE,
            SHIFTED_FIGURE,
            CLASSES_FIGURE,
            STUDENT_TEACHERS_FIGURE,
            CONFUSION_FIGURE,
            CALIBRATION_FIGURE,
            WEIGHTS_FIGURE,
        ],
    ),
    Chapter("examples", "Examples", [EXAMPLES_FIGURE]),
    Chapter("cost", "Cost", [COST_FIGURE]),
    Chapter("reproduce", "Config, environment and how to reproduce"),
)
FIGURES = {figure.name: figure for chapter in CHAPTERS for figure in chapter.figures}
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
    with working_on("report: table", len(FIGURES)) as advance:
        for name, figure in FIGURES.items():
            try:
                found[name] = figure.table(run)
            except Unavailable as reason:
                told = not figure.optional and not isinstance(reason, Unmeasured)
                if told or isinstance(reason, NotListed):
                    run.absent[name] = str(reason)
            advance(1)
    return found


def findings(run: Run, tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """State the main result of each table in words, by the table's name."""
    found = {
        name: figure.sentence(run, tables[name])
        for name, figure in FIGURES.items()
        if name in tables
    }
    return {name: sentence for name, sentence in found.items() if sentence}


def write_tables(
    tables: Mapping[str, pd.DataFrame], folder: Path, file: Callable[[Path], File] = File
) -> None:
    """Write each table as NAME.parquet and NAME.csv (UTF-8, with a header).

    file: gives the file at a path, such as one of a run.
    """
    for name, table in tables.items():
        file(folder / f"{name}.parquet").put(partial(table.to_parquet, index=False))
        file(folder / f"{name}.csv").put(csv_bytes(table))
