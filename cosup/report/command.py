"""What `cosup report` makes of the runs that it is given: pages, or a tree for JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from cosup import words
from cosup.analysis import Run, findings, load_run, runs_inside, tables, verdict
from cosup.analysis.arrays import rows_of
from cosup.analysis.figures import FIGURES
from cosup.analysis.next_steps import next_steps
from cosup.analysis.outcome import outcome
from cosup.errors import RunError, UserError
from cosup.layout import Layout
from cosup.origins import has_folder, is_there, shown
from cosup.remote_copy import alone, copy_of, folder_of
from cosup.report.masthead import warnings
from cosup.report.page import REPORT_MARK, TABLE_FOLDER, write_report

__all__ = ["report_page", "report_tree", "runs_to_report"]


def runs_to_report(places: Sequence[str], output: Path | None, text: bool) -> list[Run]:
    """Open the runs; a directory with several (over seeds, or losses) stands for all of them.

    Raises `UserError` for a path that is not a run, and for an output that cannot be written.
    """
    runs = [run for place in places for run in _runs(place)]
    if output is not None:
        _check_output(output, runs, text)
    return runs


def report_page(run: Run, output: Path | None) -> str:
    """Write the page of a run and return a line that says where it is.

    Of a run at a URI it is written there. If that is not possible, or if the run is not finished,
    so that another process may be writing there, it is written here: `NAME-report/index.html`.
    """
    copy = copy_of(run.path)
    if output is not None or copy is None:
        return f"{run.name}: {write_report(run, output)}"
    made, why = tables(run), "the run is not finished"
    if run.finished:
        try:
            with alone(run.path):
                page = write_report(run, None, made)
                copy.put_back(page.parent)
            return f"{run.name}: {shown(page)}"
        except RunError as error:
            why = str(error)
    here = Path(f"{run.title}-report", run.files.page.name)
    _check_output(here, [run], text=False)
    written = write_report(run, here, made)
    return f"{run.name}: {written} (nothing is written to {run.place}: {why})"


def report_tree(runs: Sequence[Run], output: Path | None = None) -> Any:
    """Return the report of a run as a tree of plain types, or a list of those of several runs.

    output: also write the page of the run there. All shares and accuracies are fractions.

    run, path, finished, measured (on what; null without a test split), outcome (`answer`,
    `headline`, `detail`), next (steps with `text` and `command`), verdict (sentences), warnings,
    tables (the main ones by name, each a list of rows; a missing value is null), findings (a
    sentence by table), absent (why a table is not there, by name), paths (of what there is).
    """
    trees = [_tree(run, output) for run in runs]
    return trees[0] if len(trees) == 1 else trees


def _tree(run: Run, output: Path | None) -> dict[str, Any]:
    made = tables(run)
    if output is not None:
        write_report(run, output, made)
    told, main = outcome(run, made), [name for name in made if FIGURES[name].excerpt is not None]
    found = findings(run, made)
    steps = next_steps(run, made)
    return {
        "run": run.title,
        "path": run.place,
        "finished": run.finished,
        "measured": run.prepared.get("measured"),
        "outcome": None if told is None else asdict(told),
        "next": [{"text": one.text, "command": one.command_for(run.place)} for one in steps],
        "verdict": verdict(run, made),
        "warnings": warnings(run),
        "tables": {name: _rows(made[name]) for name in main},
        "findings": {name: found[name] for name in main if name in found},
        "absent": dict(run.absent),
        "paths": _paths(run, output),
    }


def _rows(table: pd.DataFrame) -> list[Mapping[str, Any]]:
    return [
        {name: None if words.missing(value) else value for name, value in row.items()}
        for row in rows_of(table)
    ]


def _paths(run: Run, output: Path | None) -> dict[str, str]:
    """Return what there is of the files that a reader may open."""
    files = run.files
    page = output or files.page
    found = {
        "page": page,
        "tables": page.parent / TABLE_FOLDER,
        "summary": files.summary.path,
        "config": files.config.path,
        "labels": files.shard_labels if run.sharded else files.labels.path,
        "student": files.student,
    }
    there = (is_there, has_folder)
    return {name: shown(path) for name, path in found.items() if any(is_(path) for is_ in there)}


def _runs(place: str) -> list[Run]:
    path = folder_of(place)
    inside = [] if Layout(path).samples.exists() else runs_inside(path)
    return [load_run(one) for one in inside] or [load_run(path)]


def _check_output(output: Path, runs: Sequence[Run], text: bool) -> None:
    if text:
        raise UserError("excludes --text; give one of them", key=("--output",))
    if len(runs) != 1:
        raise UserError(f"takes the report of one run; {len(runs)} are given", key=("--output",))
    if output.is_dir():
        problem = f"is a directory; give a file such as {Layout(output).page.name} in it"
    elif output.exists() and REPORT_MARK not in output.read_bytes()[:2000]:
        problem = "exists and is not a report; choose another name"
    else:
        return
    raise UserError(problem, key=("--output",), value=str(output))
