"""What `cosup report` does: which runs are meant, and where their pages go."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType

from cosup.analysis import Run, load_run, runs_inside
from cosup.errors import UserError
from cosup.remote import is_uri
from cosup.report.page import PAGE, write_report
from cosup.report.terminal import report_text

MADE_BY = b'<meta name="generator" content="cosup'
"""How a page of ours is told from anybody else's file."""


def report_runs(
    places: Sequence[str], text: bool, output: Path | None
) -> Iterator[str | RenderableType]:
    """The pages that were written, a line for each, or (text) what to print of each run.

    A directory that holds several runs (over seeds, or losses) stands for all of them. `UserError`
    for what is no run, before anything is written.
    """
    runs = [run for place in places for run in _runs(place)]
    if output is not None:
        _check_output(output, runs, text)
    for run in runs:
        if text:
            yield report_text(run)
        else:
            yield f"{run.name}: {write_report(run, output)}"


def _runs(place: str) -> list[Run]:
    if is_uri(place):
        raise UserError(f"{place}: a report is made of a directory; copy the run to this machine")
    path = Path(place)
    inside = [] if (path / "samples.parquet").is_file() else runs_inside(path)
    return [load_run(one) for one in inside] or [load_run(path)]


def _check_output(output: Path, runs: Sequence[Run], text: bool) -> None:
    if text:
        raise UserError("--output and --text exclude each other; give one of them")
    if len(runs) != 1:
        raise UserError(f"--output takes the report of one run, and {len(runs)} are given")
    if output.is_dir():
        raise UserError(f"--output {output}: is a directory; give a file, as {output / PAGE.name}")
    if output.exists() and MADE_BY not in output.read_bytes()[:2000]:
        raise UserError(f"--output {output}: exists and is no report; choose another name")
