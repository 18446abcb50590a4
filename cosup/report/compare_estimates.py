"""The comparison of runs without a test split: what each estimates, and whether labels agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup import words
from cosup.analysis import Run, write_tables
from cosup.analysis.arrays import Tables, rows_of
from cosup.analysis.comparable import Entry, Paired, labels, order_of, pair_seeds
from cosup.analysis.compared_settings import config_table
from cosup.analysis.unmeasured import NOTHING_MEASURED, best_source
from cosup.files import write_atomic
from cosup.metrics import spread
from cosup.report.compare_formats import Sheet, settings_of
from cosup.report.compare_text import config_sentence, left_out_sentence, with_deviation
from cosup.report.page import PageSection
from cosup.report.render import render, table_view

__all__ = ["Estimates"]


@dataclass(frozen=True)
class Estimates:
    """The comparison of runs that measure nothing. tables: runs, pairs and config."""

    names: list[str]
    paired: Paired
    tables: Tables

    @staticmethod
    def of(entries: Sequence[Entry]) -> "Estimates":
        """Compare entries.

        Raises `UserError` for fewer than two, for one that is not finished, and for entries
        without a seed in common.
        """
        paired = pair_seeds(entries)
        names = labels(entries)
        for row in paired.runs:
            for name, run in zip(names, row, strict=True):
                order_of(row[0], run, (names[0], name))
        tables = {
            "runs": _runs(paired, names),
            "pairs": _pairs(paired, names),
            "config": config_table(paired, names),
        }
        return Estimates(names, paired, tables)

    def sheet(self) -> Sheet:
        """Return the table of the comparison."""
        rows = _written(self.tables["runs"])
        numbers = self.tables["runs"].copy()
        shares = numbers.select_dtypes("float64").columns.drop("seconds")
        numbers[shares] = (100 * numbers[shares]).round(1)
        document = {
            "seeds": self.paired.seeds,
            "left_out": dict(self.paired.left_out),
            "runs": rows_of(self.tables["runs"]),
            "pairs": rows_of(self.tables["pairs"]),
            "settings": settings_of(self.paired, self.names),
            "note": self._note(),
        }
        note = f"Right by estimate, without labels, in %. {self._note()}"
        return Sheet(["run", *HEADINGS], rows, note, numbers, document)

    def text(self) -> RenderableType:
        """Return what to print."""
        shown = Table(title="Right by estimate, without labels, in %", title_justify="left")
        shown.add_column("run", overflow="fold")
        for name in HEADINGS:
            shown.add_column(name, justify="right")
        for row in _written(self.tables["runs"]):
            shown.add_row(*map(Text, row))
        lines = [*self._lines(), config_sentence(self.tables["config"])]
        return Group(shown, *map(Text, lines))

    def write(self, output: Path) -> Path:
        """Write the page, and its tables into the folder `NAME-tables` beside it."""
        folder = output.with_name(f"{output.stem}-tables")
        page = self._page(folder.name)
        write_tables(self.tables, folder)
        write_atomic(output, page.encode("utf-8", errors="replace"))
        return output

    def _note(self) -> str:
        lines = [NOTHING_MEASURED, left_out_sentence(self.paired)]
        if len(self.paired.runs) > 1:
            seeds = words.listed(self.paired.seeds or (), 20)
            lines.append(
                f"Means over the seeds {seeds}; ± is the sample deviation over them, the intervals "
                "are Student's t."
            )
        return " ".join(filter(None, lines))

    def _lines(self) -> list[str]:
        return [*_sentences(self.tables["pairs"]), self._note()]

    def _page(self, folder: str) -> str:
        runs, config = self.tables["runs"], self.tables["config"]
        shown = runs.dropna(axis="columns", how="all")
        sections = [
            PageSection(
                "verdict",
                "Verdict",
                self._lines(),
                table=table_view(shown, "Right by estimate, without labels", f"{folder}/runs"),
            ),
            PageSection(
                "config",
                "Differences between the configs",
                [config_sentence(config)],
                table=table_view(config, "Settings that differ", f"{folder}/config")
                if len(config)
                else None,
            ),
        ]
        names = self.names
        title = " and ".join(names) if len(names) < 3 else words.listed(names, 6)
        subtitle = f"{words.plural(len(names), 'run')} without a test split."
        return render("compare.html.j2", title=title, subtitle=subtitle, sections=sections)


HEADINGS = ("student", "95 % CI", "labels", "best source")


def _runs(paired: Paired, names: Sequence[str]) -> pd.DataFrame:
    """Return a row per entry: the shares that are right by estimate, means over its seeds.

    deviation: over seeds. low, high: of one seed as in its summary, of several Student's t.
    best_source: the sources that are the best for one of the seeds.
    """
    rows = []
    for place, name in enumerate(names):
        runs = [row[place] for row in paired.runs]
        student = [run.summary["sources"]["student"] for run in runs]
        over = spread([one["reliability"] for one in student])
        low, high = over["ci95"] or student[0]["reliability_ci95"] or (np.nan, np.nan)
        best = [best_source(run.summary["sources"]) for run in runs]
        known = [one for one in best if one is not None]
        rows.append(
            {
                "run": name,
                "seeds": len(runs),
                "student": over["mean"],
                "deviation": over["deviation"],
                "low": np.maximum(low, 0),  # Student's t knows no bounds
                "high": np.minimum(high, 1),
                "labels": np.mean([run.summary["labels"]["estimated_right"] for run in runs]),
                "best_source": words.listed(dict.fromkeys(one[0] for one in known)) or None,
                "best_source_right": spread([one[1]["reliability"] for one in known])["mean"],
                "seconds": np.mean([run.summary["seconds"]["total"] for run in runs]),
            }
        )
    numeric = ("student", "deviation", "low", "high", "labels", "best_source_right", "seconds")
    return pd.DataFrame(rows).astype(dict.fromkeys(numeric, "float64"))


def _pairs(paired: Paired, names: Sequence[str]) -> pd.DataFrame:
    """Return a row per pair of entries: the samples that both label, and the share labelled alike,
    over all seeds."""
    columns = [[_labels(run) for run in row] for row in paired.runs]
    rows = []
    for baseline, run in combinations(range(len(names)), 2):
        both = pd.concat(
            [
                row[run].merge(row[baseline], on="sample_id", suffixes=("", "_other"))
                for row in columns
            ]
        )
        same = float((both["label"] == both["label_other"]).mean()) if len(both) else float("nan")
        rows.append((names[run], names[baseline], len(both), same))
    return pd.DataFrame(rows, columns=["run", "baseline", "samples", "same_label"])


def _labels(run: Run) -> pd.DataFrame:
    return run.files.labels.read(["sample_id", "label"]).astype("str")


def _sentences(pairs: pd.DataFrame) -> list[str]:
    """Say for each pair how often the labels are the same."""
    return [
        f"{row['run']} and {row['baseline']} label no sample in common."
        if not row["samples"]
        else f"{row['run']} and {row['baseline']} give the same label to "
        f"{words.percent(row['same_label'])} of {words.plural(int(row['samples']), 'sample')}."
        for row in rows_of(pairs)
    ]


def _written(runs: pd.DataFrame) -> list[list[str]]:
    """Return the cells of the table: the name of each run, and what `HEADINGS` names."""
    return [[row["run"], *_cells(row)] for row in rows_of(runs)]


def _cells(row: dict[str, Any]) -> list[str]:
    best = words.NONE
    if not words.missing(row["best_source"]):
        best = f"{row['best_source']} {words.in_percent(row['best_source_right'])}"
    return [
        with_deviation(row["student"], row["deviation"]),
        words.interval(row["low"], row["high"]),
        words.in_percent(row["labels"]),
        best,
    ]
