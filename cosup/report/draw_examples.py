"""Samples worth a look, with their pictures where the run kept them."""

import base64
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cosup.analysis.base import rows_of
from cosup.report import words
from cosup.report.views import Example, Gallery, View

MOST_SHOWN = 12
NARROW = "\u00a0"
"""A space at which no line is broken."""

KINDS = {
    "rejected_right": (
        "Rejected though right",
        "The annotation was right and a filter threw it away; the most confident first.",
    ),
    "kept_wrong": (
        "Kept though wrong",
        "The student was taught these errors; the most confident first.",
    ),
    "contested": (
        "Most contested among the teachers",
        "Each teacher is sure, and they say different things.",
    ),
    "student_wrong": (
        "The student's most confident errors",
        "On what it is measured on, wrong with the highest confidence.",
    ),
}


def draw_examples(tables: dict[str, pd.DataFrame], thumbnails: Mapping[str, bytes]) -> list[View]:
    """A gallery for each kind."""
    table = tables["examples"]
    views: list[View] = []
    for kind, (title, explanation) in KINDS.items():
        part = table[table["kind"].astype(str) == kind].sort_values("rank")
        if not len(part):
            continue
        shown = [_example(row, thumbnails) for row in rows_of(part.head(MOST_SHOWN))]
        left = len(part) - len(shown)
        cut = f"{left} more in the table." if left else ""
        views.append(Gallery(title, explanation, shown, cut))
    return views


def _example(row: dict[str, Any], thumbnails: Mapping[str, bytes]) -> Example:
    lines = []
    teacher = row.get("teacher")
    if not words.missing(row.get("annotation")):
        who = "teacher" if words.missing(teacher) else str(teacher)
        lines.append((who, _said(row["annotation"], row.get("annotation_confidence"))))
    if not words.missing(row.get("student_label")):
        lines.append(("student", _said(row["student_label"], row.get("student_confidence"))))
    if not words.missing(row.get("true_label")):
        lines.append(("truth", str(row["true_label"])))
    if not words.missing(row.get("rejected_by")):
        lines.append(("filter", str(row["rejected_by"]).replace("_", " ")))
    sample = str(row["sample_id"])
    return Example(sample, _data_uri(thumbnails.get(sample)), lines)


def _said(label: Any, confidence: Any) -> str:
    return (
        str(label)
        if words.missing(confidence)
        else f"{label}, {words.percent(confidence, 0)}\u00a0%"
    )


def _data_uri(png: bytes | None) -> str:
    return "" if not png else f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
