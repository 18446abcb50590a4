"""`cosup report RUN --text`: the core tables for a remote shell."""

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup.analysis import Run, findings, tables, verdict
from cosup.report import words
from cosup.report.contents import CAPTIONS
from cosup.report.domains_text import supervisions_text
from cosup.report.masthead import subtitle, warnings
from cosup.report.pick import ends
from cosup.report.table_view import table_view

MOST_ROWS = 20

_COLUMNS: dict[str, Sequence[str]] = {
    "overview": ("who", "kind", "accuracy", "low", "high", "pgr", "gain", "p_value"),
    "teachers": ("teacher", "level", "scope", "accuracy_inside", "accuracy_outside", "accuracy"),
    "rounds": (
        "round",
        "teachers",
        "assignment_accuracy",
        "annotation_accuracy",
        "kept",
        "kept_precision",
        "kept_recall",
        "changed",
        "student_accuracy",
    ),
    "load": ("round", "teacher", "samples", "share", "annotation_accuracy", "kept_accuracy"),
    "filters": ("round", "filter", "rejected", "share", "precision", "recall", "noise_caught"),
    "domains": ("name", "samples", "floor", "student", "ceiling", "gained"),
    "supervision_domains": ("who", "kind", "domain", "accuracy"),
    "classes": ("name", "samples", "floor", "student", "ceiling", "gained"),
    "student_teachers": (
        "teacher",
        "where",
        "samples",
        "agreement",
        "both_right",
        "student_only",
        "teacher_only",
        "same_error",
    ),
    "cost": ("stage", "part", "seconds", "images_per_second"),
}
_ENDS = {"overview": "accuracy", "teachers": "accuracy", "load": "samples", "classes": "student"}


def report_text(run: Run) -> RenderableType:
    """The verdict, the core tables with what to read from each, and what isn't there.

    Raises `RunError` for a record that can't be read; it names the file.
    """
    made = tables(run)
    said = findings(run, made)
    parts: list[RenderableType] = [Text(run.name, style="bold"), Text(subtitle(run))]
    parts += [Text(line, style="yellow") for line in warnings(run)]
    lines = verdict(run, made)[bool(run.missing) :]  # its first says the same as the warning
    parts += [Text(""), *(Text(line) for line in lines)]
    for name, columns in _COLUMNS.items():
        if name in made and len(made[name]):
            parts += ["", _table(name, made[name], columns)]
            if name in said:
                parts.append(Text(said[name], style="dim"))
    return Group(*parts, *_absent(run.absent))


def _table(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> Table:
    """At most twenty rows of a table, and of its columns the ones that matter most."""
    total, title = len(frame), CAPTIONS[name]
    if name == "supervision_domains":
        return supervisions_text(frame, Text(title, style="bold"))
    if name in _ENDS and total > MOST_ROWS:
        frame, _ = ends(frame, _ENDS[name], MOST_ROWS, "row")
        title += f" (the {MOST_ROWS // 2} highest and lowest of {total:,})"
    elif total > MOST_ROWS:
        frame = frame.tail(MOST_ROWS)
        title += f" (the last {MOST_ROWS} of {total:,})"
    shown = [column for column in columns if column in frame and frame[column].notna().any()]
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
    return ["", Text("Not shown:", style="bold"), *lines]
