"""Accuracy by domain for the terminal: a row per supervision or run, a column per domain, and the
mean over the domains last."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from cosup.analysis.base import rows_of
from cosup.analysis.student import MEAN
from cosup.report import words
from cosup.report.draw_domains import by_supervision, domains_shown, supervisions

MOST_ROWS, MOST_DOMAINS = 20, 10
NUMBER = 5
"""Letters of a percentage, which a narrow terminal doesn't break."""


def supervisions_text(table: pd.DataFrame, title: str | Text) -> Table:
    """A run's table `supervision_domains`."""
    everybody, cut = supervisions(table, MOST_ROWS)
    found = by_supervision(table)
    rows = [
        (
            who if kind == "student" else f"{kind} {who}",
            {name: row["accuracy"] for name, row in found[kind, who].items()},
        )
        for kind, who in everybody
    ]
    return _wide(table, title, "who", rows, cut)


def runs_text(table: pd.DataFrame, names: Sequence[str], title: str | Text) -> Table:
    """A comparison's table `domains`, a row per run."""
    rows = [
        (name, {str(row["domain"]): row[name] for row in rows_of(table[["domain", name]])})
        for name in names
    ]
    return _wide(table, title, "run", rows)


def _wide(
    table: pd.DataFrame,
    title: str | Text,
    head: str,
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    cut: str = "",
) -> Table:
    domains, cut_domains = domains_shown(table, MOST_DOMAINS)
    said = " ".join(filter(None, (cut, cut_domains)))
    shown = Table(title=title, title_justify="left", caption=said or None, caption_justify="left")
    shown.add_column(head, overflow="fold")
    for name in domains:
        text = Text(words.shorten(name, 20))
        shown.add_column(text, justify="right", overflow="fold", min_width=NUMBER)
    shown.add_column(MEAN, justify="right", overflow="fold", min_width=NUMBER, max_width=9)
    for name, values in rows:
        numbers = [words.percent(values[domain]) for domain in (*domains, MEAN)]
        shown.add_row(Text(words.shorten(name, 40)), *numbers)
    return shown
