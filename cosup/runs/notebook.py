"""What Python shows: tables as text and, in a notebook, as HTML; and progress in a notebook."""

import html
import io
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup.progress import Advance

__all__ = ["as_html", "as_text", "notebook_progress"]

LEAST_WIDTH = 100
"""Columns of a text at least, so that tables are not wrapped where there is no terminal."""
REDRAW_SECONDS = 0.2
"""The least time between two states of a progress bar."""
CELL = "padding: 0.15em 0.8em; text-align: {align}; {line}"
LEFT = 'style="text-align: left"'
RULE = "border-bottom: 1px solid currentColor;"


@contextmanager
def notebook_progress(what: str, total: int | None) -> Iterator[Advance]:
    """Show a progress bar below the cell until this is closed; it needs no widgets.

    Yields a function to call with the number of items (of `total`, if known) that are newly done.
    """
    import IPython.display

    notebook: Any = IPython.display
    shown: Any = None  # work that is done at once has no bar
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal shown, done, last
        done += count
        if time.monotonic() - last >= REDRAW_SECONDS:
            last = time.monotonic()
            shown = shown or notebook.display(display_id=True)
            shown.update(notebook.HTML(_bar(what, done, total)))

    try:
        yield advance
    finally:
        if shown is not None:
            shown.update(notebook.HTML(""))


def _bar(what: str, done: int, total: int | None) -> str:
    if total is None:
        return f"<div>{html.escape(what)} <progress></progress> {done:,}</div>"
    return (
        f'<div>{html.escape(what)} <progress value="{done}" max="{total}"></progress> '
        f"{done:,} of {total:,}</div>"
    )


def as_text(thing: RenderableType) -> str:
    """Return text, tables and groups of them as plain text, as wide as the terminal."""
    made = io.StringIO()
    width = max(LEAST_WIDTH, shutil.get_terminal_size().columns)
    Console(file=made, width=width, highlight=False, force_jupyter=False).print(thing)
    return "\n".join(line.rstrip() for line in made.getvalue().rstrip("\n").splitlines())


def as_html(thing: RenderableType) -> str:
    """Return text, tables and groups of them, made for a terminal, as HTML."""
    if isinstance(thing, Group):
        return "".join(as_html(part) for part in thing.renderables)
    if isinstance(thing, Table):
        return _table(thing)
    if isinstance(thing, str | Text):
        return _paragraphs(_text(thing))
    return _as_it_is(as_text(thing))  # such as padded text


def _paragraphs(text: Text) -> str:
    """Return a paragraph for each line, or the lines as they are where spaces align them."""
    plain, tag = html.escape(text.plain.strip("\n")), "b" if "bold" in str(text.style) else "span"
    if "  " in plain:
        return _as_it_is(text.plain.strip("\n"))
    return "".join(f"<p><{tag}>{line}</{tag}></p>" for line in plain.splitlines() if line)


def _as_it_is(text: str) -> str:
    return f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>'


def _table(table: Table) -> str:
    """Return a table; its sections are set apart by lines."""
    columns = table.columns
    aligns = ["right" if column.justify == "right" else "left" for column in columns]
    rows = zip(*(column.cells for column in columns), strict=True)
    title = f"<caption {LEFT}>{_cell(table.title)}</caption>" if table.title else ""
    names = [column.header for column in columns]
    head = f"<thead>{_row('th', names, aligns, RULE)}</thead>" if table.show_header else ""
    body = [
        _row("td", cells, aligns, RULE if row.end_section else "")
        for row, cells in zip(table.rows, rows, strict=True)
    ]
    return (
        f'<table style="border-collapse: collapse">{title}{head}'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _row(tag: str, cells: Sequence[RenderableType], aligns: Sequence[str], line: str) -> str:
    parts = (
        f'<{tag} style="{CELL.format(align=align, line=line)}">{_cell(cell)}</{tag}>'
        for cell, align in zip(cells, aligns, strict=True)
    )
    return f"<tr>{''.join(parts)}</tr>"


def _cell(cell: RenderableType) -> str:
    text = _text(cell)
    made = html.escape(text.plain)
    bold = "bold" in str(text.style) or any("bold" in str(span.style) for span in text.spans)
    return f"<b>{made}</b>" if bold else made


def _text(thing: RenderableType) -> Text:
    return thing if isinstance(thing, Text) else Text.from_markup(str(thing))
