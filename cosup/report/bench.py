"""A bench as a table on the terminal, as files, and as a page without external resources."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup import words
from cosup.analysis.arrays import Tables, rows_of
from cosup.analysis.bench import COMPARED
from cosup.files import write_atomic, write_csv, write_json
from cosup.report.bench_draw import (
    draw_accuracies,
    draw_differences,
    draw_ranks,
    draw_recovered,
    rank_text,
    with_half,
)
from cosup.report.page import PageFigure, PageSection
from cosup.report.render import TableView, render, table_view

__all__ = ["BenchReport"]

PAGE, CSV, DOCUMENT = "bench.html", "bench.csv", "bench.json"
CONTROLS = {
    "floor": "floor: best teacher",
    "team": "team, no student",
    "generalist": "generalist's student",
    "labels": "labels",
    "ceiling": "ceiling",
}
"""The rows below the methods: measured in the runs of the baseline, with its loss."""
SPREAD = (
    "Intervals of 95 % cover the choice of seeds (Student's t) and of test samples; with test "
    "samples drawn for each seed, both are in the spread over seeds."
)


@dataclass(frozen=True)
class BenchReport:
    """What a bench has found.

    tables: of `cosup.analysis.bench`. expected: how many seeds each method has on each data set
    when the bench is finished.
    """

    name: str
    tables: Tables
    data: Sequence[str]
    methods: Sequence[str]
    baseline: str
    expected: int

    @property
    def has_results(self) -> bool:
        """Whether any run is finished."""
        return len(self.tables["results"]) > 0

    def text(self) -> RenderableType:
        """Return the table: a row per method, and for each data set the accuracy of the student and
        of student and team."""
        results = self.tables["results"]
        title = f"{self.name}: test accuracy in %, mean over seeds ± half of its 95 % interval"
        shown = Table(title=title, title_justify="left")
        shown.add_column("method", overflow="fold")
        for name in (*self._there(), "mean rank"):
            shown.add_column(Text(name), justify="right", overflow="fold")
            shown.add_column("with team", justify="right", overflow="fold")
        ranks = self.tables["ranks"].set_index("method")
        for method in self.methods:
            own = results[results["method"] == method]
            if len(own):
                cells = [with_half(_row(own, data), who) for data, who in self._columns()]
                means = [ranks.loc[method, f"{who}_rank"] for who in COMPARED]
                shown.add_row(Text(method), *cells, *(rank_text(value) for value in means))
        shown.add_section()
        own = results[results["method"] == self.baseline]
        for who, called in CONTROLS.items():
            cells = []
            for data in self._there():
                cells += [words.in_percent(_row(own, data).get(who)), ""]
            shown.add_row(Text(called), *cells, "", "")
        last = f"The last rows are controls of the runs of {self.baseline}, with its loss."
        return Group(shown, *(Text(line, style="dim") for line in (last, *self.notes())))

    def notes(self) -> list[str]:
        """State what the numbers are, and what is missing."""
        lines = [SPREAD]
        if (self.tables["results"]["seeds"] == 1).any():
            lines.append("Those of a single seed cover the choice of test samples alone.")
        absent = len(self.data) * len(self.methods) - len(self.tables["results"])
        if absent:
            many = words.plural(absent, "combination")
            lines.append(f"Without a finished run: {many} of method and data set.")
        lacking = [
            f"{row['data']}/{row['method']} has {row['seeds']}"
            for row in rows_of(self.tables["results"])
            if row["seeds"] < self.expected
        ]
        if lacking:
            told = f"Not all {self.expected} seeds are finished, and means are over those that are"
            lines.append(f"{told}: {words.listed(lacking, 40)}.")
        return lines

    def write(self, folder: Path) -> Path:
        """Write `bench.csv`, `bench.json` and the page into a folder; return the page's path."""
        write_csv(folder / CSV, self.tables["results"])
        write_json(folder / DOCUMENT, self.document())
        page = folder / PAGE
        write_atomic(page, self.html().encode("utf-8", errors="replace"))
        return page

    def document(self) -> dict[str, Any]:
        """Return all tables as plain values; shares are fractions."""
        head = {"name": self.name, "baseline": self.baseline, "seeds": self.expected}
        return {**head, **{name: rows_of(table) for name, table in self.tables.items()}}

    def html(self) -> str:
        """Render the page."""
        parts = ((self.methods, "method"), (self.data, "data set"))
        counts = ", ".join(words.plural(len(names), noun) for names, noun in parts)
        subtitle = f"{counts}, {words.plural(self.expected, 'seed')}."
        sections = [self._ranked(), *map(self._of_data, self._there()), self._all_runs()]
        return render("bench.html.j2", title=self.name, subtitle=subtitle, sections=sections)

    def _ranked(self) -> PageSection:
        ranks = self.tables["ranks"]
        known = ranks.dropna().sort_values("with_team_rank", kind="stable")
        view = [draw_ranks(known)] if len(known) else []
        figure = PageFigure(
            "figure-ranks",
            "Mean rank over the data sets",
            views=view,
            note="1 is the best method on every data set; equal methods share a rank.",
            table=self._table(ranks, "Mean ranks"),
            absent="" if view else "no method is finished on every data set.",
        )
        return PageSection("verdict", "Methods", self.notes(), [figure])

    def _of_data(self, data: str) -> PageSection:
        results = self._part("results", data)
        differences = self._part("differences", data)
        accuracies = PageFigure(
            f"figure-{data}-accuracy",
            "Accuracy of each method",
            views=[draw_accuracies(results)],
            note=f"Lines are the intervals of student and team. {SPREAD}",
            table=self._table(results.drop(columns="data"), f"Results on {data}"),
        )
        recovered = PageFigure(
            f"figure-{data}-pgr",
            "Performance gap recovered (PGR)",
            views=[draw_recovered(results)],
            note="0 is the floor: the best single teacher, or the team; 100 is the ceiling. Means "
            "over seeds; a seed whose gap is within noise has none. The table above has intervals "
            "over seeds.",
        )
        figures = [accuracies, recovered]
        for heading, chosen in self._comparisons(differences):
            if len(chosen):
                number = len(figures) - 1
                figures.append(
                    PageFigure(
                        f"figure-{data}-differences-{number}",
                        heading,
                        views=[draw_differences(chosen)],
                        note="Paired by seed and test sample, with 95 % intervals; p is corrected "
                        "for the number of methods (Holm). Coloured: the interval excludes 0.",
                        table=self._table(chosen.drop(columns="data"), heading),
                    )
                )
        return PageSection(f"data-{data}", data, [], figures)

    def _comparisons(self, table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        other = table["against"] == self.baseline
        return [
            (f"Difference to {self.baseline}", table[other]),
            ("Difference to the controls of the same runs", table[~other]),
        ]

    def _all_runs(self) -> PageSection:
        table = self._table(self.tables["runs"].drop(columns="directory"), "Every run")
        return PageSection("runs", "Runs", [], table=table)

    def _table(self, frame: pd.DataFrame, caption: str) -> TableView:
        shown = frame.dropna(axis="columns", how="all").replace("", None)
        return table_view(shown.dropna(axis="columns", how="all"), caption, most=1000)

    def _part(self, name: str, data: str) -> pd.DataFrame:
        table = self.tables[name]
        return table[table["data"] == data]

    def _there(self) -> list[str]:
        found = set(self.tables["results"]["data"])
        return [data for data in self.data if data in found]

    def _columns(self) -> list[tuple[str, str]]:
        return [(data, who) for data in self._there() for who in COMPARED]


def _row(results: pd.DataFrame, data: str) -> dict[str, Any]:
    found = rows_of(results[results["data"] == data])
    return found[0] if found else {}
