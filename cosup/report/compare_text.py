"""`cosup compare`: what it prints."""

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup.analysis import Run
from cosup.analysis.base import rows_of
from cosup.analysis.comparison import labels
from cosup.report import words
from cosup.report.compare_words import (
    SAMPLES_ALONE,
    config_sentence,
    flipped_sentence,
    pair_sentence,
    pgr_sentence,
)
from cosup.report.domains_text import runs_text

MOST_SETTINGS = 20
MOST_PAIRS = 20


def comparison_text(runs: Sequence[Run], tables: Mapping[str, pd.DataFrame]) -> RenderableType:
    """The runs, the settings that differ, and what the pairs say."""
    pairs = rows_of(tables["pairs"])
    samples = len(runs[0].test)
    lines = [pair_sentence(pair, len(pairs)) for pair in pairs[:MOST_PAIRS]]
    if len(pairs) == 1 and (said := pgr_sentence(pairs[0])):
        lines.append(said)
    if len(pairs) > MOST_PAIRS:
        lines.append(f"{len(pairs) - MOST_PAIRS} more pairs are on the page.")
    lines.append(flipped_sentence(tables["flipped"], samples, len(runs)))
    return Group(
        _runs(tables["runs"], runs[0].summary["measured"], samples),
        *_domains(tables["domains"], labels(runs)),
        *_settings(tables["config"], labels(runs)),
        *(Text(line) for line in lines),
        Text(SAMPLES_ALONE, style="dim"),
    )


def _runs(table: pd.DataFrame, measured: str, samples: int) -> Table:
    title = f"The students' accuracy {measured}, the same {samples:,} samples, in %"
    shown = Table(title=title, title_justify="left")
    shown.add_column("run", overflow="fold")
    for name in ("accuracy", "95 % interval", "floor", "ceiling", "PGR", "95 % interval"):
        shown.add_column(name, justify="right")
    shown.add_column("seconds", justify="right")
    for row in rows_of(table):
        shown.add_row(
            Text(row["run"]),
            words.percent(row["student"]),
            Text(words.interval(row["low"], row["high"])),
            words.percent(row["floor"]),
            words.percent(row["ceiling"]),
            words.percent(row["pgr"]),
            Text(words.interval(row["pgr_low"], row["pgr_high"])),
            f"{row['seconds']:,.1f}",
        )
    return shown


def _domains(table: pd.DataFrame, names: Sequence[str]) -> list[RenderableType]:
    """Nothing of one domain alone."""
    if len(table) < 2:
        return []
    return [runs_text(table, names, "Their accuracy by domain, in %")]


def _settings(table: pd.DataFrame, names: Sequence[str]) -> list[RenderableType]:
    said = Text(config_sentence(table))
    if not len(table):
        return [said]
    more = len(table) - MOST_SETTINGS
    title = "What differs in config and environment"
    shown = Table(title=title + (f" ({more} more on the page)" if more > 0 else ""))
    shown.title_justify = "left"
    for name in ("setting", *names):
        shown.add_column(Text(name), overflow="fold")
    for row in table.head(MOST_SETTINGS).itertuples(index=False):
        shown.add_row(*(Text(str(value)) for value in row))
    return [shown, said]
