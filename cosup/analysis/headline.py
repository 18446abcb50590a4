"""The first two sentences of the verdict, which a run prints at its end: what to use, and why."""

from cosup.analysis.alternatives import (
    Rows,
    alternatives,
    best_alternative,
    best_single_source,
    how_to_use,
    is_table,
    phrase,
)
from cosup.analysis.arrays import Row, Tables, rows_of
from cosup.analysis.limits import NOT_RUN, largest_limit
from cosup.analysis.records import Run
from cosup.analysis.results import is_significant
from cosup.controls import PAIR
from cosup.words import listed, percent, points, span

__all__ = ["what_to_use", "why"]

TRY = {
    "filters": "no filters (rounds.consistency: [])",
    "loss": "cross-entropy (rounds.loss: cross_entropy)",
    "routing": "another assigner (rounds.assignment), such as fused",
    "annotations": "better or more sources, or fuse them (rounds.assignment: fused)",
}
"""What to try for each limit."""
STRONGER = "a stronger student (student.backbone, student.training)"
ROUTING = {
    "oracle_assignment": "oracle routing by scope",
    "oracle_without_rounds": "oracle routing by scope, without rounds",
    "loss_oracle": "the least wrong source for each sample",
}
"""What each control with perfect routing is called."""


def what_to_use(run: Run, rows: Rows) -> str:
    """Say what to use, with its accuracy, against the best alternative."""
    student, best = rows["student", "student"], best_alternative(run, rows)
    where = run.prepared["measured"]
    if not run.finished:
        where += f" after round {run.rounds[-1]}"
    if best is None:
        return (
            f"Use the student: {_right(student)} {where}. The run has nothing to compare it with."
        )
    if best["gain"] >= 0 or not is_significant(best):
        return _keep(run, student, best, where)
    text = (
        f"{how_to_use(run, best)}: {_right(best)} {where}, {points(-best['gain'])} more than the "
        f"student ({percent(student['accuracy'])}; {_reverse(best)})."
    )
    if not is_table(run, best):
        return text
    trained = best_alternative(run, rows, for_new_images=True)
    new = "the student"
    if trained is not None and trained["gain"] < 0 and is_significant(trained):
        new = f"{phrase(run, trained)} ({percent(trained['accuracy'])})"
    return f"{text} For images that {best['who']} has not labelled, use {new}."


def _keep(run: Run, student: Row, best: Row, where: str) -> str:
    """Say to use the student, which nothing beats by more than noise."""
    other, accuracy = phrase(run, best), percent(best["accuracy"])
    gain, interval = points(best["gain"], signed=True), _interval(best)
    if is_significant(best):
        return (
            f"Use the student: {_right(student)} {where}, {gain.lstrip('+')} more than {other}, "
            f"the next best ({accuracy}; {interval})."
        )
    if best["gain"] < 0:
        return (
            f"Use the student or {other}: {_right(student)} and {accuracy} {where}, no difference "
            f"beyond noise ({gain}; {interval})."
        )
    return (
        f"Use the student: {_right(student)} {where}, no more than noise above {other}, the next "
        f"best ({accuracy}; {gain}, {interval})."
    )


def _interval(row: Row) -> str:
    """Return the interval of what the student has more than a row."""
    return f"95 % CI {span(row['gain_low'], row['gain_high'])}"


def _right(row: Row) -> str:
    return f"{percent(row['accuracy'])} right (95 % CI {span(row['low'], row['high'])} %)"


def _reverse(row: Row) -> str:
    """Return the interval of what a row has more than the student."""
    return f"95 % CI {span(-row['gain_high'], -row['gain_low'])}"


def why(run: Run, rows: Rows, tables: Tables) -> str:
    """Say why the student falls short and what to try, or what it gains and what limits it most."""
    others = [row for row in alternatives(rows) if row["who"] != PAIR]  # the student is in it
    above = [row for row in others if row["gain"] < 0 and is_significant(row)]
    limit = largest_limit(tables["limits"]) if "limits" in tables else None
    if not above:
        gain = _gain(run, rows)
        return " ".join(filter(None, [gain, _limit(limit), _lacking(tables)]))
    highest = min(above, key=lambda row: float(row["gain"]))
    other = phrase(run, highest)
    text = (
        f"The student falls short of {other} by {points(-highest['gain'])} ({_reverse(highest)})."
    )
    tries = [] if limit is None else [_try(run, limit)]
    ceiling, source = rows.get(("control", "ceiling")), highest["kind"] == "teacher"
    if source and ceiling is not None and ceiling["accuracy"] <= highest["accuracy"]:
        tries.append(STRONGER)
        text += (
            " The student itself limits it: trained on the true labels it reaches "
            f"{percent(ceiling['accuracy'])}, no more than {other}."
        )
    tried = f"Try {'; and '.join(tries)}." if tries else ""
    return " ".join(filter(None, [text, _limit(limit), tried, _lacking(tables)]))


def _try(run: Run, limit: Row) -> str:
    """Return what to try against a limit."""
    fuses = run.config["rounds"]["assignment"]["name"] == "fused"
    if limit["limit"] in ("annotations", "routing") and fuses:
        return "better or more sources"
    return TRY[limit["limit"]]


def _gain(run: Run, rows: Rows) -> str:
    """Say what the student gains over the best single source."""
    best = best_single_source(rows)
    if best is None:
        return ""
    gain, other = points(best["gain"], signed=True), phrase(run, best)
    if is_significant(best):
        return (
            f"The student gains {gain.lstrip('+')} over the best single source, {other} "
            f"({percent(best['accuracy'])}; {_interval(best)})."
        )
    return f"The student does not gain over {other} by more than noise ({gain}; {_interval(best)})."


def _limit(limit: Row | None) -> str:
    """Name the largest measured limit, and what the student reaches without it."""
    if limit is None:
        return "Nothing that was measured limits it by more than noise."
    cause, way = {
        "filters": ("its filters cost most", "without them"),
        "loss": ("its loss costs most", "with cross-entropy"),
        "routing": ("routing limits it most", f"with {ROUTING.get(limit['control'], '')}"),
        "annotations": ("wrong annotations limit it most", "with true labels"),
    }[limit["limit"]]
    than = f" than with {ROUTING[limit['over']]}" if limit["over"] in ROUTING else ""
    return (
        f"Of what was measured {cause}: {way} it reaches {percent(limit['accuracy'])} "
        f"({points(limit['gain'])} more{than}, 95 % CI {span(limit['low'], limit['high'])})."
    )


def _lacking(tables: Tables) -> str:
    """Name the controls that a complete answer lacks."""
    rows = rows_of(tables["limits"]) if "limits" in tables else []
    reasons = [str(row["missing"]) for row in rows]
    lacking = [text for text in reasons if text.endswith(NOT_RUN)]
    names = dict.fromkeys(text.removesuffix(NOT_RUN) for text in lacking)
    return f"Controls that were not run could say more: {listed(names)}." if names else ""
