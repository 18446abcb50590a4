"""The comparison of runs without a test split: what each estimates, and whether labels agree."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup import words
from cosup.analysis import Run, write_tables
from cosup.analysis.arrays import rows_of
from cosup.analysis.comparable import aligned, labels
from cosup.analysis.comparison import config_table
from cosup.analysis.unmeasured import NOTHING_MEASURED, best_source
from cosup.files import write_atomic
from cosup.report.compare_text import config_sentence
from cosup.report.page import PageSection
from cosup.report.render import render, table_view

__all__ = ["compare_estimates"]


def compare_estimates(runs: Sequence[Run], output: Path) -> tuple[RenderableType, Path]:
    """Compare runs that measure nothing; return what to print, and the page that was written.

    Raises `UserError` for fewer than two runs, and for one that is not finished.
    """
    aligned(runs)
    names = labels(runs)
    tables = {
        "runs": _runs(runs, names),
        "pairs": _pairs(runs, names),
        "config": config_table(runs, names),
    }
    folder = output.with_name(f"{output.stem}-tables")
    page = _page(names, tables, folder.name)
    write_tables(tables, folder)
    write_atomic(output, page.encode("utf-8", errors="replace"))
    return _text(tables), output


def _runs(runs: Sequence[Run], names: Sequence[str]) -> pd.DataFrame:
    """Return a row per run: the shares that are right by estimate, as in the run's summary."""
    rows = []
    for name, run in zip(names, runs, strict=True):
        sources, found = run.summary["sources"], run.summary["labels"]
        best = best_source(sources)
        low, high = sources["student"]["reliability_ci95"] or (None, None)
        rows.append(
            {
                "run": name,
                "student": sources["student"]["reliability"],
                "low": low,
                "high": high,
                "labels": found["estimated_right"],
                "best_source": None if best is None else best[0],
                "best_source_right": None if best is None else best[1]["reliability"],
                "seconds": run.summary["seconds"]["total"],
            }
        )
    numeric = ("student", "low", "high", "labels", "best_source_right", "seconds")
    return pd.DataFrame(rows).astype(dict.fromkeys(numeric, "float64"))


def _pairs(runs: Sequence[Run], names: Sequence[str]) -> pd.DataFrame:
    """Return a row per pair of runs: the samples that both label, and the share labelled alike."""
    columns = [run.files.labels.read(["sample_id", "label"]).astype("str") for run in runs]
    rows = []
    for first, second in combinations(range(len(runs)), 2):
        both = columns[second].merge(columns[first], on="sample_id", suffixes=("", "_other"))
        same = float((both["label"] == both["label_other"]).mean()) if len(both) else float("nan")
        rows.append((names[second], names[first], len(both), same))
    return pd.DataFrame(rows, columns=["first", "second", "samples", "same_label"])


def _sentences(pairs: pd.DataFrame) -> list[str]:
    """Say for each pair how often the labels are the same."""
    return [
        f"{row['first']} and {row['second']} label no sample in common."
        if not row["samples"]
        else f"{row['first']} and {row['second']} give the same label to "
        f"{words.percent(row['same_label'])} of {words.plural(int(row['samples']), 'sample')}."
        for row in rows_of(pairs)
    ]


def _text(tables: Mapping[str, pd.DataFrame]) -> RenderableType:
    shown = Table(title="Right by estimate, without labels, in %", title_justify="left")
    shown.add_column("run", overflow="fold")
    for name in ("student", "95 % interval", "labels", "best source"):
        shown.add_column(name, justify="right")
    for row in rows_of(tables["runs"]):
        best = words.NONE
        if not words.missing(row["best_source"]):
            best = f"{row['best_source']} {words.in_percent(row['best_source_right'])}"
        shown.add_row(
            Text(row["run"]),
            words.in_percent(row["student"]),
            Text(words.interval(row["low"], row["high"])),
            words.in_percent(row["labels"]),
            Text(best),
        )
    lines = [NOTHING_MEASURED, *_sentences(tables["pairs"]), config_sentence(tables["config"])]
    return Group(shown, *(Text(line) for line in lines))


def _page(names: Sequence[str], tables: Mapping[str, pd.DataFrame], folder: str) -> str:
    sections = [
        PageSection(
            "verdict",
            "Verdict",
            [NOTHING_MEASURED, *_sentences(tables["pairs"])],
            table=table_view(tables["runs"], "Right by estimate, without labels", f"{folder}/runs"),
        ),
        PageSection(
            "config",
            "Differences between the configs",
            [config_sentence(tables["config"])],
            table=table_view(tables["config"], "Settings that differ", f"{folder}/config")
            if len(tables["config"])
            else None,
        ),
    ]
    title = " and ".join(names) if len(names) < 3 else words.listed(names, 6)
    subtitle = f"{words.plural(len(names), 'run')} without a test split."
    return render("compare.html.j2", title=title, subtitle=subtitle, sections=sections)
