"""Who spoke for the labels of the last round, and how loudly."""

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import Row, categories, names_in_order, rows_of
from cosup.analysis.drawing import BarRow, Bars, Segment, View
from cosup.analysis.figure import Figure, Unavailable, require_rounds
from cosup.analysis.records import Run
from cosup.words import percent, plural

__all__ = ["EVIDENCE_FIGURE"]

MOST_SOURCES = 24
BINS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Lower bounds of the histogram of evidence, in nats; below the first it speaks against."""


def evidence_table(run: Run) -> pd.DataFrame:
    """Make the histogram of evidence: a row per teacher of the last round and range of nats.

    Columns: teacher (the one with the largest part of the evidence for the label of a sample),
    nats_from (lower end of the range; null: below 0, it speaks against the label), samples, share
    (of all samples), correct (share of these labels that are right; null if unknown). For
    assigners that give evidence (`fused`).
    """
    require_rounds(run)
    table = run.round(run.rounds[-1])
    if "evidence" not in table:
        raise Unavailable("its assigner gives no evidence")
    nats = table["evidence"].to_numpy(np.float64)
    place = np.searchsorted(np.array(BINS), nats, side="right")
    right = (table["annotation"].astype(str) == table["true_label"].astype(str)).astype(float)
    right[table["true_label"].isna()] = np.nan
    grouped = pd.DataFrame(
        {"teacher": table["assigned_teacher"].cat.codes, "place": place, "right": right}
    ).groupby(["teacher", "place"])["right"]
    found = grouped.agg(["size", "mean"]).reset_index()
    starts = np.array([np.nan, *BINS])
    return pd.DataFrame(
        {
            "teacher": categories(found["teacher"].to_numpy(), run.teacher_names),
            "nats_from": starts[found["place"]],
            "samples": found["size"],
            "share": found["size"] / len(table),
            "correct": found["mean"],
        }
    )


def evidence_sentence(run: Run, table: pd.DataFrame) -> str:
    """Say who spoke most for the labels, and how much of it the student did."""
    counts = table.groupby("teacher", observed=True)["samples"].sum()
    largest = percent(counts.max() / counts.sum())
    text = f"{counts.idxmax()} has the largest part of the evidence on {largest} of the samples"
    share = (run.summary.get("sources") or {}).get("student", {}).get("share")
    if share is None:
        return f"{text}."
    return f"{text}; the student's own answers are {percent(share)} of all evidence."


def draw_evidence(table: pd.DataFrame) -> list[View]:
    """Draw, per teacher, the samples on which it speaks loudest, by strength of its evidence."""
    names, rows = names_in_order(table["teacher"]), []
    most = float(table.groupby("teacher", observed=True)["share"].sum().max())
    for name in names[:MOST_SOURCES]:
        part = rows_of(table[table["teacher"] == name])
        segments = [
            Segment(row["share"] / most, _tone(row["nats_from"]), _strength(name, row))
            for row in part
        ]
        samples = sum(int(row["samples"]) for row in part)
        share = sum(float(row["share"]) for row in part)
        rows.append(BarRow(name, segments, words.count(samples), words.in_percent(share)))
    legend = [
        ("other", "less than 1 nat"),
        ("both", "1 to 4 nats"),
        ("gain", "more than 4 nats"),
    ]
    left_out = "" if len(names) <= MOST_SOURCES else f"{len(names) - MOST_SOURCES} are left out."
    return [Bars(rows, "samples", "share, %", legend, left_out)]


def _tone(start: float) -> str:
    if words.missing(start) or start < 1:
        return "other"
    return "both" if start < 4 else "gain"


def _strength(name: str, row: Row) -> str:
    start = row["nats_from"]
    low = "speaks against the label" if words.missing(start) else f"from {start:g} nats"
    right = "" if words.missing(row["correct"]) else f", {percent(row['correct'])} right"
    return f"{name}, {low}: {plural(int(row['samples']), 'sample')}{right}"


EVIDENCE_FIGURE = Figure(
    "evidence",
    "Who spoke for the labels",
    evidence_table,
    evidence_sentence,
    draw_evidence,
    "For each sample of the last round, the teacher with the largest part of the evidence for its "
    "label. 1 nat makes the label 2.7 times as likely against the mean of the other classes.",
    optional=True,
)
