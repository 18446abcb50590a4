"""The drawings of a bench, and how its numbers are written."""

from typing import Any

import pandas as pd

from cosup import words
from cosup.analysis.arrays import rows_of
from cosup.analysis.bench import COMPARED
from cosup.analysis.drawing import DotRow, Dots, Mark, Reference, Scale

__all__ = [
    "draw_accuracies",
    "draw_differences",
    "draw_ranks",
    "draw_recovered",
    "rank_text",
    "with_half",
]

CALLED = {
    "student": "student",
    "with_team": "student and team",
    "team": "team",
    "generalist": "generalist's student",
    "labels": "labels",
}


def with_half(row: dict[str, Any], who: str) -> str:
    """Return an accuracy with half of its interval: `88.6 ± 0.8`."""
    if not row or words.missing(row[who]):
        return words.NONE
    half = max(row[f"{who}_high"] - row[who], row[who] - row[f"{who}_low"])
    return f"{words.in_percent(row[who])} ± {words.in_percent(half)}"


def rank_text(value: Any) -> str:
    return words.NONE if words.missing(value) else f"{value:.1f}"


def draw_ranks(table: pd.DataFrame) -> Dots:
    columns = [f"{who}_rank" for who in COMPARED]
    scale = Scale.of_numbers([1.0, *table[columns].to_numpy().ravel()])
    rows = [
        DotRow(
            str(row["method"]),
            [
                Mark(scale.at(row[f"{who}_rank"]), kind, f"{CALLED[who]}: {row[f'{who}_rank']:.1f}")
                for who, kind in zip(COMPARED, ("control", "student"), strict=True)
            ],
            rank_text(row["student_rank"]),
            rank_text(row["with_team_rank"]),
        )
        for row in rows_of(table)
    ]
    legend = [("control", "student"), ("student", "student and team")]
    return Dots(rows, scale.axis("rank"), "student", "with team", legend=legend)


def draw_accuracies(results: pd.DataFrame) -> Dots:
    """Draw the accuracies of each method beside the floor, the ceiling and the labels."""
    ends = ("with_team_low", "with_team_high")
    scale = Scale.of_shares(
        pd.concat([results[name] for name in (*COMPARED, *ends, "floor", "ceiling", "labels")])
    )
    kinds = (
        ("floor", "floor-tick"),
        ("ceiling", "ceiling-tick"),
        ("labels", "teacher"),
        ("student", "control"),
        ("with_team", "student"),
    )
    rows = [
        DotRow(
            str(row["method"]),
            [
                Mark(scale.at(row[name]), kind, f"{name}: {words.in_percent(row[name])} %")
                for name, kind in kinds
                if not words.missing(row[name])
            ],
            words.in_percent(row["student"]),
            with_half(row, "with_team"),
            note=row["chosen"],
            span=scale.span(row["with_team_low"], row["with_team_high"]),
            kind="student",
        )
        for row in rows_of(results)
    ]
    legend = [
        ("control", "student"),
        ("student", "student and team"),
        ("teacher", "labels, same loss"),
        ("floor-tick", "floor and ceiling"),
    ]
    return Dots(rows, scale.axis("accuracy, %"), "student, %", "with team, %", legend=legend)


RECOVERED = {
    "pgr": ("control", "student, over the best teacher"),
    "with_team_pgr": ("student", "student and team, over the best teacher"),
    "with_team_pgr_over_team": ("teacher", "student and team, over the team"),
}


def draw_recovered(results: pd.DataFrame) -> Dots:
    """Draw the performance gap that each method recovers, by both floors."""
    values = pd.concat([results[name] for name in RECOVERED])
    scale = Scale.of_numbers([0.0, 100.0, *(100 * values.dropna())])
    rows = [
        DotRow(
            str(row["method"]),
            [
                Mark(scale.at(100 * row[name]), kind, f"{text}: {words.in_percent(row[name])} %")
                for name, (kind, text) in RECOVERED.items()
                if not words.missing(row[name])
            ],
            words.in_percent(row["with_team_pgr"]),
            words.in_percent(row["with_team_pgr_over_team"]),
            kind="student",
        )
        for row in rows_of(results)
    ]
    ends = [Reference(scale.at(end), kind) for end, kind in ((0.0, "floor"), (100.0, "ceiling"))]
    legend = list(RECOVERED.values())
    return Dots(rows, scale.axis("PGR, %"), "with team, %", "over the team, %", ends, legend)


def draw_differences(table: pd.DataFrame) -> Dots:
    bounds = pd.concat([table[name] for name in ("difference_low", "difference_high")])
    scale = Scale.of_numbers([0.0, *(100 * bounds)])
    rows, before = [], ""
    for row in rows_of(table):
        low, high = row["difference_low"], row["difference_high"]
        kind = "gain" if low > 0 else "loss" if high < 0 else ""
        name = f"{CALLED[row['of']]} {words.MINUS} {CALLED.get(row['against'], row['against'])}"
        tooltip = f"{row['method']}: {words.in_points(row['difference'])} points"
        p = "" if words.missing(row["p_corrected"]) else f"p {words.p_value(row['p_corrected'])}"
        rows.append(
            DotRow(
                name,
                [Mark(scale.at(100 * row["difference"]), "control", tooltip)],
                words.in_points(row["difference"]),
                words.interval(low, high, words.in_points),
                note=p.replace(" ", "\u00a0"),
                span=(scale.at(100 * low), scale.at(100 * high)),
                kind=kind,
                heading="" if row["method"] == before else row["method"],
            )
        )
        before = row["method"]
    zero = [Reference(scale.at(0.0), "floor")]
    return Dots(rows, scale.axis("points"), "points", "95 % interval", zero)
