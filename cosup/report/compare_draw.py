"""The drawings of a comparison."""

from collections.abc import Sequence

import pandas as pd

from cosup import words
from cosup.analysis.arrays import highest_and_lowest, rows_of
from cosup.analysis.drawing import (
    Axis,
    BarRow,
    Bars,
    Cell,
    Curve,
    DotRow,
    Dots,
    Lines,
    Mark,
    Matrix,
    Panel,
    Reference,
    Scale,
    Segment,
)
from cosup.report.compare_text import is_different, with_deviation

MOST_DRAWN = 36
MOST_NAMES = 40
MOST_CURVES = 8
MOST_PANELS = 12
FIRST_TAGS = ("rounds/student_accuracy", "rounds/annotation_accuracy", "rounds/")


def draw_runs(table: pd.DataFrame) -> Dots:
    """Draw the accuracy of each run with its interval, floor and ceiling."""
    numbers = [table[name] for name in ("student", "low", "high", "floor", "ceiling")]
    scale = Scale.of_shares(pd.concat(numbers))
    rows = []
    for row in rows_of(table):
        marks = [
            Mark(
                scale.at(row[name]), kind, f"{row['run']}, {name}: {words.in_percent(row[name])} %"
            )
            for name, kind in (
                ("floor", "floor-tick"),
                ("ceiling", "ceiling-tick"),
                ("student", "student"),
            )
            if not words.missing(row[name])
        ]
        pgr = words.NONE
        if not words.missing(row["pgr"]):
            pgr = with_deviation(row["pgr"], row["pgr_deviation"])
            if words.missing(row["pgr_deviation"]):  # else there is no room for the interval
                pgr += f" {words.interval(row['pgr_low'], row['pgr_high'])}"
        rows.append(
            DotRow(
                row["run"],
                marks,
                with_deviation(row["student"], row["deviation"]),
                pgr,
                span=(scale.at(row["low"]), scale.at(row["high"])),
                kind="student",
            )
        )
    legend = [("student", "the student, 95 % interval"), ("floor-tick", "its floor and ceiling")]
    return Dots(rows, scale.axis("accuracy, %"), "accuracy, %", "PGR, %", legend=legend)


def draw_pairs(table: pd.DataFrame) -> Dots:
    """Draw the difference of each pair with its paired interval; the line marks no difference."""
    shown, left_out = _first(table, MOST_DRAWN)
    bounds = pd.concat([shown[name] for name in ("low", "high", "difference")])
    scale = Scale.of_numbers([0.0, *(100 * bounds)])
    rows = []
    for pair in rows_of(shown):
        name = f"{pair['run']} {words.MINUS} {pair['baseline']}"
        span = words.interval(pair["low"], pair["high"], words.in_points)
        kind = ""
        if is_different(pair):
            kind = "gain" if pair["difference"] > 0 else "loss"
        at = scale.at(100 * pair["difference"])
        rows.append(
            DotRow(
                name,
                [
                    Mark(
                        at,
                        "control",
                        f"{name}: {words.in_points(pair['difference'])} points {span}",
                    )
                ],
                words.in_points(pair["difference"]),
                span,
                note=f"p {words.p_value(pair['p_corrected'])}".replace(" ", "\u00a0"),
                span=(scale.at(100 * pair["low"]), scale.at(100 * pair["high"])),
                kind=kind,
            )
        )
    zero = [Reference(scale.at(0.0), "floor")]
    return Dots(rows, scale.axis("points"), "points", "95 % interval", zero, left_out=left_out)


def draw_answers(table: pd.DataFrame) -> Bars:
    """Draw the share of samples on which both, one or neither of a pair is correct."""
    shown, left_out = _first(table, MOST_DRAWN)
    parts = (
        ("both_right", "both", "both correct"),
        ("run_only", "gain", "only the first correct"),
        ("baseline_only", "loss", "only the second correct"),
        ("both_wrong", "other", "both wrong"),
    )
    rows = []
    for pair in rows_of(shown):
        total = sum(pair[name] for name, _, _ in parts)
        rows.append(
            BarRow(
                f"{pair['run']} against {pair['baseline']}",
                [
                    Segment(pair[name] / total, kind, f"{label}: {pair[name]:,} samples")
                    for name, kind, label in parts
                ],
                words.in_percent(pair["agreement"]),
                f"{pair['run_only']:,} and {pair['baseline_only']:,}",
            )
        )
    legend = [(kind, label) for _, kind, label in parts]
    return Bars(rows, "same answer, %", "only one correct", legend, left_out)


def draw_names(table: pd.DataFrame, runs: Sequence[str], noun: str) -> Matrix:
    """Draw the accuracy of each run by class, domain or seed; the mean over domains is last.

    Of many names, those with the largest and smallest differences between runs are shown.
    """
    several = noun == "domain" and len(table) > 1
    names, mean = (table.iloc[:-1], table.iloc[-1:]) if several else (table, table.iloc[:0])
    spread = names[list(runs)].max(axis=1) - names[list(runs)].min(axis=1)
    shown, left_out = highest_and_lowest(
        names.assign(spread_between_runs=spread), "spread_between_runs", MOST_NAMES, noun
    )
    shown = pd.concat([shown, mean])
    rows = [str(name) for name in shown[noun]]
    cells = [
        [
            Cell(
                value,
                words.in_percent(value),
                f"{noun} {name}, {run}: {words.in_percent(value)} % of {size:,} samples",
            )
            for run, value in zip(runs, values, strict=True)
        ]
        for name, size, values in zip(
            rows, shown["samples"], shown[list(runs)].to_numpy().tolist(), strict=True
        )
    ]
    caption = f"Accuracy by {noun}, %" if len(rows) else f"No {words.noun(2, noun)}"
    kinds = [*[""] * (len(rows) - len(mean)), *["mean"] * len(mean)]
    return Matrix(
        rows,
        list(runs),
        cells,
        noun,
        "run",
        left_out=left_out,
        caption=caption,
        row_kinds=kinds,
        long_names=several,
    )


def draw_seeds(table: pd.DataFrame, runs: Sequence[str], samples: Sequence[int]) -> Matrix:
    """Draw the accuracy of each run by seed, with so many test samples."""
    wide = table.pivot(index="seed", columns="run", values="student")[list(runs)]
    frame = wide.reset_index().rename_axis(columns=None)
    frame.insert(1, "samples", list(samples))
    return draw_names(frame, runs, "seed")


def draw_curves(table: pd.DataFrame, runs: Sequence[str]) -> Lines:
    """Draw a panel for each number recorded at several steps, with a curve for each run: the mean
    over its seeds."""
    by = ["run", "tag", "step"]
    known = table.dropna(subset=["value"]).groupby(by, sort=False)["value"].mean().reset_index()
    steps = known.groupby("tag", sort=False)["step"].nunique()
    several = (str(tag) for tag in steps.index[steps > 1])
    tags = sorted((tag for tag in several if not tag.endswith("/learning_rate")), key=_rank)
    shown = list(runs)[:MOST_CURVES]
    panels = [_panel(tag, known[known["tag"] == tag], shown) for tag in tags[:MOST_PANELS]]
    left_out = []
    if len(tags) > MOST_PANELS:
        left_out.append(f"The table lists {words.plural(len(tags) - MOST_PANELS, 'other curve')}.")
    if len(runs) > MOST_CURVES:
        left_out.append(f"Shown are the first {MOST_CURVES} of {len(runs)} runs.")
    legend = [(f"c{place}", name) for place, name in enumerate(shown)]
    return Lines(panels, legend, left_out=" ".join(left_out))


def _panel(tag: str, table: pd.DataFrame, runs: Sequence[str]) -> Panel:
    x = Scale.of_numbers(table["step"].astype(float).tolist(), zero=not tag.startswith("rounds/"))
    shares = tag.startswith("rounds/")
    values = table["value"].tolist()
    y = Scale.of_shares(values) if shares else Scale.of_numbers(values)
    curves, ends_at = [], []
    for place, name in enumerate(runs):
        one = table[table["run"] == name].sort_values("step")
        if not len(one):
            continue
        points = [
            (x.at(step), y.at(value)) for step, value in zip(one["step"], one["value"], strict=True)
        ]
        curves.append(Curve(name, f"c{place}", points))
        last = one["value"].iloc[-1]
        ends_at.append(words.in_percent(last) if shares else words.number(last))
    unit = ", %" if shares else ""
    note = f"last value: {', '.join(ends_at)}"
    across = x.axis("step")
    if shares:
        rounds = sorted(table["step"].unique().tolist())
        across = Axis([(x.at(r), str(r)) for r in rounds[:: 1 + len(rounds) // 10]], "round")
    return Panel(_title(tag) + unit, across, y.axis(), curves, note=note)


def _title(tag: str) -> str:
    """Return the title of a recorded number: `round 2: loss` for `student/round_2/loss`."""
    part, _, name = tag.removeprefix("student/").partition("/")
    if part == "teacher":
        return f"training loss of teacher {words.shorten(name.removesuffix('/loss'), 40)}"
    name = name.replace("_", " ")
    return name if part == "rounds" else f"{part.replace('_', ' ')}: {name}"


def _rank(tag: str) -> tuple[int, str]:
    """Sort the measures of the rounds first and the training of the teachers last."""
    if tag.startswith("teacher/"):
        return len(FIRST_TAGS) + 1, tag
    places = (place for place, start in enumerate(FIRST_TAGS) if tag.startswith(start))
    return next(places, len(FIRST_TAGS)), tag


def _first(table: pd.DataFrame, most: int) -> tuple[pd.DataFrame, str]:
    if len(table) <= most:
        return table, ""
    return table.head(
        most
    ), f"Shown are the first {most} of {len(table)} pairs. The table lists all."
