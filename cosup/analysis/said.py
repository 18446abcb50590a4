"""What each teacher says of single samples, as a column of a table and as the lines of a card."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cosup import words
from cosup.analysis.alternatives import TABLE
from cosup.analysis.arrays import Codes
from cosup.analysis.records import Answers, Run

__all__ = ["answer_text", "said_of", "say", "source_lines"]

MOST_SOURCES = 8
"""Sources whose answers are listed below a picture."""
ABSTAINS = "abstains"


def said_of(run: Run, rows: Codes) -> list[str]:
    """Return what each teacher of the last round says of samples of student_train.

    `ann: cat (0.93); ben: dog; cy: abstains`: the class with its probability, without one where a
    table of labels made elsewhere is certain.
    """
    names = run.stages[f"round-{run.rounds[-1]}"]["teachers"]
    tables = {teacher.name for teacher in run.teachers if teacher.kind == TABLE}
    found = {name: run.annotated(name) for name in names}
    return say({name: one.take(rows) for name, one in found.items()}, tables, run.classes)


def say(
    answers: Mapping[str, Answers], tables: Collection[str], classes: Sequence[str]
) -> list[str]:
    """Return for each sample what teachers say, as `said_of`.

    answers: of each teacher to the samples. tables: the teachers that are tables of labels.
    """
    columns = []
    for name, one in answers.items():
        pairs = zip(one.label.tolist(), one.confidence.tolist(), strict=True)
        columns.append([f"{name}: {_said(classes, *pair, name in tables)}" for pair in pairs])
    return ["; ".join(row) for row in zip(*columns, strict=True)]


def _said(classes: Sequence[str], label: int, confidence: float, hard: bool) -> str:
    if label < 0:
        return ABSTAINS
    return classes[label] if hard and confidence == 1 else f"{classes[label]} ({confidence:.2f})"


def source_lines(said: Any, shown: str = "") -> list[tuple[str, str]]:
    """Return a line for each source but the one that is shown, how many are left out, and one for
    those that abstain."""
    parts = [] if words.missing(said) or not said else str(said).split("; ")
    pairs = [(name, label) for name, _, label in (part.partition(": ") for part in parts)]
    silent = [name for name, label in pairs if label == ABSTAINS]
    lines = [
        (name, _in_percent(label)) for name, label in pairs if label != ABSTAINS and name != shown
    ]
    if len(lines) > MOST_SOURCES:
        lines = [*lines[:MOST_SOURCES], ("", f"and {len(lines) - MOST_SOURCES} more")]
    return [*lines, (ABSTAINS, words.listed(silent, 3))] if silent else lines


def _in_percent(label: str) -> str:
    found = re.fullmatch(r"(.*) \((\d\.\d\d)\)", label, re.DOTALL)
    return answer_text(found[1], float(found[2])) if found else label


def answer_text(label: Any, confidence: Any) -> str:
    """Write a class with its confidence in percent, if that is known."""
    if words.missing(confidence):
        return str(label)
    return f"{label}, {words.in_percent(confidence, 0)}\u00a0%"
