"""All tables of a run, by name, and writing them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from cosup.analysis.base import Absent
from cosup.analysis.costs import cost_table, weights_table
from cosup.analysis.examples import examples_table
from cosup.analysis.filtering import annotation_accuracy_table, filters_table
from cosup.analysis.records import Run
from cosup.analysis.results import overview_table, teachers_table
from cosup.analysis.routing import assignment_table, flow_table, load_table, rounds_table
from cosup.analysis.student import (
    calibration_table,
    classes_table,
    confusion_table,
    domains_table,
    student_teachers_table,
    supervision_domains_table,
)
from cosup.files import write_atomic

__all__ = ["TABLES", "tables", "write_tables"]

TABLES: dict[str, Callable[[Run], pd.DataFrame]] = {
    "overview": overview_table,
    "teachers": teachers_table,
    "rounds": rounds_table,
    "load": load_table,
    "assignment": assignment_table,
    "flow": flow_table,
    "annotation_accuracy": annotation_accuracy_table,
    "filters": filters_table,
    "student_teachers": student_teachers_table,
    "classes": classes_table,
    "domains": domains_table,
    "supervision_domains": supervision_domains_table,
    "confusion": confusion_table,
    "calibration": calibration_table,
    "weights": weights_table,
    "examples": examples_table,
    "cost": cost_table,
}
"""Each function's text says what its columns are. Shares and accuracies are fractions in 0 .. 1."""


def tables(run: Run) -> dict[str, pd.DataFrame]:
    """The tables that can be made of a run, by name; `run.absent` says of the others why not.

    Raises `RunError`, naming the file, for a record that can't be read.
    """
    run.absent.clear()
    found = {}
    for name, make in TABLES.items():
        try:
            found[name] = make(run)
        except Absent as reason:
            run.absent[name] = str(reason)
    return found


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write each table as NAME.parquet and NAME.csv (UTF-8, with a header)."""
    for name, table in tables.items():
        _write_parquet(table, folder / f"{name}.parquet")
        text = table.to_csv(index=False, lineterminator="\n")
        write_atomic(folder / f"{name}.csv", text.encode("utf-8", errors="surrogateescape"))


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    write_atomic(path, lambda temporary: table.to_parquet(temporary, index=False))
