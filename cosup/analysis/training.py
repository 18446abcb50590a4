"""The curves of the student's training, and the cost of each stage."""

import re

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import row_at, rows_of
from cosup.analysis.drawing import BarRow, Bars, Curve, Lines, Panel, Scale, Segment, View
from cosup.analysis.figure import Excerpt, Figure, Unavailable
from cosup.analysis.records import Run
from cosup.words import duration, known, percent

__all__ = ["COST_FIGURE", "WEIGHTS_FIGURE"]

PREPARING = ("data", "features", "teachers", "annotate")
CHOICE = "choose-loss"
TAG = re.compile(r"(?:student/)?round_(\d+)/(.+)")
"""Of the numbers of a training; earlier versions wrote them without `student/`."""
MOST_PANELS, MOST_CURVES = 8, 8


def weights_table(run: Run) -> pd.DataFrame:
    """Make the table of numbers recorded during the student's training.

    Columns: round, step, name, value. Names include the loss and, for losses that have them, the
    mean weight of the student's own prediction (`adaptive_weight`) and the share of samples on
    which teacher and student agree (`agreement`).
    """
    scalars = run.scalars
    parts = scalars["tag"].str.extract(TAG)
    chosen = parts[0].notna()
    if not chosen.any():
        raise Unavailable("no training of a student has recorded anything")
    names = list(parts[1][chosen].unique())
    table = pd.DataFrame(
        {
            "round": parts[0][chosen].astype("int64"),
            "step": scalars["step"][chosen],
            "name": pd.Categorical(parts[1][chosen], categories=names),
            "value": scalars["value"][chosen],
        }
    )
    return table.sort_values(["round", "name", "step"], kind="stable").reset_index(drop=True)


def weights_sentence(run: Run, table: pd.DataFrame) -> str:
    """State how the adaptive weight, or else the loss, changes in the last round."""
    last = table[table["round"] == table["round"].max()]
    for name, text in (
        ("adaptive_weight", "the mean weight of the student's own prediction"),
        ("loss", "the loss"),
    ):
        part = last[(last["name"] == name) & last["value"].notna()]
        if not len(part):
            continue
        first, end = row_at(part, 0), row_at(part, -1)
        reached = f"{words.decimal(end['value'], 3)} at step {end['step']}"
        if len(part) == 1:
            return f"In the last round {text} is {reached}."
        return (
            f"In the last round {text} changes from {words.decimal(first['value'], 3)} at step "
            f"{first['step']} to {reached}."
        )
    return ""


def draw_weights(table: pd.DataFrame) -> list[View]:
    """Draw a panel for each recorded number, with a curve for each round."""
    table = table[table["value"].notna() & (table["name"] != "learning_rate")]
    names = sorted((str(n) for n in table["name"].unique()), key=lambda n: ("weight" not in n, n))
    rounds = list(table["round"].unique())[-MOST_CURVES:]
    panels = []
    for name in names[:MOST_PANELS]:
        part = table[(table["name"].astype(str) == name) & table["round"].isin(rounds)]
        if len(part):
            panels.append(_curves(name, part, rounds))
    legend = [(f"c{index}", f"round {number}") for index, number in enumerate(rounds)]
    return [Lines(panels, legend if len(rounds) > 1 else ())]


def _curves(name: str, part: pd.DataFrame, rounds: list[int]) -> Panel:
    x = Scale.of_numbers([float(v) for v in part["step"]], zero=True)
    y = Scale.of_numbers([float(v) for v in part["value"]])
    curves = []
    for index, number in enumerate(rounds):
        one = part[part["round"] == number].sort_values("step")
        points = [(x.at(row["step"]), y.at(row["value"])) for row in rows_of(one)]
        curves.append(Curve(f"round {number}", f"c{index}", points))
    last = part.sort_values(["round", "step"]).iloc[-1]
    note = f"last value in round {last['round']}: {words.number(last['value'])}"
    return Panel(name.replace("_", " "), x.axis("step"), y.axis(), curves, note=note)


WEIGHTS_FIGURE = Figure(
    "weights", "Training of the student", weights_table, weights_sentence, draw_weights
)


def cost_table(run: Run) -> pd.DataFrame:
    """Make the table of costs: a row per finished stage.

    Columns: stage, part (data, features, teachers, annotate, rounds, controls), seconds, share (of
    all), images, images_per_second. Images are: for data the images listed and checked; for
    features the images read or found in the cache; for teachers the images seen in training; for
    annotate the annotations; for rounds and controls the samples of student_train. Unknown values
    are null. The peak memory is in `run.summary["peak_rss_mb"]`.
    """
    rows = [
        {"stage": _words(stage), "part": part, "seconds": seconds, "images": images}
        for stage, part, seconds, images in _stages(run)
    ]
    if not rows:
        raise Unavailable("no stage is finished")
    table = pd.DataFrame(rows)
    parts = [*PREPARING, "rounds", "controls"]
    table["part"] = pd.Categorical(table["part"], categories=parts)
    table["images"] = table["images"].astype("Int64")
    table.insert(3, "share", table["seconds"] / table["seconds"].sum())
    seconds = table["seconds"].where(table["seconds"] > 0)
    table["images_per_second"] = table["images"].astype("Float64").astype("float64") / seconds
    return table


def _stages(run: Run) -> list[tuple[str, str, float, int | None]]:
    order = [
        *PREPARING,
        CHOICE,
        *(f"round-{number}" for number in run.rounds),
        *(f"control-{name}" for name in run.controls),
    ]
    found = []
    for stage in (stage for stage in order if "seconds" in run.stages.get(stage, {})):
        part = _part(stage)
        found.append((stage, part, float(run.stages[stage]["seconds"]), _images(run, part)))
    return found


def _part(stage: str) -> str:
    if stage in PREPARING:
        return stage
    return "controls" if stage.startswith("control-") else "rounds"


def _words(stage: str) -> str:
    return stage.replace("-", " ", 1)


def _images(run: Run, part: str) -> int | None:
    """Return the number of images that a stage processes."""
    sizes = run.prepared.get("samples")
    if part == "teachers":
        return _trained(run)
    if part == "annotate":
        return _annotations(run)
    if sizes is None:
        return None
    if part == "data":
        return int(sum(sizes.values()))
    if part == "features":
        return int(run.prepared["features"]) or None
    return int(sizes["student_train"])


def _trained(run: Run) -> int | None:
    common, images = run.config["teachers"]["training"], 0
    for record in run.files.teachers.records():
        about = record.read()
        images += int(about["steps"]) * int(about.get("training", common)["batch_size"])
    return images or None


def _annotations(run: Run) -> int | None:
    index = run.files.annotations.index
    if not index.exists():
        return None
    entries = [entry for split in index.read().values() for entry in split.values()]
    return int(np.sum([entry["samples"] for entry in entries])) if entries else None


def cost_sentence(run: Run, table: pd.DataFrame) -> str:
    """State the total time, its largest part and the peak memory."""
    by = table.groupby("part", observed=True)["seconds"].sum()
    total = float(by.sum())
    text = (
        f"The stages took {duration(total)} in total, most of it in {by.idxmax()} "
        f"({percent(by.max() / total)})"
    )
    peak = run.summary.get("peak_rss_mb")
    return f"{text}. Peak memory: {peak:,.0f} MiB." if known(peak) else f"{text}."


def draw_cost(table: pd.DataFrame) -> list[View]:
    """Draw the seconds of each stage, with its images per second."""
    table = table[table["seconds"].notna()]
    widest = float(table["seconds"].max()) or 1.0
    rows = []
    for row in rows_of(table):
        rate = row["images_per_second"]
        rows.append(
            BarRow(
                str(row["stage"]).replace("_", " "),
                [Segment(float(row["seconds"]) / widest, "part", f"{row['seconds']:.1f} s")],
                f"{row['seconds']:,.1f}",
                "" if words.missing(rate) else words.number(rate),
            )
        )
    return [Bars(rows, "seconds", "images per second")]


COST_FIGURE = Figure(
    "cost",
    "Seconds by stage",
    cost_table,
    cost_sentence,
    draw_cost,
    excerpt=Excerpt(("stage", "part", "seconds", "images_per_second")),
)
