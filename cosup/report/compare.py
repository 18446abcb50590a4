"""The comparison of runs: one HTML file without external resources, and its tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import RenderableType

from cosup import words
from cosup.analysis import write_tables
from cosup.analysis.arrays import Tables, rows_of
from cosup.analysis.comparable import Entry, entries_in
from cosup.analysis.compared import Compared
from cosup.analysis.comparison import tables_of
from cosup.errors import UserError
from cosup.files import write_atomic
from cosup.report.compare_draw import (
    draw_answers,
    draw_curves,
    draw_names,
    draw_pairs,
    draw_runs,
    draw_seeds,
)
from cosup.report.compare_estimates import Estimates
from cosup.report.compare_formats import check_form, sheet_of, write_sheet
from cosup.report.compare_text import (
    chance_note,
    classes_sentence,
    comparison_text,
    config_sentence,
    flipped_sentence,
    means_sentence,
    pair_sentence,
    pgr_sentence,
    samples_text,
)
from cosup.report.page import PageFigure, PageSection
from cosup.report.render import TableView, render, table_view

__all__ = ["compare_runs", "write_comparison"]


PAGE = Path("comparison.html")
COMPARISON_MARK = b"cosup comparison</title>"
"""Marks a page that cosup wrote and may overwrite."""
MOST_SENTENCES = 10


def compare_runs(
    places: Sequence[str],
    output: Path | None = None,
    form: str | None = None,
    overwrite: bool = False,
) -> tuple[RenderableType, Path | None]:
    """Compare the runs in these directories (`entries_in`).

    form: one of `FORMATS`, for one table of the comparison; None is the page. output: the file to
    write; None is `comparison.html` for the page, and no file for a table. overwrite: replace a
    file that exists; an earlier page of a comparison is always replaced.

    Returns what to print, and the file that was written: for a table that is its text, unless it
    is written to a file. Raises `UserError`, before anything is written, for runs that cannot be
    compared, for an unknown format, and for an output path that belongs to another file.
    """
    check_form(form, output, overwrite)
    page = output or PAGE
    if form is None and not overwrite:
        _check_page(page)
    entries = entries_in(places)
    if all(run.prepared and not run.measured for entry in entries for run in entry.runs):
        estimates = Estimates.of(entries)
        if form is not None:
            return write_sheet(estimates.sheet(), form, output)
        return estimates.text(), estimates.write(page)
    found = Compared(entries)
    tables = tables_of(found)
    if form is not None:
        return write_sheet(sheet_of(found, tables), form, output)
    return comparison_text(found, tables), _write(found, tables, page)


def write_comparison(entries: Sequence[Entry], output: Path) -> Path:
    """Write the page of a comparison, and its tables into the folder `NAME-tables` beside it.

    Returns the path of the page. Raises `UserError` as `compare` does, and for an output path that
    belongs to another file.
    """
    _check_page(output)
    found = Compared(entries)
    return _write(found, tables_of(found), output)


def _write(found: Compared, tables: Tables, output: Path) -> Path:
    folder = output.with_name(f"{output.stem}-tables")
    page = comparison_html(found, tables, folder.name)
    write_tables(tables, folder)
    write_atomic(output, page.encode("utf-8", errors="replace"))
    return output


def comparison_html(found: Compared, tables: Tables, folder: str) -> str:
    """Render the page. folder: the path of the tables from the page."""
    names = found.names
    title = " and ".join(names) if len(names) < 3 else words.listed(names, 6)
    measured = found.paired.runs[0][0].summary["measured"]
    subtitle = f"{words.plural(len(names), 'run')}, accuracy {measured} ({samples_text(found)})."
    page = _Page(found, tables, folder)
    sections = [
        page.verdict(),
        page.config(),
        page.answers(),
        page.kinds(),
        page.curves(),
    ]
    return render("compare.html.j2", title=title, subtitle=subtitle, sections=sections)


@dataclass(frozen=True)
class _Page:
    found: Compared
    tables: Tables
    folder: str

    @property
    def names(self) -> list[str]:
        return self.found.names

    def verdict(self) -> PageSection:
        pairs = rows_of(self.tables["pairs"])
        lines = [pair_sentence(pair, self.found, len(pairs)) for pair in pairs[:MOST_SENTENCES]]
        if len(pairs) == 1:
            lines += filter(None, [pgr_sentence(pairs[0])])
        if len(pairs) > MOST_SENTENCES:
            lines.append(f"The data table lists {len(pairs) - MOST_SENTENCES} other pairs.")
        lines.append(chance_note(self.found))
        several = self.found.several
        figures = [self._accuracies(), *([self._by_seed()] if several else []), self._forest()]
        return PageSection("verdict", "Verdict", lines, figures)

    def _accuracies(self) -> PageFigure:
        over = "seeds and test samples" if self.found.several else "the test samples"
        return PageFigure(
            "figure-runs",
            "Accuracy of each run",
            views=[draw_runs(self.tables["runs"])],
            note=f"Lines are 95 % intervals of the student's accuracy over {over}.",
            table=self._table("runs", "Accuracy of each run"),
        )

    def _by_seed(self) -> PageFigure:
        table = self.tables["seeds"]
        return PageFigure(
            "figure-seeds",
            "Accuracy by seed",
            views=[draw_seeds(table, self.names, self.found.samples)],
            table=self._table("seeds", "Accuracy by seed"),
        )

    def _forest(self) -> PageFigure:
        how = (
            "95 % intervals over seeds and test samples, paired. p: of these intervals"
            if self.found.several
            else "paired 95 % intervals (bootstrap over groups of test samples, such as rotations "
            "of a scan or an episode). p: exact McNemar test on single samples"
        )
        return PageFigure(
            "figure-pairs",
            "Differences between the runs",
            views=[draw_pairs(self.tables["pairs"])],
            note=f"Accuracy of the first run named minus that of the second, with {how}, corrected "
            "for the number of pairs (Holm). Dashed line: no difference. Coloured: significant by "
            "both interval and test.",
            table=self._table("pairs", "Pairs of runs"),
        )

    def config(self) -> PageSection:
        table = self.tables["config"]
        view = None
        if len(table):
            view = self._table("config", "Settings and environment that differ", len(table))
        text = [config_sentence(table)]
        return PageSection("config", "Differences between the configs", text, table=view)

    def answers(self) -> PageSection:
        flipped = self.tables["flipped"]
        shares = PageFigure(
            "figure-answers",
            "Correct and wrong answers of each pair",
            views=[draw_answers(self.tables["pairs"])],
        )
        sentence = flipped_sentence(flipped, self.found)
        view = self._table("flipped", "Samples on which some runs are correct and others wrong")
        return PageSection(
            "answers", "Samples with different answers", [sentence], [shares], table=view
        )

    def kinds(self) -> PageSection:
        figures = []
        for table, noun in (("classes", "class"), ("domains", "domain")):
            frame = self.tables[table]
            if noun == "domain" and len(frame) < 2:
                continue
            figures.append(
                PageFigure(
                    f"figure-{table}",
                    f"Accuracy by {noun}",
                    self._names_sentence(frame, noun),
                    [draw_names(frame, self.names, noun)],
                    table=self._table(table, f"Accuracy by {noun}"),
                )
            )
        return PageSection("names", "Classes and domains", [], figures)

    def _names_sentence(self, frame: pd.DataFrame, noun: str) -> str:
        if noun == "class":
            return classes_sentence(frame, self.names, noun)
        sentence = classes_sentence(frame.iloc[:-1], self.names, noun)
        return f"{sentence} {means_sentence(frame, self.names)}"

    def curves(self) -> PageSection:
        view = draw_curves(self.tables["curves"], self.names)
        figure = PageFigure(
            "figure-curves",
            "Curves of the runs",
            views=[view] if view.panels else [],
            table=self._table("curves", "Recorded numbers"),
            note="Means over the seeds that recorded the number." if self.found.several else "",
            absent="" if view.panels else "no number was recorded at more than one step.",
        )
        return PageSection("curves", "Curves", [], [figure])

    def _table(self, name: str, caption: str, most: int = 200) -> TableView:
        verbatim = {f"{run}{more}" for run in self.names for more in ("", " label", " correct")}
        frame = _shown(name, self.tables[name])
        return table_view(frame, caption, f"{self.folder}/{name}", most, verbatim)


def _shown(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the columns for the page, renamed so that their units are shown."""
    if name == "runs":
        memory = table["peak_rss_mb"].round().astype("Int64")
        table = table.drop(columns=["directory", "peak_rss_mb"])
        return table.assign(peak_memory_MiB=memory).dropna(axis="columns", how="all")
    if name == "pairs":
        ends = ("low", "high")
        called = {end: f"difference_{end}" for end in ends}
        called |= {f"pgr_{end}": f"pgr_difference_{end}" for end in ends}
        return table.rename(columns=called).dropna(axis="columns", how="all")
    return table


def _check_page(output: Path) -> None:
    if output.is_dir():
        problem = "is a directory; give a file such as comparison.html in it"
    elif output.exists() and COMPARISON_MARK not in output.read_bytes()[:20_000]:
        problem = "exists and is not a comparison; choose another name"
    else:
        return
    raise UserError(problem, key=("--output",), value=str(output))
