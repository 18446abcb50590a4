"""One picture of a run: what each supervision reached, and which teacher taught which samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cosup.files import write_atomic

GREY, BLUE, PALE = "#8c939c", "#1f5fa8", "#c9ced6"
MOST_COLUMNS = 40


def draw_overview(summary: Mapping[str, Any], decisions: pd.DataFrame, path: Path) -> None:
    """Write a PNG: bars of test accuracy, and a map of the last round's assignment.

    decisions: that round's table. The map shows, per true domain (or class, where there is one
    domain), the share of samples that each teacher was assigned; a column sums to 1.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    bars, routes = figure.subplots(1, 2, width_ratios=[1.15, 1])
    _draw_bars(bars, summary)
    _draw_routes(routes, decisions)
    write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))


def _draw_bars(axes: Axes, summary: Mapping[str, Any]) -> None:
    rows = [(f"teacher {t['name']}", t["accuracy"], PALE) for t in summary["teachers"]]
    own = ("student (cosup)", summary["student"]["accuracy"], BLUE)
    controls = [
        (name.replace("_", " "), numbers["accuracy"], GREY)
        for name, numbers in summary["controls"].items()
    ]
    rows += sorted([own, *controls], key=lambda row: row[1])
    names, values, colours = zip(*rows, strict=True)
    places = np.arange(len(rows))[::-1]
    axes.barh(places, [100 * value for value in values], color=colours, height=0.7)
    for place, value in zip(places, values, strict=True):
        axes.text(100 * value + 0.8, place, f"{100 * value:.1f}", va="center", fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.set_xlim(0, min(112, 100 * max(values) + 12))
    axes.set_xlabel(f"accuracy {summary['measured']}, %", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{summary['run']}: what each supervision reached", fontsize=9, loc="left")


def _draw_routes(axes: Axes, decisions: pd.DataFrame) -> None:
    by = "domain" if decisions["domain"].nunique() > 1 else "true_label"
    known = decisions[decisions[by].notna()]
    share = pd.crosstab(known["assigned_teacher"], known[by], normalize="columns", dropna=False)
    share = share.iloc[:, :MOST_COLUMNS]
    axes.imshow(share.to_numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(share.shape[1]), [str(name) for name in share.columns], fontsize=8)
    axes.set_yticks(range(share.shape[0]), [str(name) for name in share.index], fontsize=8)
    if share.shape[1] > 6:
        axes.tick_params(axis="x", rotation=60)
    if share.size <= 80:
        for (row, column), value in np.ndenumerate(share.to_numpy()):
            colour = "white" if value > 0.5 else "black"
            text = f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    kind = "domain" if by == "domain" else "true class"
    axes.set_xlabel(kind, fontsize=8)
    # A soft assignment is shown by the teacher with the most weight, and says so.
    soft = bool((decisions["assignment_weight"] < 0.999).any())
    sent = "whose most weighted teacher is this" if soft else "sent to each teacher"
    axes.set_title(f"share of each {kind} {sent}, last round", fontsize=9, loc="left")
