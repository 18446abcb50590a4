"""The report of a run on the terminal (`cosup report RUN --text`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import (
    Console,
    ConsoleOptions,
    Group,
    JustifyMethod,
    RenderableType,
    RenderResult,
)
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cosup import words
from cosup.analysis import Run, findings, tables
from cosup.analysis.arrays import highest_and_lowest, rows_of
from cosup.analysis.figure import Figure
from cosup.analysis.figures import FIGURES
from cosup.analysis.next_steps import Step, next_steps
from cosup.analysis.outcome import outcome
from cosup.analysis.supervision_domains import MEAN, by_supervision, largest_domains, supervisions
from cosup.analysis.verdict import verdict_parts
from cosup.report.masthead import subtitle, warnings
from cosup.report.render import Column, TableView, table_view

__all__ = ["report_text", "runs_by_domain", "steps_text"]

MOST_ROWS, MOST_DOMAINS = 20, 10
NUMBER = 5
"""Characters of a percentage, which are kept on one line in narrow terminals."""
NAME = 12
"""Characters of a name or text that are kept on one line; longer ones are folded."""
GAP = 2
"""Spaces between two columns."""
LOW, HIGH = "low, %", "high, %"


def report_text(run: Run) -> RenderableType:
    """Return the verdict, the main tables with their findings, and what is not available.

    Raises `RunError`, naming the file, for a record that cannot be read.
    """
    made = tables(run)
    found = findings(run, made)
    parts: list[RenderableType] = [Text(run.title, style="bold"), Text(subtitle(run))]
    parts += [Text(line, style="yellow") for line in warnings(run)]
    told = outcome(run, made)
    if told is not None:
        parts += [Text(""), Text(f"{told.headline}.", style="bold"), Text(told.detail)]
    sentences, _ = verdict_parts(run, made)  # the first table compares
    parts += [Text(""), *(Text(sentence) for sentence in sentences)]
    parts += steps_text(next_steps(run, made), run.place)
    for name, figure in FIGURES.items():
        if figure.excerpt is not None and name in made and len(made[name]):
            parts += ["", _excerpt(figure, made[name])]
            if name in found:
                parts.append(Text(found[name], style="dim"))
    return Group(*parts, *_absent(run.absent))


def steps_text(
    steps: Sequence[Step], directory: object, whose: str = ""
) -> Iterator[RenderableType]:
    """Yield what to do next for the run in a directory. whose: added to the heading."""
    if steps:
        yield Text(f"\nWhat to do next{whose}:", style="bold")
    for number, step in enumerate(steps, start=1):
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(f"  {number}."), Text(step.text))
        yield grid
        if step.command:
            yield Padding(Text(step.command_for(directory)), (0, 0, 0, 5))


def _excerpt(figure: Figure, frame: pd.DataFrame) -> RenderableType:
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
    shown = [name for name in excerpt.columns if name in frame and _tells(name, frame[name])]
    return _Fitted(_with_intervals(table_view(frame[shown], title)))


@dataclass(frozen=True)
class _Fitted:
    """A table that leaves out its last columns where the console is too narrow for all."""

    view: TableView

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, room = self.view, options.max_width
        texts = [[row[place] for row in view.rows] for place in range(len(view.columns))]
        least = [_least_width(*both) for both in zip(view.columns, texts, strict=True)]
        ends = list(accumulate(least, lambda whole, one: whole + GAP + one))
        count = max(1, sum(end <= room for end in ends))
        room -= ends[count - 1]
        title = view.caption
        if count < len(least):
            more = words.plural(len(least) - count, "more column")
            title += f" ({more} where there is room)"
        table = Table(
            title=Text(title, style="bold"),
            title_justify="left",
            box=SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, GAP - 1, 0, 0),
        )
        for column, width, cells in zip(view.columns[:count], least, texts, strict=False):
            longer = 0 if column.numeric else max(map(cell_len, cells), default=0) - width
            longer = max(0, min(longer, room))
            room -= longer
            justify: JustifyMethod = "right" if column.numeric else "left"
            table.add_column(
                Text(column.label), justify=justify, overflow="fold", width=width + longer
            )
        for row in view.rows:
            table.add_row(*(Text(text) for text in row[:count]))
        yield table


def _least_width(column: Column, texts: Sequence[str]) -> int:
    """Return the width in which a column is readable: numbers and words of its heading whole,
    longer names folded."""
    longest = max((cell_len(text) for text in texts), default=0)
    heading = max((cell_len(word) for word in column.label.split()), default=0)
    return max(heading, longest if column.numeric else min(longest, NAME))


def _tells(name: str, column: "pd.Series[Any]") -> bool:
    """Return whether a column has anything to tell: not all missing, nor a coverage of 1."""
    return bool(column.notna().any()) and not (name == "coverage" and bool((column == 1).all()))


def _with_intervals(view: TableView) -> TableView:
    """Join the columns `low` and `high` to one, which is narrower."""
    labels = [column.label for column in view.columns]
    if LOW not in labels or HIGH not in labels:
        return view
    low, high = labels.index(LOW), labels.index(HIGH)

    def joined(cells: Sequence[Any], both: Any) -> list[Any]:
        return [both if place == low else cell for place, cell in enumerate(cells) if place != high]

    rows = [joined(row, _bounds(row[low], row[high])) for row in view.rows]
    return replace(view, columns=joined(view.columns, Column("95 % CI", True)), rows=rows)


def _bounds(low: str, high: str) -> str:
    return words.NONE if words.NONE in (low, high) else f"[{low}, {high}]"


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
    shown = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    shown.add_column(heading, overflow="fold")
    for name in domains:
        text = Text(words.shorten(name, 20))
        shown.add_column(text, justify="right", overflow="fold", min_width=NUMBER)
    shown.add_column(MEAN, justify="right", overflow="fold", min_width=NUMBER, max_width=9)
    for name, values in rows:
        numbers = [words.in_percent(values[domain]) for domain in (*domains, MEAN)]
        shown.add_row(Text(words.shorten(name, 40)), *numbers)
    return shown
