"""A notebook shows log lines, progress without widgets, and tables as HTML."""

from typing import Any

import pytest
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cosup.runs.notebook import as_html

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

OPEN = """
import logging, time
from cosup.progress import working_on
from cosup.runs.bars import progress_shown
from cosup.runs.logs import log_to_console
with log_to_console():
    logging.getLogger("cosup.x").info("begun")
shown = progress_shown()
shown.__enter__()
bar = working_on("annotating", 3)
advance = bar.__enter__()
time.sleep(0.3)
advance(2)
"""
CLOSED = OPEN + "_ = bar.__exit__(None, None, None)"


def outputs_of(code: str) -> list[dict[str, Any]]:
    """Execute a cell; return its outputs."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=120, allow_errors=True).execute()
    return [dict(output) for output in notebook.cells[0].outputs]


def test_a_bar_is_shown_while_the_work_goes_on_and_then_removed() -> None:
    logged, bar = outputs_of(OPEN)
    assert logged["name"] == "stdout", "stderr looks like an error"
    assert "begun" in str(logged["text"])
    assert "annotating" in bar["data"]["text/html"]
    assert "2 of 3" in bar["data"]["text/html"]
    _, bar = outputs_of(CLOSED)
    assert bar["data"]["text/html"] == ""


def test_tables_and_text_are_html() -> None:
    table = Table(title="<b>", box=None)
    table.add_column("name")
    table.add_column("value", justify="right")
    table.add_row("[bold]one[/bold]", Text("[1]"), end_section=True)
    padded = Padding("cosup <x>", (0, 0, 0, 5))
    html = as_html(
        Group(table, padded, Text("a line & another"), Text("key    value\nother  value"))
    )
    assert "&lt;b&gt;" in html
    assert "<b>one</b>" in html
    assert ">[1]<" in html
    assert html.count("<tr>") == 2
    assert "     cosup &lt;x&gt;</pre>" in html
    assert "a line &amp; another" in html
    assert "key    value\nother  value</pre>" in html
