"""The measures of each round, and the number of samples of each teacher."""

from typing import Any

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import (
    Codes,
    categories,
    highest_and_lowest,
    highest_row,
    lowest_row,
    ratio,
    row_at,
    rows_of,
)
from cosup.analysis.decisions import all_decisions
from cosup.analysis.drawing import BarRow, Bars, Cell, Matrix, Segment, View
from cosup.analysis.figure import Excerpt, Figure
from cosup.analysis.records import Run
from cosup.words import known, percent, plural

__all__ = ["LOAD_FIGURE", "ROUNDS_FIGURE"]

MEASURES = (
    "assignment_accuracy",
    "annotation_accuracy",
    "best_choice",
    "kept",
    "kept_precision",
    "kept_recall",
    "refined",
    "refined_accuracy",
    "refined_right",
    "refined_wrong",
    "student_accuracy",
)
"""Measures of a round that are read from the records of its stage."""
MOST_ROUNDS, MOST_LOADS, MOST_BARS = 8, 16, 48


def rounds_table(run: Run) -> pd.DataFrame:
    """Make the table of rounds: a row per finished round.

    Columns: round, level, teachers (their number), assigner, the measures of the round as in
    `summary.json` (null if no label is known): assignment_accuracy (also null where no specialist
    has weight), annotation_accuracy, best_choice, kept, kept_precision, kept_recall,
    refined, refined_accuracy, refined_right, refined_wrong (null in rounds that do not refine),
    student_accuracy; effective_teachers (2 to the entropy), entropy (bits, of the shares of samples
    assigned to the teachers), changed (share of samples with another teacher than in the previous
    round; null in the first), soft (are samples shared among teachers? If so, a sample counts for
    the teacher with the largest weight).
    """
    rows = []
    for now in all_decisions(run):
        stage = run.stages[f"round-{now.number}"]
        entropy = _entropy(now.count(now.teacher, len(run.teachers)))
        rows.append(
            {
                "round": now.number,
                "level": stage["level"],
                "teachers": len(stage["teachers"]),
                "assigner": stage["assigner"],
                **{name: _number(stage.get(name)) for name in MEASURES},
                "effective_teachers": 2.0**entropy,
                "entropy": entropy,
                "changed": np.nan if now.before is None else now.mean(now.teacher != now.before),
                "soft": bool(now.shared.any()),
            }
        )
    return pd.DataFrame(rows)


def _entropy(load: Codes) -> float:
    shares = load[load > 0] / max(1, load.sum())
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def rounds_sentence(run: Run, table: pd.DataFrame) -> str:
    """Compare the first and the last round."""
    first, last = row_at(table, 0), row_at(table, -1)
    kept = f"In the last round {percent(last['kept'])} of the annotations are kept."
    if not known(first["student_accuracy"], last["student_accuracy"]):
        return kept
    if len(table) == 1:
        return f"After one round the student reaches {percent(last['student_accuracy'])}."
    text = (
        f"From round {first['round']} to round {last['round']} the accuracy of the student rises "
        f"from {percent(first['student_accuracy'])} to {percent(last['student_accuracy'])}"
    )
    if first["student_accuracy"] >= last["student_accuracy"]:
        text = text.replace("rises", "changes")
    if known(first["annotation_accuracy"], last["annotation_accuracy"]):
        text += (
            f" and that of the assigned annotations changes from "
            f"{percent(first['annotation_accuracy'])} to {percent(last['annotation_accuracy'])}"
        )
    return f"{text}. {kept}"


_ROWS = (
    ("teachers", "teachers available", "count"),
    ("assignment_accuracy", "weight on specialists that is on those in scope, %", "share"),
    ("annotation_accuracy", "assigned annotations that are correct, %", "share"),
    ("best_choice", "the same by the best choice of a teacher per sample, %", "share"),
    ("kept", "annotations kept, %", "share"),
    ("kept_precision", "kept annotations that are correct, %", "share"),
    ("kept_recall", "correct annotations that are kept, %", "share"),
    ("refined", "annotations whose class refinement changed, %", "share"),
    ("refined_right", "of these changes, the new class is correct, %", "share"),
    ("refined_wrong", "of these changes, the old class was correct, %", "share"),
    ("refined_accuracy", "refined annotations that are correct, %", "share"),
    ("changed", "samples whose teacher changed, %", "share"),
    ("effective_teachers", "effective number of teachers", "number"),
    ("entropy", "entropy of the load, bits", "number"),
    ("student_accuracy", "student's accuracy after the round, %", "share"),
)
"""The rows of the drawing: column, label, and how its numbers are written."""


def draw_rounds(table: pd.DataFrame) -> list[View]:
    """Draw each measure of routing and filtering by round."""
    table, left_out = table.reset_index(drop=True), ""
    if len(table) > MOST_ROUNDS:
        half = MOST_ROUNDS // 2
        left_out = f"Shown are the first and the last {half} of {len(table)} rounds."
        table = pd.concat([table.head(half), table.tail(half)])
    rows, cells = [], []
    for name, label, kind in _ROWS:
        if name not in table or table[name].isna().all():
            continue
        rows.append(label)
        cells.append([_measure(label, row, name, kind) for row in rows_of(table)])
    columns = [f"round {row['round']}" for row in rows_of(table)]
    return [Matrix(rows, columns, cells, "measure", "round", style="measures", left_out=left_out)]


def _measure(label: str, row: dict[str, Any], name: str, kind: str) -> Cell:
    value = row[name]
    if kind == "share":
        text = words.in_percent(value)
    else:
        text = words.count(value) if kind == "count" else _decimals(value)
    share = float(value) if kind == "share" and not words.missing(value) else None
    return Cell(share, text, f"round {row['round']}, {label}: {text}")


def _decimals(value: Any) -> str:
    return words.NONE if words.missing(value) else words.decimal(value, 2)


ROUNDS_FIGURE = Figure(
    "rounds",
    "Rounds",
    rounds_table,
    rounds_sentence,
    draw_rounds,
    excerpt=Excerpt(
        (
            "round",
            "teachers",
            "student_accuracy",
            "assignment_accuracy",
            "annotation_accuracy",
            "best_choice",
            "kept",
            "kept_precision",
            "kept_recall",
            "changed",
        )
    ),
)


def load_table(run: Run) -> pd.DataFrame:
    """Make the table of loads: a row per round and teacher of its level, also without samples.

    Columns: round, level, teacher, samples, share (of all samples), kept (share of its samples),
    annotation_accuracy (of its samples' annotations), kept_accuracy (of the kept ones).
    """
    names, parts = run.teacher_names, []
    for now in all_decisions(run):
        stage = run.stages[f"round-{now.number}"]
        place = np.array([names.index(name) for name in stage["teachers"]])
        samples, kept, known, correct, kept_known, kept_correct = (
            now.count(now.teacher, len(names), chosen)[place]
            for chosen in (
                None,
                now.kept,
                now.known,
                now.correct,
                now.kept & now.known,
                now.kept & now.correct,
            )
        )
        parts.append(
            pd.DataFrame(
                {
                    "round": now.number,
                    "level": stage["level"],
                    "teacher": categories(place, names),
                    "samples": samples,
                    "share": samples / max(1, now.samples.sum()),
                    "kept": ratio(kept, samples),
                    "annotation_accuracy": ratio(correct, known),
                    "kept_accuracy": ratio(kept_correct, kept_known),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def load_sentence(run: Run, table: pd.DataFrame) -> str:
    """Name the teachers with the most and the fewest samples in the last round."""
    part = table[table["round"] == table["round"].max()]
    full, scant = highest_row(part, "share"), lowest_row(part, "share")
    if len(part) == 1:
        return f"In the last round {full['teacher']} supervises every sample."
    idle = int((part["samples"] == 0).sum())
    text = (
        f"In the last round {full['teacher']} is assigned the most samples "
        f"({percent(full['share'])}) and {scant['teacher']} the fewest ({percent(scant['share'])})"
    )
    unused = f"; {idle} of {plural(len(part), 'teacher')} are assigned none" if idle else ""
    return f"{text}{unused}."


def draw_load(table: pd.DataFrame) -> list[View]:
    """Draw the number of samples of each teacher by round, split into kept and rejected."""
    many = table.groupby("round")["teacher"].nunique()
    single = [str(number) for number in many.index if many[number] == 1]
    rounds = [number for number in many.index if many[number] > 1]
    left_out = f"Not shown: round {words.listed(single)}, with one teacher." if single else ""
    if not rounds:
        rounds, left_out = list(many.index), ""
    fit = MOST_BARS // min(MOST_LOADS, int(many[rounds].max()))
    if fit < len(rounds):
        left_out = f"Shown are the last {words.plural(fit, 'round')}. {left_out}"
    table = table[table["round"].isin(rounds[-fit:])]
    widest = float(table["share"].max()) or 1.0
    correct = "correct, %" if table["annotation_accuracy"].notna().any() else ""
    rows: list[BarRow] = []
    for number in rounds[-fit:]:
        part = table[table["round"] == number]
        shown, text = highest_and_lowest(part, "samples", MOST_LOADS, "teacher")
        left_out = left_out if text in left_out else f"{text} {left_out}"
        for index, row in enumerate(rows_of(shown)):
            rows.append(_load_row(row, widest, f"Round {number}" if index == 0 else "", correct))
    legend = [("kept", "kept"), ("rejected", "rejected by a filter")]
    return [Bars(rows, "samples", correct, legend, left_out.strip())]


def _load_row(row: Any, widest: float, heading: str, correct: str) -> BarRow:
    samples, part = int(row["samples"]), float(row["kept"]) if row["samples"] else 0.0
    kept, full = round(part * samples), float(row["share"]) / widest
    segments = [
        Segment(full * part, "kept", f"kept: {words.count(kept)}"),
        Segment(full * (1 - part), "rejected", f"rejected: {words.count(samples - kept)}"),
    ]
    return BarRow(
        str(row["teacher"]),
        segments,
        words.count(samples),
        words.in_percent(row["annotation_accuracy"]) if correct else "",
        heading=heading,
    )


LOAD_FIGURE = Figure(
    "load",
    "Load of each teacher",
    load_table,
    load_sentence,
    draw_load,
    "Correct: the share of the teacher's assigned annotations that are correct.",
    Excerpt(
        ("round", "teacher", "samples", "share", "annotation_accuracy", "kept_accuracy"),
        ends="samples",
    ),
)
