"""Curves: calibration, and what the loss did over a training; and what everything cost."""

import pandas as pd

from cosup.analysis.base import rows_of
from cosup.report import words
from cosup.report.axes import Scale
from cosup.report.views import Axis, BarRow, Bars, Curve, Lines, Panel, Segment, View

MOST_PANELS = 4
MOST_CURVES = 8
FEWEST = 5
"""Samples that a bin must hold for its accuracy to be drawn: of fewer it says nothing."""
TENTHS = Axis([(0.0, "0"), (0.5, "50"), (1.0, "100")], "confidence, %")


def draw_calibration(tables: dict[str, pd.DataFrame]) -> list[View]:
    """Accuracy at each confidence; on the diagonal, a confidence means what it says."""
    table = tables["calibration"]
    everyone = [str(name) for name in table["who"].unique()]
    order = ["student", *[n for n in everyone if "ceiling" in n or "mean_ensemble" in n]]
    names = [n for n in dict.fromkeys([*order, *everyone]) if n in everyone][:MOST_PANELS]
    panels = []
    for name in names:
        part = table[(table["who"].astype(str) == name) & (table["samples"] > 0)]
        panels.append(_reliability(name, part))
    left = len(everyone) - len(names)
    cut = f"{words.plural(left, 'other')} in the table." if left else ""
    legend = [("c0", "accuracy at this confidence"), ("other square", "share of the samples")]
    return [Lines(panels, legend, square=True, cut=cut)]


def _reliability(name: str, part: pd.DataFrame) -> Panel:
    total = float(part["samples"].sum()) or 1.0
    gap = float(((part["accuracy"] - part["confidence"]).abs() * part["samples"]).sum()) / total
    mean = float((part["confidence"] * part["samples"]).sum()) / total
    right = float((part["accuracy"] * part["samples"]).sum()) / total
    known = part[part["samples"] >= FEWEST]
    points = [(float(r["confidence"]), float(r["accuracy"])) for r in rows_of(known)]
    bars = [
        (float(r["low"]), float(r["high"] - r["low"]), r["samples"] / total) for r in rows_of(part)
    ]
    note = (
        f"says {words.percent(mean)} %, right {words.percent(right)} %; "
        f"calibration error {words.percent(gap)} %"
    )
    title = "the co-supervised student" if name == "student" else name.replace("_", " ")
    vertical = Axis(TENTHS.ticks, "accuracy, %")
    diagonal = Curve("", "diagonal", [(0.0, 0.0), (1.0, 1.0)])
    return Panel(title, TENTHS, vertical, [diagonal, Curve(name, "student", points)], bars, note)


def draw_weights(tables: dict[str, pd.DataFrame]) -> list[View]:
    """A panel for each number that the training recorded, a curve for each round."""
    table = tables["weights"].dropna(subset=["value"])
    names = sorted((str(n) for n in table["name"].unique()), key=lambda n: ("weight" not in n, n))
    rounds = list(table["round"].unique())[-MOST_CURVES:]
    panels = []
    for name in names[: 2 * MOST_PANELS]:
        part = table[(table["name"].astype(str) == name) & table["round"].isin(rounds)]
        if len(part):
            panels.append(_training(name, part, rounds))
    legend = [(f"c{index}", f"round {number}") for index, number in enumerate(rounds)]
    return [Lines(panels, legend if len(rounds) > 1 else ())]


def _training(name: str, part: pd.DataFrame, rounds: list[int]) -> Panel:
    x = Scale.of_numbers([float(v) for v in part["step"]], zero=True)
    y = Scale.of_numbers([float(v) for v in part["value"]])
    curves = []
    for index, number in enumerate(rounds):
        one = part[part["round"] == number].sort_values("step")
        points = [(x.at(row["step"]), y.at(row["value"])) for row in rows_of(one)]
        curves.append(Curve(f"round {number}", f"c{index}", points))
    last = part.sort_values(["round", "step"]).iloc[-1]
    note = f"round {last['round']} ends at {words.number(last['value'])}"
    return Panel(name.replace("_", " "), x.axis("step"), y.axis(), curves, note=note)


def draw_cost(tables: dict[str, pd.DataFrame]) -> list[View]:
    """The seconds of each stage, and its images per second where it saw images."""
    table = tables["cost"]
    table = table[table["seconds"].notna()]
    widest = float(table["seconds"].max()) or 1.0
    rows = []
    for row in rows_of(table):
        stage = str(row["stage"]).replace("_", " ")
        rate = row["images_per_second"]
        rows.append(
            BarRow(
                stage,
                [Segment(float(row["seconds"]) / widest, "part", f"{row['seconds']:.1f} s")],
                f"{row['seconds']:,.1f}",
                "" if words.missing(rate) else words.number(rate),
            )
        )
    return [Bars(rows, "seconds", "images per second")]
