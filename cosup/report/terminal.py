"""The report of a run on the terminal (`cosup report RUN --text`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup import words
from cosup.analysis import Run, findings, tables, verdict
from cosup.analysis.arrays import highest_and_lowest, rows_of
from cosup.analysis.domains import MEAN, by_supervision, largest_domains, supervisions
from cosup.analysis.figure import Figure
from cosup.analysis.figures import FIGURES
from cosup.report.masthead import subtitle, warnings
from cosup.report.render import table_view

__all__ = ["report_text", "runs_by_domain"]

MOST_ROWS, MOST_DOMAINS = 20, 10
NUMBER = 5
"""Characters of a percentage, which are kept on one line in narrow terminals."""


def report_text(run: Run) -> RenderableType:
    """Return the verdict, the main tables with their findings, and what is not available.

    Raises `RunError`, naming the file, for a record that cannot be read.
    """
    made = tables(run)
    found = findings(run, made)
    parts: list[RenderableType] = [Text(run.title, style="bold"), Text(subtitle(run))]
    parts += [Text(line, style="yellow") for line in warnings(run)]
    sentences = verdict(run, made)[bool(run.missing) :]  # the first repeats the warning
    parts += [Text(""), *(Text(sentence) for sentence in sentences)]
    for name, figure in FIGURES.items():
        if figure.excerpt is not None and name in made and len(made[name]):
            parts += ["", _excerpt(figure, made[name])]
            if name in found:
                parts.append(Text(found[name], style="dim"))
    return Group(*parts, *_absent(run.absent))


def _excerpt(figure: Figure, frame: pd.DataFrame) -> Table:
    """Return the main columns and at most twenty rows of a table."""
    excerpt, total, title = figure.excerpt, len(frame), figure.title
    assert excerpt is not None
    if excerpt.pivot:
        return _supervisions_by_domain(frame, Text(title, style="bold"))
    if excerpt.ends and total > MOST_ROWS:
        frame, _ = highest_and_lowest(frame, excerpt.ends, MOST_ROWS, "row")
        title += f" (the {MOST_ROWS // 2} highest and lowest of {total:,})"
    elif total > MOST_ROWS:
        frame = frame.tail(MOST_ROWS)
        title += f" (the last {MOST_ROWS} of {total:,})"
    shown = [name for name in excerpt.columns if name in frame and frame[name].notna().any()]
    view = table_view(frame[shown], title)
    table = Table(title=Text(title, style="bold"), title_justify="left")
    for column in view.columns:
        table.add_column(Text(column.label), justify="right" if column.numeric else "left")
    for row in view.rows:
        table.add_row(*(Text(words.shorten(text, 40)) for text in row))
    return table


def _absent(absent: Mapping[str, str]) -> list[RenderableType]:
    if not absent:
        return []
    lines = [Text(f"  {name.replace('_', ' ')}: {reason}") for name, reason in absent.items()]
    return ["", Text("Not available:", style="bold"), *lines]


def _supervisions_by_domain(table: pd.DataFrame, title: Text) -> Table:
    """Return the table `supervision_domains` with a column for each domain."""
    entries, left_out = supervisions(table, MOST_ROWS)
    found = by_supervision(table)
    rows = [
        (
            who if kind == "student" else f"{kind} {who}",
            {name: row["accuracy"] for name, row in found[kind, who].items()},
        )
        for kind, who in entries
    ]
    return _by_domain(table, title, "who", rows, left_out)


def runs_by_domain(table: pd.DataFrame, names: Sequence[str], title: str) -> Table:
    """Return the table `domains` of a comparison with a row for each run."""
    rows = [
        (name, {str(row["domain"]): row[name] for row in rows_of(table[["domain", name]])})
        for name in names
    ]
    return _by_domain(table, title, "run", rows)


def _by_domain(
    table: pd.DataFrame,
    title: str | Text,
    heading: str,
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    left_out: str = "",
) -> Table:
    """Return a table with a column for each domain and their mean last."""
    domains, few_domains = largest_domains(table, MOST_DOMAINS)
    caption = " ".join(filter(None, (left_out, few_domains))) or None
    shown = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    shown.add_column(heading, overflow="fold")
    for name in domains:
        text = Text(words.shorten(name, 20))
        shown.add_column(text, justify="right", overflow="fold", min_width=NUMBER)
    shown.add_column(MEAN, justify="right", overflow="fold", min_width=NUMBER, max_width=9)
    for name, values in rows:
        numbers = [words.in_percent(values[domain]) for domain in (*domains, MEAN)]
        shown.add_row(Text(words.shorten(name, 40)), *numbers)
    return shown
