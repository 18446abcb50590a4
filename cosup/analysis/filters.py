"""The annotations that each filter rejects."""

from typing import Any

import pandas as pd

from cosup import words
from cosup.analysis.arrays import Bools, Row, codes, row_at, rows_of
from cosup.analysis.decisions import RoundDecisions, all_decisions
from cosup.analysis.drawing import BarRow, Bars, Segment, View
from cosup.analysis.figure import Excerpt, Figure
from cosup.analysis.records import Run
from cosup.words import known, listed, percent

__all__ = ["ALL_FILTERS", "FILTERS_FIGURE"]

ALL_FILTERS = "all"
"""The row of the table for all filters together."""
MOST_ROUNDS = 6


def filters_table(run: Run) -> pd.DataFrame:
    """Make the table of filters: a row per round and filter, and one for all filters ("all").

    Columns: round, filter, rejected, share (of all samples), precision (share of the rejected
    annotations that are wrong), recall (share of the wrong annotations that are rejected),
    noise_caught (share of the samples with a wrong given label that are rejected; null without
    label noise). A sample counts for the first filter that rejects it, and for "abstained" if all
    assigned teachers abstain. Precision and recall are null if no label is known.
    """
    rows = []
    for now in all_decisions(run):
        table = run.round(now.number)
        reasons = _reasons(run)
        by = codes(table["rejected_by"], reasons)
        noisy = table["noisy"].to_numpy(bool) if "noisy" in table else None
        for place, name in [*enumerate(reasons), (-1, ALL_FILTERS)]:
            rejected = ~now.kept if name == ALL_FILTERS and place < 0 else by == place
            rows.append({"round": now.number, "filter": name, **_measures(now, rejected, noisy)})
    table = pd.DataFrame(rows)
    names = [*_reasons(run), ALL_FILTERS]
    table["filter"] = pd.Categorical(table["filter"], categories=list(dict.fromkeys(names)))
    return table


def _reasons(run: Run) -> list[str]:
    """Return the possible reasons of a rejection, in the order of the filters."""
    return list(run.round(run.rounds[-1])["rejected_by"].cat.categories)


def _measures(now: RoundDecisions, rejected: Bools, noisy: Bools | None) -> dict[str, float]:
    wrong = now.known & ~now.correct
    return {
        "rejected": int(now.samples[rejected].sum()),
        "share": now.mean(rejected),
        "precision": now.mean(wrong, rejected & now.known),
        "recall": now.mean(rejected, wrong),
        "noise_caught": float("nan") if noisy is None else now.mean(rejected, noisy),
    }


def filters_sentence(run: Run, table: pd.DataFrame) -> str:
    """State how many annotations were rejected in the last round, and how many were wrong."""
    part = table[table["round"] == table["round"].max()]
    whole = row_at(part[part["filter"] == ALL_FILTERS], -1)
    if not table["rejected"].any():
        return "No annotation was rejected."
    if not whole["rejected"]:
        return "In the last round no annotation was rejected."
    text = f"In the last round {percent(whole['share'])} of the annotations were rejected"
    if known(whole["precision"], whole["recall"]):
        text += (
            f". Of the rejected ones {percent(whole['precision'])} are wrong (precision), and "
            f"{percent(whole['recall'])} of all wrong annotations are rejected (recall)"
        )
    if known(whole["noise_caught"]):
        text += f". Of the wrong given labels {percent(whole['noise_caught'])} are rejected"
    wasteful = part[(part["filter"] != ALL_FILTERS) & (part["precision"] < 0.5)]["filter"]
    if len(wasteful):
        text += f". More correct than wrong annotations are rejected by {listed(list(wasteful))}"
    return f"{text}."


def draw_filters(table: pd.DataFrame) -> list[View]:
    """Draw what each filter rejected in each round, split into wrong and correct annotations.

    Nothing is drawn where nothing was rejected: the sentence says so.
    """
    if not table["rejected"].any():
        return []
    widest = float(table["share"].max()) or 1.0
    whole = table["filter"].astype(str) == ALL_FILTERS
    idle = [str(number) for number in table.loc[whole & (table["rejected"] == 0), "round"]]
    rounds = [number for number in table["round"].unique() if str(number) not in idle]
    rows = []
    for number in rounds[-MOST_ROUNDS:]:
        part = table[table["round"] == number].sort_values("filter", key=lambda f: f != ALL_FILTERS)
        part = part[(part["rejected"] > 0) | (part["filter"] != "abstained")]
        for index, row in enumerate(rows_of(part)):
            rows.append(_filter_row(row, widest, f"Round {number}" if index == 0 else ""))
    left_out = f"No annotation was rejected in round {words.listed(idle)}." if idle else ""
    legend = [("wrong", "wrong annotations rejected"), ("right", "correct annotations rejected")]
    extra = "of all wrong ones, %"
    if not table["precision"].notna().any():
        legend, extra = [("part", "rejected")], ""
    return [Bars(rows, "rejected, %", extra, legend, left_out)]


def _filter_row(row: Row, widest: float, heading: str) -> BarRow:
    share, precision = float(row["share"]) / widest, row["precision"]
    name = str(row["filter"])
    if words.missing(precision):
        segments = [Segment(share, "part", f"rejected: {words.count(row['rejected'])}")]
    else:
        wrong = round(float(precision) * float(row["rejected"]))
        correct = words.count(row["rejected"] - wrong)
        segments = [
            Segment(share * precision, "wrong", f"wrong: {words.count(wrong)}"),
            Segment(share * (1 - precision), "right", f"correct: {correct}"),
        ]
    noise: Any = row.get("noise_caught")
    return BarRow(
        "all filters" if name == ALL_FILTERS else name.replace("_", " "),
        segments,
        words.in_percent(row["share"]),
        "" if words.missing(row["recall"]) else words.in_percent(row["recall"]),
        "" if words.missing(noise) else f"{words.in_percent(noise)} % of the wrong labels",
        heading,
    )


FILTERS_FIGURE = Figure(
    "filters",
    "Annotations rejected by each filter",
    filters_table,
    filters_sentence,
    draw_filters,
    "A good filter rejects wrong annotations (blue) and keeps correct ones. A sample counts for "
    "the first filter that rejects it.",
    Excerpt(("round", "filter", "rejected", "share", "precision", "recall", "noise_caught")),
)
