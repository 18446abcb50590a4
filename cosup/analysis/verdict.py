"""The result of a run in sentences, each with its number and its 95 % interval."""

from collections.abc import Iterator, Mapping

from cosup.analysis.arrays import Row, Tables, row_at, rows_of
from cosup.analysis.filters import ALL_FILTERS
from cosup.analysis.records import Run
from cosup.analysis.results import is_significant
from cosup.controls import CONTROLS
from cosup.words import known, listed, percent, points, span

__all__ = ["verdict"]

Rows = Mapping[tuple[str, str], Row]
"""Rows of the overview by (kind, who)."""


def verdict(run: Run, tables: Tables) -> list[str]:
    """Return sentences on whether co-supervision helped, and on what limits it.

    A difference is significant if its 95 % interval (paired bootstrap over the groups of test
    samples) excludes 0. The intervals are not corrected for the number of comparisons.
    """
    sentences = []
    if run.missing:
        problem = "The records are incomplete" if run.finished else "The run is not finished"
        sentences.append(f"{problem}. Missing: {listed(run.missing, 6)}.")
    if "overview" not in tables:
        return sentences or ["The run has no result yet."]
    rows = {(row["kind"], row["who"]): row for row in rows_of(tables["overview"])}
    sentences += _comparisons(run, rows)
    sentences.append(_pgr_sentence(run, rows))
    sentences += _limits(rows, tables)
    return sentences


def _comparisons(run: Run, rows: Rows) -> Iterator[str]:
    """Compare the student with the best teacher and each baseline."""
    student = rows["student", "student"]
    last = "" if run.finished else f" after round {run.rounds[-1]}"
    yield (
        f"The co-supervised student reaches an accuracy of {percent(student['accuracy'])} "
        f"{run.prepared['measured']}{last} (95 % CI {span(student['low'], student['high'])} %)."
    )
    floor = run.prepared["floor"]["teacher"]
    if ("teacher", floor) in rows:
        yield _comparison(rows["teacher", floor], "the best single teacher", f"{floor}, ")
    for control in CONTROLS.values():
        if not control.is_bound and ("control", control.name) in rows:
            yield _comparison(rows["control", control.name], control.sentence)


def _comparison(row: Row, phrase: str, detail: str = "") -> str:
    other = f"{phrase} ({detail}{percent(row['accuracy'])})"
    interval = f"95 % CI {span(row['gain_low'], row['gain_high'])}"
    if not is_significant(row):
        gain = points(row["gain"], signed=True)
        return f"It does not differ significantly from {other}: {gain} ({interval})."
    verb = "outperforms" if row["gain"] > 0 else "underperforms"
    return f"It {verb} {other} by {points(abs(row['gain']))} ({interval})."


def _pgr_sentence(run: Run, rows: Rows) -> str:
    """State the performance gap recovered, or why it is not defined."""
    floor = rows.get(("teacher", run.prepared["floor"]["teacher"]))
    ceiling = rows.get(("control", "ceiling"))
    if ceiling is None or floor is None:
        return "The performance gap recovered (PGR) is not defined without the control ceiling."
    low, high = percent(floor["accuracy"]), percent(ceiling["accuracy"])
    value = rows["student", "student"]["pgr"]
    if not known(value):
        return (
            "The performance gap recovered (PGR) is not defined, because the ceiling "
            f"({high}) is not above the floor ({low})."
        )
    interval = run.summary.get("student", {}).get("pgr_ci95")
    shown = f"95 % CI {span(*interval)} %" if interval else "the gap is too small for an interval"
    return (
        f"The performance gap recovered (PGR) is {percent(value)} ({shown}), between a floor of "
        f"{low} and a ceiling of {high}."
    )


def _limits(rows: Rows, tables: Tables) -> Iterator[str]:
    """Describe routing, annotations and filters, and which of them limits the student."""
    last = row_at(tables["rounds"], -1) if "rounds" in tables else None
    oracle, ceiling = rows.get(("control", "oracle_assignment")), rows.get(("control", "ceiling"))
    if last is not None and known(last["assignment_accuracy"]):
        unit = "assignment weight went" if last["soft"] else "samples were assigned"
        yield (
            f"Routing: in the last round {percent(last['assignment_accuracy'])} of the {unit} to "
            f"in-scope teachers.{_oracle_sentence(oracle)}"
        )
    if last is not None and known(last["annotation_accuracy"]):
        yield (
            f"Annotations: {percent(last['annotation_accuracy'])} of the assigned annotations are "
            f"correct{_kept(last)}."
        )
    elif last is not None:
        yield (
            "No true label of student_train is known. Routing, annotations and filters cannot be "
            "evaluated."
        )
    yield from _filters(tables)
    if ceiling is not None:
        yield _limit_sentence(ceiling, oracle)


def _oracle_sentence(oracle: Row | None) -> str:
    if oracle is None:
        return ""
    interval = f"95 % CI {span(-oracle['gain_high'], -oracle['gain_low'])}"
    difference = f"{points(-oracle['gain'], signed=True)}, {interval}"
    reached = f" With oracle routing the student reaches {percent(oracle['accuracy'])}"
    if is_significant(oracle):
        return f"{reached} ({difference})."
    return f"{reached}, which does not differ significantly ({difference})."


def _kept(last: Row) -> str:
    if last["kept"] == 1:
        return ", and all were kept"
    if not known(last["kept_precision"]):
        return ""
    return f", and {percent(last['kept_precision'])} of those that were kept"


def _filters(tables: Tables) -> Iterator[str]:
    if "filters" not in tables:
        return
    whole = row_at(tables["filters"][tables["filters"]["filter"] == ALL_FILTERS], -1)
    if whole["rejected"] and known(whole["precision"], whole["recall"]):
        yield (
            f"Filters: {percent(whole['share'])} of the annotations were rejected. Of these "
            f"{percent(whole['precision'])} are wrong, and they include {percent(whole['recall'])} "
            "of all wrong annotations."
        )


def _limit_sentence(ceiling: Row, oracle: Row | None) -> str:
    """State what separates the student from the same student trained on true labels."""
    left = -ceiling["gain"]
    interval = f"95 % CI {span(-ceiling['gain_high'], -ceiling['gain_low'])}"
    reached = f"trained on true labels, the same student reaches {percent(ceiling['accuracy'])}"
    difference = f"({points(left, signed=True)}, {interval})"
    if not is_significant(ceiling):
        return f"Limit: {reached}, which does not differ significantly {difference}."
    if left < 0:
        return f"The student exceeds its ceiling: {reached} {difference}."
    if oracle is None:
        return (
            f"Limit: {reached} {difference}. Without the control oracle_assignment the effects of "
            "routing and annotations cannot be separated."
        )
    routing = points(-oracle["gain"], signed=True)
    if is_significant(oracle) and -oracle["gain"] > left / 2:
        return f"Routing is the main limit: {reached} {difference}; oracle routing gains {routing}."
    return (
        f"The quality of the annotations is the main limit: {reached} {difference}, while oracle "
        f"routing changes the accuracy by {routing}."
    )
