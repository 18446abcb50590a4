"""What a run shows, in plain sentences: each claim with its number and its interval."""

from collections.abc import Iterator, Mapping

import pandas as pd

from cosup.analysis.base import Row, row_of, rows_of
from cosup.analysis.filtering import WHOLE
from cosup.analysis.phrases import known, listed, percent, points, span
from cosup.analysis.records import Run

__all__ = ["verdict"]

Tables = Mapping[str, pd.DataFrame]

TAUGHT = {
    "zero_shot": "the same student before any training, CLIP's zero-shot",
    "equal_budget_generalist": "a student taught by one generalist with all specialists' budget",
    "mean_ensemble": "a student taught by the mean of the teachers",
    "best_teacher": "a student taught by the best teacher alone",
    "self_training": "a student that goes on with its own labels",
    "random_assignment": "the same rounds with teachers drawn at random",
    "given_labels": "a student trained on the labels as they were given",
}
"""The controls that co-supervision must beat, in the order of what they say about it."""


def verdict(run: Run, tables: Tables) -> list[str]:
    """Sentences on whether co-supervision helped, and what limits it.

    A difference is more than noise if its 95 % interval (paired bootstrap over the groups of what
    measures) doesn't hold 0; each interval is its own, not corrected for their number.
    """
    said = []
    if run.missing:
        lead = "The run is not finished" if not run.finished else "Something is missing"
        said.append(f"{lead}: there is no {listed(run.missing, 6)}.")
    if "overview" not in tables:
        return said or ["The run has no result yet."]
    rows = {(row["kind"], row["who"]): row for row in rows_of(tables["overview"])}
    said += _standing(run, rows)
    said += _recovered(run, rows)
    said += _limits(run, rows, tables)
    return said


def more_than_noise(row: Row) -> bool:
    """Does the 95 % interval of the student's gain over this one lie on one side of 0?"""
    return bool(row["gain_low"] > 0 or row["gain_high"] < 0)


def _standing(run: Run, rows: Mapping[tuple[str, str], Row]) -> Iterator[str]:
    student = rows["student", "student"]
    last = "" if run.finished else f" after round {run.rounds[-1]}"
    yield (
        f"The student gets {percent(student['accuracy'])} right {run.prepared['measured']}{last} "
        f"(95 % interval {span(student['low'], student['high'])} %)."
    )
    floor = run.prepared["floor"]["teacher"]
    if ("teacher", floor) in rows:
        yield _compared(rows["teacher", floor], f"the floor, teacher {floor}")
    for name, words in TAUGHT.items():
        if ("control", name) in rows:
            yield _compared(rows["control", name], words)


def _compared(row: Row, words: str) -> str:
    reached = f"{words} ({percent(row['accuracy'])})"
    interval = f"95 % interval {span(row['gain_low'], row['gain_high'])}"
    gain = row["gain"]
    if more_than_noise(row):
        verb = "beats" if gain > 0 else "falls short of"
        return f"It {verb} {reached} by {points(abs(gain))} ({interval}), which is more than noise."
    return (
        f"Beside {reached} it shows {points(gain, signed=True)} ({interval}): no difference that "
        "the test samples can show."
    )


def _recovered(run: Run, rows: Mapping[tuple[str, str], Row]) -> Iterator[str]:
    """The PGR, or why there is none."""
    floor = rows.get(("teacher", run.prepared["floor"]["teacher"]))
    ceiling = rows.get(("control", "ceiling"))
    if ceiling is None or floor is None:
        yield "There is no PGR: without the control ceiling there is no gap to compare with."
        return
    bounds = f"floor {percent(floor['accuracy'])}, ceiling {percent(ceiling['accuracy'])}"
    value = rows["student", "student"]["pgr"]
    if not known(value):
        yield f"There is no PGR: the ceiling is not above the floor ({bounds})."
        return
    interval = run.summary.get("student", {}).get("pgr_ci95")
    shown = (
        f"95 % interval {span(*interval)} %; " if interval else "no interval: the gap is small; "
    )
    yield f"It recovers {percent(value)} of the performance gap (PGR; {shown}{bounds})."


def _limits(run: Run, rows: Mapping[tuple[str, str], Row], tables: Tables) -> Iterator[str]:
    """Routing, annotations, filters, and which of them keeps the student from its ceiling."""
    last = row_of(tables["rounds"], -1) if "rounds" in tables else None
    oracle, ceiling = rows.get(("control", "oracle_assignment")), rows.get(("control", "ceiling"))
    if last is not None and known(last["assignment_accuracy"]):
        what = "of the weight" if last["soft"] else "of the samples"
        text = (
            f"Routing: in the last round {percent(last['assignment_accuracy'])} {what} went to a "
            "teacher whose scope holds the sample"
        )
        yield f"{text}{_perfect(oracle)}."
    if last is not None and known(last["annotation_accuracy"]):
        yield (
            f"Annotations: {percent(last['annotation_accuracy'])} of the assigned ones were right"
            f"{_kept(last)}."
        )
    elif last is not None:
        yield (
            "No true label of student_train is known: which samples were routed, annotated and "
            "rejected rightly can't be said."
        )
    yield from _filtered(tables)
    if ceiling is not None:
        yield _between(ceiling, oracle)


def _perfect(oracle: Row | None) -> str:
    if oracle is None:
        return ""
    interval = f"95 % interval {span(-oracle['gain_high'], -oracle['gain_low'])}"
    text = (
        f"; with teachers chosen by the truth the student reaches {percent(oracle['accuracy'])}, "
        f"{points(-oracle['gain'], signed=True)} ({interval})"
    )
    return text if more_than_noise(oracle) else f"{text}, no difference that the test can show"


def _kept(last: Row) -> str:
    if not known(last["kept_precision"]) or last["kept"] == 1:
        return ", and all were kept" if last["kept"] == 1 else ""
    return f", {percent(last['kept_precision'])} of those that were kept"


def _filtered(tables: Tables) -> Iterator[str]:
    if "filters" not in tables:
        return
    whole = row_of(tables["filters"][tables["filters"]["filter"] == WHOLE], -1)
    if whole["rejected"] and known(whole["precision"], whole["recall"]):
        yield (
            f"Filters: they rejected {percent(whole['share'])} of the annotations; "
            f"{percent(whole['precision'])} of those were wrong, and {percent(whole['recall'])} of "
            "all wrong ones were among them."
        )


def _between(ceiling: Row, oracle: Row | None) -> str:
    """What stands between the student and the same student taught by true labels."""
    left = -ceiling["gain"]
    interval = f"95 % interval {span(-ceiling['gain_high'], -ceiling['gain_low'])}"
    reached = f"true labels would take it to {percent(ceiling['accuracy'])}"
    if not more_than_noise(ceiling):
        return (
            f"What limits it: nothing that the test samples can show; {reached}, "
            f"{points(left, signed=True)} ({interval})."
        )
    if left < 0:
        return (
            f"It is above its ceiling: {reached}, {points(-left)} less (of the difference "
            f"{interval})."
        )
    gap = f"{reached}, {points(left)} more ({interval})"
    if oracle is None:
        return (
            f"What limits it: {gap}; without the control oracle_assignment routing and annotations "
            "can't be told apart."
        )
    routing = -oracle["gain"]
    if more_than_noise(oracle) and routing > left / 2:
        return (
            f"What limits it most is routing: {gap}; perfect routing alone gives {points(routing)}."
        )
    alone = f"perfect routing alone gives {points(routing, signed=True)}"
    return f"What limits it most are the annotations it learns from: {gap}; {alone}."
