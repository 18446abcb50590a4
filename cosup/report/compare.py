"""The comparison of runs: one HTML file without external resources, and its tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import RenderableType

from cosup import words
from cosup.analysis import Run, write_tables
from cosup.analysis.arrays import Tables, rows_of
from cosup.analysis.comparison import compare, labels, runs_to_compare
from cosup.errors import UserError
from cosup.files import write_atomic
from cosup.report.compare_draw import draw_answers, draw_curves, draw_names, draw_pairs, draw_runs
from cosup.report.compare_estimates import compare_estimates
from cosup.report.compare_text import (
    SEED_NOTE,
    classes_sentence,
    comparison_text,
    config_sentence,
    flipped_sentence,
    means_sentence,
    pair_sentence,
    pgr_sentence,
)
from cosup.report.page import PageFigure, PageSection
from cosup.report.render import TableView, render, table_view

__all__ = ["compare_runs", "write_comparison"]


COMPARISON_MARK = b"cosup comparison</title>"
"""Marks a page that cosup wrote and may overwrite."""
MOST_SENTENCES = 10


def compare_runs(places: Sequence[str], output: Path) -> tuple[RenderableType, Path]:
    """Compare the runs in these directories; return what to print, and the page that was written.

    Raises `UserError`, before anything is written, for runs that cannot be compared and for an
    output path that belongs to another file.
    """
    _check_output(output)
    runs = runs_to_compare(places)
    if all(run.prepared and not run.measured for run in runs):
        return compare_estimates(runs, output)
    tables = compare(runs)
    return comparison_text(runs, tables), write_comparison(runs, output, tables)


def write_comparison(runs: Sequence[Run], output: Path, tables: Tables | None = None) -> Path:
    """Write the page of a comparison, and its tables into the folder `NAME-tables` beside it.

    tables: the result of `cosup.analysis.comparison.compare`, if it was computed before. Returns
    the path of the page. Raises `UserError` as `compare` does, and for an output path that belongs
    to another file.
    """
    _check_output(output)
    made = compare(runs) if tables is None else tables
    folder = output.with_name(f"{output.stem}-tables")
    page = comparison_html(runs, made, folder.name)
    write_tables(made, folder)
    write_atomic(output, page.encode("utf-8", errors="replace"))
    return output


def comparison_html(runs: Sequence[Run], tables: Tables, folder: str) -> str:
    """Render the page. folder: the path of the tables from the page."""
    names = labels(runs)
    samples = len(runs[0].test)
    title = " and ".join(names) if len(names) < 3 else words.listed(names, 6)
    measured = runs[0].summary["measured"]
    count = words.plural(len(runs), "run")
    subtitle = f"{count}, accuracy {measured} ({samples:,} samples, the same for all runs)."
    page = _Page(tables, names, samples, folder)
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
    tables: Tables
    names: list[str]
    samples: int
    folder: str

    def verdict(self) -> PageSection:
        pairs = rows_of(self.tables["pairs"])
        lines = [pair_sentence(pair, len(pairs)) for pair in pairs[:MOST_SENTENCES]]
        if len(pairs) == 1:
            lines += filter(None, [pgr_sentence(pairs[0])])
        if len(pairs) > MOST_SENTENCES:
            lines.append(f"The data table lists {len(pairs) - MOST_SENTENCES} other pairs.")
        accuracy = PageFigure(
            "figure-runs",
            "Accuracy of each run",
            views=[draw_runs(self.tables["runs"])],
            note="Lines are 95 % intervals of the student's accuracy over the test samples.",
            table=self._table("runs", "Accuracy of each run"),
        )
        forest = PageFigure(
            "figure-pairs",
            "Differences between the runs",
            views=[draw_pairs(self.tables["pairs"])],
            note="Accuracy of the first run minus that of the second, with paired 95 % intervals "
            "(bootstrap over groups of test samples, such as rotations of a scan or an episode). "
            "p: exact McNemar test on single samples, corrected for the number of pairs (Holm). "
            "Dashed line: no difference. Coloured: significant by both interval and test.",
            table=self._table("pairs", "Pairs of runs"),
        )
        return PageSection("verdict", "Verdict", [*lines, SEED_NOTE], [accuracy, forest])

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
        sentence = flipped_sentence(flipped, self.samples, len(self.names))
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
        return table.assign(peak_memory_MiB=memory)
    if name == "pairs":
        ends = ("low", "high")
        called = {end: f"difference_{end}" for end in ends}
        called |= {f"pgr_{end}": f"pgr_difference_{end}" for end in ends}
        return table.rename(columns=called).dropna(axis="columns", how="all")
    return table


def _check_output(output: Path) -> None:
    if output.is_dir():
        problem = "is a directory; give a file such as comparison.html in it"
    elif output.exists() and COMPARISON_MARK not in output.read_bytes()[:20_000]:
        problem = "exists and is not a comparison; choose another name"
    else:
        return
    raise UserError(problem, key=("--output",), value=str(output))
