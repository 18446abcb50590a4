"""The tables, figures and verdict of a run, from its records.


run = load_run("outputs/quickstart")
run.decisions, run.predictions, run.samples     # the records as tables
tables(run)["filters"]                          # a table of the report
"""

from cosup.analysis.figures import TABLES, findings, tables, write_tables
from cosup.analysis.records import Run, load_run, runs_inside
from cosup.analysis.verdict import verdict

__all__ = [
    "TABLES",
    "Run",
    "findings",
    "load_run",
    "runs_inside",
    "tables",
    "verdict",
    "write_tables",
]
