"""What limits the student: filters, loss, routing and annotations, each measured by a control."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import Bools, Row, rows_of
from cosup.analysis.drawing import Cell, Matrix, View
from cosup.analysis.figure import Excerpt, Figure, require_listed, require_rounds, require_test
from cosup.analysis.records import Run
from cosup.metrics import paired_comparison
from cosup.seeds import seed_for
from cosup.words import either, known, listed, points, span

__all__ = ["LIMITS_FIGURE", "NOT_RUN", "largest_limit", "limits_table"]

ROUTED = ("oracle_assignment", "loss_oracle")
"""The controls that show what perfect routing gives."""
LIMITS = ("filters", "loss", "routing", "annotations")
NOT_RUN = ": not run"
"""The end of `missing` where a control was not run."""


@dataclass(frozen=True)
class _Measured:
    """Two supervisions whose difference is the effect of a limit. over: "" is the student."""

    limit: str
    control: str
    over: str = ""


def limits_table(run: Run) -> pd.DataFrame:
    """Make the table of limits, a row for each of filters, loss, routing and annotations.

    Columns: limit, control (the supervision without this limit), over (what it is compared with:
    the student, or the control with perfect routing), accuracy (of `control`), gain, low, high (its
    paired difference to `over`, with the 95 % interval), missing (why it is not measured, or "").

    filters: `no_filter` over the student. loss: `plain_loss` over the student. routing: the better
    of `oracle_assignment` and `loss_oracle` over the student. annotations: the ceiling over perfect
    routing, or over the student where perfect routing is not better.
    """
    require_rounds(run)
    require_test(run)
    require_listed(run)
    right = {name: run.correct("control", name) for name in run.controls}
    right[""] = run.correct("student", "student")
    groups = run.test["group"].to_numpy()
    seed = seed_for(int(run.config["run"]["seed"]), "bootstrap")
    rows = []
    for limit, found in zip(LIMITS, _measured(run, right), strict=True):
        row: dict[str, Any] = {"limit": limit, "control": "", "over": "", "accuracy": np.nan}
        row |= dict.fromkeys(("gain", "low", "high"), np.nan)
        if isinstance(found, str):
            rows.append(row | {"missing": found})
            continue
        better = right[found.control]
        gain = paired_comparison(better, right[found.over], groups, seed=seed)
        row |= {"control": found.control, "over": found.over or "student"}
        row |= {"accuracy": float(better.mean()), "gain": gain.difference}
        rows.append(row | {"low": gain.low, "high": gain.high, "missing": ""})
    return pd.DataFrame(rows)


def _measured(run: Run, right: dict[str, Bools]) -> Iterator[_Measured | str]:
    """Yield how each limit is measured, or the reason why it is not."""
    absent = run.summary.get("controls_absent", {})
    for limit, control in (("filters", "no_filter"), ("loss", "plain_loss")):
        if control in right:
            yield _Measured(limit, control)
        else:
            yield absent.get(control) or _pointless(run, limit) or _not_run([control])
    routed = max(
        (name for name in ROUTED if name in right), key=lambda n: right[n].mean(), default=""
    )
    no_routing = next(iter(absent[name] for name in ROUTED if name in absent), _not_run(ROUTED))
    yield _Measured("routing", routed) if routed else no_routing
    if "ceiling" not in right:
        yield absent.get("ceiling") or _not_run(["ceiling"])
    elif not routed:
        yield no_routing
    else:
        better = right[routed].mean() > right[""].mean()
        yield _Measured("annotations", "ceiling", routed if better else "")


def _pointless(run: Run, limit: str) -> str:
    """Return why the run has no such limit, or ""."""
    rounds = run.config["rounds"]
    if limit == "filters":
        return "" if rounds["consistency"] else "the run has no filter"
    return "it is cross-entropy" if rounds["loss"]["name"] == "cross_entropy" else ""


def _not_run(names: tuple[str, ...] | list[str]) -> str:
    return f"{either(names)}{NOT_RUN}"


def largest_limit(table: pd.DataFrame) -> Row | None:
    """Return the limit whose removal gains most, of those that gain more than noise."""
    found = [row for row in rows_of(table) if known(row["gain"]) and row["low"] > 0]
    return max(found, key=lambda row: float(row["gain"]), default=None)


def limits_sentence(run: Run, table: pd.DataFrame) -> str:
    """State the effect of each limit, and which are not measured."""
    measured = [row for row in rows_of(table) if not row["missing"]]
    texts = [
        f"{row['limit']} {points(row['gain'], signed=True)} ({span(row['low'], row['high'])})"
        for row in measured
    ]
    lacking = [f"{row['limit']} ({row['missing']})" for row in rows_of(table) if row["missing"]]
    text = f"What the student would gain without each limit: {listed(texts)}. " if texts else ""
    number = f"{len(lacking)} of {len(table)} limits are not measured: {listed(lacking)}."
    return f"{text}{number if lacking else ''}".strip()


def draw_limits(table: pd.DataFrame) -> list[View]:
    """Draw a row for each limit."""
    columns = ["accuracy without it, %", "gain, points", "95 % CI", "measured by"]
    return [
        Matrix(
            [str(row["limit"]) for row in rows_of(table)],
            columns,
            [_cells(row) for row in rows_of(table)],
            "limit",
            "measure",
            style="measures",
        )
    ]


def _cells(row: Row) -> list[Cell]:
    measured = row["missing"] or f"{row['control']} over {row['over']}"
    texts = [
        words.in_percent(row["accuracy"]),
        words.in_points(row["gain"]) if known(row["gain"]) else words.NONE,
        words.interval(row["low"], row["high"], words.in_points) or words.NONE,
        measured.replace("_", " "),
    ]
    return [Cell(None, text, f"{row['limit']}: {text}") for text in texts]


LIMITS_FIGURE = Figure(
    "limits",
    "What limits the student",
    limits_table,
    limits_sentence,
    draw_limits,
    "Each limit is removed by a control on the same test samples. Routing and annotations need the "
    "true labels, so they are bounds; filters and loss are settings.",
    Excerpt(("limit", "control", "over", "accuracy", "gain", "low", "high", "missing")),
)
