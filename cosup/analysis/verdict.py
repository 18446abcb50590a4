"""The result of a run in sentences, each with its number and its 95 % interval."""

from collections.abc import Iterator, Mapping
from typing import Any

from cosup.analysis.alternatives import Rows, overview_rows
from cosup.analysis.arrays import Row, Tables, row_at
from cosup.analysis.filters import ALL_FILTERS
from cosup.analysis.headline import what_to_use, why
from cosup.analysis.labels import label_sentence
from cosup.analysis.records import Run
from cosup.analysis.results import is_significant
from cosup.analysis.review import review_sentences
from cosup.analysis.sources import source_sentences
from cosup.analysis.unmeasured import unmeasured_sentences
from cosup.controls import CONTROLS
from cosup.words import known, listed, percent, points, span

__all__ = ["verdict", "verdict_parts"]


def verdict(run: Run, tables: Tables) -> list[str]:
    """Return sentences on what to use, on why the student falls short or what limits it, and more.

    If records are missing, the first sentence says so. The next two are what a run prints at its
    end. A difference is significant if its 95 % interval (paired bootstrap over the groups of test
    samples) excludes 0. The intervals are not corrected for the number of comparisons.
    """
    sentences = []
    if run.missing:
        problem = "The records are incomplete" if run.finished else "The run is not finished"
        sentences.append(f"{problem}. Missing: {listed(run.missing, 6)}.")
    if run.rounds and not run.measured:
        found = (unmeasured_sentences, _judges, source_sentences, review_sentences)
        return [*sentences, *(sentence for find in found for sentence in find(run))]
    if "overview" not in tables:
        return sentences or ["The run has no result yet."]
    rows = overview_rows(tables)
    sentences.append(what_to_use(run, rows))
    sentences.append(why(run, rows, tables))
    sentences += _comparisons(run, tables)
    sentences.append(_pgr_sentence(run, rows))
    sentences += _rounds(run, rows, tables)
    sentences += source_sentences(run)
    sentences += filter(None, [label_sentence(run)])
    sentences += review_sentences(run)
    return sentences


def verdict_parts(run: Run, tables: Tables) -> tuple[list[str], list[str]]:
    """Return the sentences of the verdict without the one on missing records, which a report has as
    a warning, and apart from them those that compare the student with each control."""
    compared = list(_comparisons(run, tables)) if run.measured else []
    sentences = verdict(run, tables)[bool(run.missing) :]
    return [line for line in sentences if line not in compared], compared


def _comparisons(run: Run, tables: Tables) -> Iterator[str]:
    """Compare the student with the best teacher and each control that is no bound."""
    rows = overview_rows(tables)
    if not rows:
        return
    floor = run.prepared["floor"]["teacher"]
    row = rows.get(("teacher", floor))
    if row is not None and not known(row["accuracy"]):
        yield f"The best single teacher, {floor}, answers no test sample."
    elif row is not None:
        part = (
            "" if row.get("coverage", 1.0) == 1 else f" of the {percent(row['coverage'])} answered"
        )
        yield _comparison(row, "the best single teacher", f"{floor}, ", part)
    for control in CONTROLS.values():
        if not control.is_bound and ("control", control.name) in rows:
            yield _comparison(rows["control", control.name], control.sentence)


def _comparison(row: Row, phrase: str, detail: str = "", part: str = "") -> str:
    other = f"{phrase} ({detail}{percent(row['accuracy'])}{part})"
    interval = f"95 % CI {span(row['gain_low'], row['gain_high'])}"
    if not is_significant(row):
        gain = points(row["gain"], signed=True)
        return f"The student does not differ significantly from {other}: {gain} ({interval})."
    verb = "outperforms" if row["gain"] > 0 else "underperforms"
    return f"The student {verb} {other} by {points(abs(row['gain']))} ({interval})."


def _pgr_sentence(run: Run, rows: Rows) -> str:
    """State the performance gap recovered, or why it is not defined."""
    floor = rows.get(("teacher", run.prepared["floor"]["teacher"]))
    ceiling = rows.get(("control", "ceiling"))
    if ceiling is None or floor is None:
        reason = run.summary.get("controls_absent", {}).get("ceiling")
        if reason:
            return f"The performance gap recovered (PGR) is not given: {reason}."
        return "The performance gap recovered (PGR) is not defined without the control ceiling."
    low, high = percent(floor["accuracy"]), percent(ceiling["accuracy"])
    value = rows["student", "student"]["pgr"]
    numbers = run.summary.get("student", {})
    interval = numbers.get("pgr_ci95")
    if not known(value) or (run.finished and interval is None):
        reason = numbers.get("pgr_reason") or _no_pgr(low, high)
        return f"The performance gap recovered (PGR) is not given: {reason}."
    shown = f" (95 % CI {span(*interval)} %)" if interval else ""
    below = "The student is below the floor: the" if value < 0 else "The"
    text = (
        f"{below} performance gap recovered (PGR) is {percent(value)}{shown}, between a floor of "
        f"{low} and a ceiling of {high}."
    )
    team = numbers.get("pgr_team") or {}
    if team.get("value") is None:
        return text
    return f"{text} With the team as the floor it is {percent(team['value'])} ({_ci(team)})."


def _ci(numbers: Mapping[str, Any]) -> str:
    return f"95 % CI {span(*numbers['ci95'])} %" if numbers.get("ci95") else "without an interval"


def _no_pgr(low: str, high: str) -> str:
    return f"the ceiling ({high}) is not above the floor ({low}) by more than noise"


def _rounds(run: Run, rows: Rows, tables: Tables) -> Iterator[str]:
    """Describe routing, annotations and filters of the last round."""
    last = row_at(tables["rounds"], -1) if "rounds" in tables else None
    if last is not None and known(last["assignment_accuracy"]):
        yield (
            f"Routing: in the last round {percent(last['assignment_accuracy'])} of the weight on "
            "specialists was on those whose scope contains the sample."
        )
    if last is not None and known(last["annotation_accuracy"]):
        choice = ""
        if known(last.get("best_choice")):
            choice = f" (by the best choice per sample: {percent(last['best_choice'])})"
        yield (
            f"Annotations: {percent(last['annotation_accuracy'])} of the assigned annotations are "
            f"correct{choice}{_kept(last)}."
        )
    elif last is not None:
        yield (
            "No true label of student_train is known. Routing, annotations and filters cannot be "
            "evaluated."
        )
    yield from _filters(tables)
    yield from _judges(run)
    oracle = rows.get(("control", "oracle_assignment"))
    if oracle is None:
        return
    others = [row for (_, who), row in rows.items() if who in CONTROLS and CONTROLS[who].is_taught]
    best = max([*others, rows["student", "student"]], key=lambda row: float(row["accuracy"]))
    if best["accuracy"] > oracle["accuracy"]:
        yield (
            f"Oracle routing by scope ({percent(oracle['accuracy'])}) is no bound here: a student "
            f"taught by the same sources reaches {percent(best['accuracy'])}. Scopes do not say "
            "which source is right; loss_oracle bounds what routing can give."
        )


def _judges(run: Run) -> Iterator[str]:
    """Tell filters whose judge, by estimates without labels, is weaker than what it judges."""
    if not run.config["rounds"].get("consistency"):
        return
    for number in run.rounds:
        judge = run.stages[f"round-{number}"].get("judge") or {}
        student, judged = judge.get("student"), judge.get("annotations")
        if student is not None and judged is not None and student < judged:
            yield (
                f"The filters of round {number} compare with a student that is weaker than what it "
                f"judges: by estimates without labels {percent(student)} of its answers are right, "
                f"and {percent(judged)} of the annotations."
            )


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
