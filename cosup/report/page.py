"""A run's report: one HTML file that needs nothing else, and the tables behind it.

What `cosup report` does: which runs are meant, and where their pages go.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich.console import RenderableType

from cosup.analysis import Run, findings, load_run, runs_inside, tables, verdict, write_tables
from cosup.errors import UserError
from cosup.files import write_atomic
from cosup.remote import is_uri
from cosup.report.contents import CHAPTERS, Chapter, Plan
from cosup.report.draw_examples import draw_examples
from cosup.report.masthead import Block, Head, blocks_of, head_of
from cosup.report.render import render
from cosup.report.table_view import TableView, table_view
from cosup.report.terminal import report_text
from cosup.report.views import View

log = logging.getLogger(__name__)

PAGE = Path("report", "index.html")
TABLES = "tables"
NO_PICTURES = "Without pictures: the run kept none (report/thumbnails.parquet)."


@dataclass(frozen=True)
class Figure:
    """A figure as the template frames it; absent: why there is none."""

    id: str
    title: str
    finding: str = ""
    views: list[View] = field(default_factory=list)
    note: str = ""
    table: TableView | None = None
    absent: str = ""


@dataclass(frozen=True)
class Section:
    """A section as the template lays it out."""

    id: str
    title: str
    text: list[str]
    figures: list[Figure]
    blocks: list[Block]


def write_report(run: Run, output: Path | None = None) -> Path:
    """Write a run's page, and its tables into the folder `tables` beside it; the page's path.

    output: the page's file; None: `report/index.html` in the run's directory. What a run hasn't
    got is said on the page. Raises `RunError` for a record that can't be read (it names the file)
    and `OSError` where the page can't be written.
    """
    path = output or run.path / PAGE
    made = tables(run)
    page = page_html(run, made)
    write_tables(made, path.parent / TABLES)
    write_atomic(path, page.encode("utf-8"))
    log.info("report of %s: %s", run.name, path)
    return path


def page_html(run: Run, made: Mapping[str, pd.DataFrame]) -> str:
    """The page of a run and its tables."""
    found = dict(made)
    said = findings(run, found)
    lines = verdict(run, found)
    sections = [_section(chapter, run, found, said, lines) for chapter in CHAPTERS]
    head: Head = head_of(run, found)
    return render("report.html.j2", head=head, sections=sections)


def _section(
    chapter: Chapter,
    run: Run,
    found: dict[str, pd.DataFrame],
    said: Mapping[str, str],
    lines: list[str],
) -> Section:
    figures = [_figure(plan, run, found, said) for plan in chapter.plans]
    text = list(lines) if chapter.id == "verdict" else []
    if run.missing:
        text = text[1:]  # what is missing stands above all
    blocks = blocks_of(run) if chapter.id == "reproduce" else []
    return Section(chapter.id, chapter.title, text, figures, blocks)


def _figure(
    plan: Plan, run: Run, found: dict[str, pd.DataFrame], said: Mapping[str, str]
) -> Figure:
    name = f"figure-{plan.table.replace('_', '-')}"
    if plan.table not in found or not len(found[plan.table]):
        reason = run.absent.get(plan.table, "there is nothing of it in this run.")
        return Figure(name, plan.title, absent=_sentence(reason))
    if plan.draw is None:
        views = draw_examples(found, run.thumbnails)
        note = "" if run.thumbnails else NO_PICTURES
    else:
        views, note = plan.draw(found), plan.note
    table = table_view(found[plan.table], plan.title, f"{TABLES}/{plan.table}")
    return Figure(name, plan.title, said.get(plan.table, ""), views, note, table)


def _sentence(reason: str) -> str:
    return reason if reason.endswith(".") else f"{reason}."


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
