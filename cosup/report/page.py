"""The report of a run: one HTML file without external resources, and its tables."""

import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from cosup.analysis import Run, findings, tables, write_tables
from cosup.analysis.drawing import Example, Gallery, View
from cosup.analysis.figure import Figure
from cosup.analysis.figures import CHAPTERS, Chapter
from cosup.analysis.verdict import verdict_parts
from cosup.links import check_inside
from cosup.progress import working_on
from cosup.report.masthead import TextBlock, make_blocks, make_head
from cosup.report.render import TableView, render, table_view

__all__ = ["REPORT_MARK", "TABLE_FOLDER", "PageFigure", "PageSection", "write_report"]

log = logging.getLogger(__name__)

TABLE_FOLDER = "tables"
NO_PICTURES = "The pictures are not shown: the run has no report/thumbnails.parquet."


@dataclass(frozen=True)
class PageFigure:
    """A figure as the template lays it out. absent: why it is not shown, or ""."""

    id: str
    title: str
    finding: str = ""
    views: Sequence[View] = ()
    note: str = ""
    table: TableView | None = None
    absent: str = ""


@dataclass(frozen=True)
class PageSection:
    """A section as the template lays it out. more: text that a click opens. table: a table that is
    always open."""

    id: str
    title: str
    text: Sequence[str] = ()
    figures: Sequence[PageFigure] = ()
    blocks: Sequence[TextBlock] = ()
    table: TableView | None = None
    more: Sequence[str] = ()


@dataclass(frozen=True)
class Contents:
    """Contents of the page of a run."""

    run: Run
    tables: Mapping[str, pd.DataFrame]
    findings: Mapping[str, str] = field(default_factory=dict)


def write_report(
    run: Run, output: Path | None = None, made: Mapping[str, pd.DataFrame] | None = None
) -> Path:
    """Write the page of a run, and its tables into the folder `tables` beside it.

    output: the file of the page; None: `report/index.html` in the run's directory. made: the tables
    of the run, if they are made already. Returns the path of the page. Figures that the run lacks
    are listed on the page with the reason. Raises `RunError`, naming the file, for a record that
    cannot be read, `UserError` for a link that leads out of the run, and `OSError` if the page
    cannot be written.
    """
    path = output or run.files.page
    for file in (path, path.parent / TABLE_FOLDER / path.name):
        check_inside(run.path, file)
    made = tables(run) if made is None else made
    page = page_html(run, made)
    write_tables(made, path.parent / TABLE_FOLDER, run.files.file)
    run.files.file(path).put(page.encode("utf-8"))
    log.info("report of %s: %s", run.name, path)
    return path


def page_html(run: Run, made: Mapping[str, pd.DataFrame]) -> str:
    """Render the page of a run from its tables."""
    contents = Contents(run, made, findings(run, made))
    shown = [chapter for chapter in CHAPTERS if _has_part(chapter, made, run.absent)]
    sections = []
    with working_on("report: chapter", len(shown)) as advance:
        for chapter in shown:
            sections.append(_section(chapter, contents))
            advance(1)
    return render("report.html.j2", head=make_head(run, made), sections=sections)


def _has_part(
    chapter: Chapter, made: Mapping[str, pd.DataFrame], absent: Mapping[str, str]
) -> bool:
    """Return whether there is anything to show: a figure, or the reason why there is none."""
    figures = chapter.figures
    return not figures or any(one.name in made or one.name in absent for one in figures)


def _section(chapter: Chapter, contents: Contents) -> PageSection:
    run = contents.run
    is_verdict = chapter.id == "verdict"
    text, more = verdict_parts(run, contents.tables) if is_verdict else ([], [])
    return PageSection(
        chapter.id,
        chapter.title,
        text,
        [
            _figure(figure, contents)
            for figure in chapter.figures
            if figure.name in contents.tables or figure.name in run.absent
        ],
        make_blocks(run) if chapter.id == "reproduce" else [],
        more=more,
    )


def _figure(figure: Figure, contents: Contents) -> PageFigure:
    name, run = f"figure-{figure.name.replace('_', '-')}", contents.run
    if figure.name not in contents.tables or not len(contents.tables[figure.name]):
        reason = run.absent.get(figure.name, "the run has no data for it").rstrip(".")
        return PageFigure(name, figure.title, absent=f"{reason}.")
    table = contents.tables[figure.name]
    views = [_with_pictures(view, run.thumbnails) for view in figure.draw(table)]
    pictured = any(isinstance(view, Gallery) for view in views)
    return PageFigure(
        name,
        figure.title,
        contents.findings.get(figure.name, ""),
        views,
        " ".join(filter(None, (NO_PICTURES * (pictured and not run.thumbnails), figure.about))),
        table_view(table, figure.title, f"{TABLE_FOLDER}/{figure.name}"),
    )


def _with_pictures(view: View, thumbnails: Mapping[str, bytes]) -> View:
    """Add the pictures of a gallery's samples."""
    if not isinstance(view, Gallery):
        return view
    return replace(view, examples=[_with_picture(example, thumbnails) for example in view.examples])


def _with_picture(example: Example, thumbnails: Mapping[str, bytes]) -> Example:
    png = thumbnails.get(example.sample)
    if not png:
        return example
    return replace(
        example, picture=f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    )


REPORT_MARK = b'<meta name="generator" content="cosup'
"""Marks a page that cosup wrote and may overwrite."""
