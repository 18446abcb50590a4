"""The recipes that `rounds.choose: auto` compared, and the one that it chose."""

from typing import Any

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import Row, rows_of
from cosup.analysis.drawing import Cell, Matrix, View
from cosup.analysis.figure import Excerpt, Figure, Unavailable
from cosup.analysis.records import Run
from cosup.words import known, percent, plural

__all__ = ["CANDIDATES_FIGURE", "candidates_table"]

NOT_CHOSEN = "the config sets the recipe (rounds.choose is null)"


def candidates_table(run: Run) -> pd.DataFrame:
    """Make the table of candidates, a row per recipe, in the order in which they were tried.

    Columns: candidate, settings (of `rounds` that are on, as text), by ("validation",
    "teacher_train" or "score"), samples (that the comparison rests on), accuracy (on those samples;
    null by score), score (without labels; null by accuracy), chosen, rejected (why it was not
    considered, or "").
    """
    choice = run.summary.get("choice")
    if not choice:
        raise Unavailable(NOT_CHOSEN)
    return pd.DataFrame(
        [
            {
                "candidate": one["name"],
                "settings": _settings(one.get("rounds", {})),
                "by": choice["by"],
                "samples": choice.get("samples"),
                "accuracy": _number(one.get("accuracy")),
                "score": _number(one.get("score")),
                "chosen": one["name"] == choice["chosen"],
                "rejected": one.get("rejected") or "",
            }
            for one in choice["candidates"]
        ]
    )


def _settings(rounds: dict[str, Any]) -> str:
    """Return the settings of a recipe as `assignment fused, loss cross_entropy`, without those
    that are off."""
    if not rounds.get("labelled"):
        rounds = {key: value for key, value in rounds.items() if key != "labelled_weight"}
    on = {key: value for key, value in rounds.items() if value is not None and value is not False}
    return ", ".join(f"{key} {_value(value)}" for key, value in on.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", value))
    if isinstance(value, list):
        return " + ".join(map(_value, value)) or "none"
    return words.literal(value) if value is None or isinstance(value, bool) else str(value)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def candidates_sentence(run: Run, table: pd.DataFrame) -> str:
    """Name the chosen recipe, what it was chosen by, and the best of the others."""
    ranked = sorted(rows_of(table), key=_height, reverse=True)
    chosen = next((row for row in ranked if row["chosen"]), None)
    if chosen is None:
        return f"None of {plural(len(table), 'recipe')} was chosen."
    if chosen["by"] == "validation":
        what = f"the accuracy on {plural(int(chosen['samples']), 'sample')} of the validation split"
    elif chosen["by"] == "teacher_train":
        what = (
            f"the accuracy on {plural(int(chosen['samples']), 'labelled sample')} of the teachers"
        )
    else:
        what = "a score that reads no label"
    text = (
        f"Of {plural(len(table), 'recipe')} {chosen['candidate']} was chosen by {what} "
        f"({_measure(chosen)})"
    )
    others = [row for row in ranked if not row["chosen"] and not row["rejected"]]
    if others:
        text += f"; the best of the others is {others[0]['candidate']} ({_measure(others[0])})"
        if _height(others[0]) > _height(chosen):
            text += ", which is not better by more than noise: ties go to the simpler recipe"
    return f"{text}."


def _height(row: Row) -> float:
    for name in ("accuracy", "score"):
        if known(row[name]):
            return float(row[name])
    return float("-inf")


def _measure(row: Row) -> str:
    if known(row["accuracy"]):
        return percent(row["accuracy"])
    return f"score {words.number(row['score'])}"


def draw_candidates(table: pd.DataFrame) -> list[View]:
    """Draw a row for each recipe, the chosen one named so."""
    rows = rows_of(table)
    cells = [
        [
            Cell(float(row["accuracy"]) if known(row["accuracy"]) else None, _measure(row), ""),
            Cell(None, _state(row), ""),
            Cell(None, str(row["settings"]), ""),
        ]
        for row in rows
    ]
    names = [str(row["candidate"]) for row in rows]
    columns = ["accuracy or score", "result", "settings"]
    return [
        Matrix(
            names,
            columns,
            cells,
            "recipe",
            "measure",
            style="measures",
            row_kinds=["student" if row["chosen"] else "" for row in rows],
            column_kinds=["", "text", "text"],
            long_names=True,
        )
    ]


def _state(row: Row) -> str:
    return "chosen" if row["chosen"] else str(row["rejected"])


CANDIDATES_FIGURE = Figure(
    "candidates",
    "Recipes compared by rounds.choose",
    candidates_table,
    candidates_sentence,
    draw_candidates,
    "All heads are trained alike, on the same folds. The test split is not used.",
    Excerpt(("candidate", "settings", "accuracy", "score", "chosen", "rejected")),
    optional=True,
)
