"""What a run's records say, as pandas tables: `load_run`, then `tables`.


run = load_run("outputs/quickstart")
run.decisions, run.predictions, run.samples     # what was recorded
tables(run)["filters"]                          # what it says
"""

from cosup.analysis.findings import findings
from cosup.analysis.loading import load_run, runs_inside
from cosup.analysis.records import Run
from cosup.analysis.table_set import TABLES, tables, write_tables
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
