"""Whether a run helped, in a few words: the first tile of its page, the first line at its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cosup.analysis.alternatives import (
    best_single_source,
    how_to_use,
    overview_rows,
    phrase,
    to_use,
)
from cosup.analysis.arrays import Row, Tables
from cosup.analysis.records import Run
from cosup.analysis.results import is_significant
from cosup.analysis.unmeasured import NOTHING_MEASURED
from cosup.controls import PAIR
from cosup.metrics import paired_comparison
from cosup.seeds import seed_for
from cosup.words import percent, plural, points, span

__all__ = ["Answer", "Outcome", "outcome", "outcome_over_seeds"]

Answer = Literal["helped", "surpassed", "noise", "no", "unmeasured"]
"""helped: the student, alone or together with its teachers, is above the best single source.
surpassed: so it is, but something simpler is above the student. noise: no difference to the best
single source. no: something simpler is better, or the student is below the best single source."""


@dataclass(frozen=True)
class Outcome:
    """Whether a run helped. headline: in a few words. detail: the numbers behind it."""

    answer: Answer
    headline: str
    detail: str


def outcome(run: Run, tables: Tables) -> Outcome | None:
    """Return whether a run helped; None if it has no result yet.

    The student is compared with the best single source (`best_single_source`). A difference counts
    if its 95 % interval excludes 0. Without a test split, the answers of a review decide, if there
    are any.
    """
    if run.rounds and not run.measured:
        return _unmeasured(run)
    rows = overview_rows(tables)
    source = best_single_source(rows)
    if not rows or source is None:
        return None
    best = to_use(run, rows)
    over = f"the best single source, {phrase(run, source)}"
    numbers = _against(rows["student", "student"], source)
    if is_significant(source) and source["gain"] > 0:
        return _above(run, source, best, numbers)
    together = _together(run, source)
    if together is not None and together.low > 0:
        return Outcome(
            "helped",
            f"Helped: {points(together.gain, signed=True)} over the best single source",
            f"The student together with its teachers against {phrase(run, source)}: "
            f"{together.numbers}.",
        )
    if best["kind"] != "student" and best["who"] != PAIR:
        advice = how_to_use(run, best).partition(" (")[0]
        below = "below" if is_significant(source) else "within noise of"
        return Outcome(
            "no",
            f"No: {advice[0].lower()}{advice[1:]}",
            f"The student is {below} {over}: {numbers}.",
        )
    who = "The student"
    if together is not None and best["who"] == PAIR:
        who, numbers = "The student together with its teachers", together.numbers
    return Outcome("noise", "Within noise", f"{who} is within noise of {over}: {numbers}.")


def _above(run: Run, source: Row, best: Row, numbers: str) -> Outcome:
    """Return that the student helped, and what is above it all the same."""
    helped = f"Helped: {points(source['gain'], signed=True)} over the best single source"
    detail = f"The student against {phrase(run, source)}: {numbers}."
    if best["kind"] == "student" or best["who"] == PAIR:
        return Outcome("helped", helped, detail)
    better = phrase(run, best)
    more = (
        f"{better[0].upper()}{better[1:]} gives {points(-best['gain'])} more "
        f"(95 % CI {span(-best['gain_high'], -best['gain_low'])})."
    )
    return Outcome("surpassed", f"{helped}, but not best", f"{detail} {more}")


def _against(student: Row, other: Row) -> str:
    """Return both accuracies, and the difference with its interval."""
    return (
        f"{percent(student['accuracy'])} right and {percent(other['accuracy'])}, "
        f"{points(other['gain'], signed=True)}{_where(other)} "
        f"(95 % CI {span(other['gain_low'], other['gain_high'])})"
    )


def _where(source: Row) -> str:
    """Return that a difference is measured where a source answers, if it does not everywhere."""
    return " where it answers" if source.get("coverage", 1.0) < 1 else ""


@dataclass(frozen=True)
class _Together:
    """The student together with its teachers against a source, where that answers."""

    gain: float
    low: float
    numbers: str


def _together(run: Run, source: Row) -> _Together | None:
    """Compare the student together with its teachers with a source; None without this control."""
    if PAIR not in run.controls:
        return None
    who = str(source["who"])
    answered = run.answered("teacher", who).label >= 0
    both, alone = run.correct("control", PAIR)[answered], run.correct("teacher", who)[answered]
    seed = seed_for(int(run.config["run"]["seed"]), "bootstrap")
    found = paired_comparison(both, alone, run.test["group"].to_numpy()[answered], seed=seed)
    numbers = (
        f"{percent(float(both.mean()))} right and {percent(float(alone.mean()))}"
        f"{_where(source)}, {points(found.difference, signed=True)} "
        f"(95 % CI {span(found.low, found.high)})"
    )
    return _Together(found.difference, found.low, numbers)


def _unmeasured(run: Run) -> Outcome:
    """Return what a review says of a run without a test split, or that nothing does."""
    file = run.files.review.estimates
    told = _reviewed(file.read()) if file.exists() else None
    return told or Outcome(
        "unmeasured",
        "Not measured: label 100 images",
        NOTHING_MEASURED,
    )


def _reviewed(found: dict[str, Any]) -> Outcome | None:
    """Return whether the student is above the best source by the answers of a review."""
    *sources, student = found["sources"]
    known = [one for one in sources if one["lead"] is not None]
    if student["share"] is None or not known:
        return None
    best = max(known, key=lambda one: float(one["share"]))
    lead, low, high = best["lead"], best["lead_low"], best["lead_high"]
    detail = (
        f"By {plural(found['answers'], 'reviewed image')}: the student is right on "
        f"{percent(student['share'])} of student_train, {best['name']}, the best source, on "
        f"{percent(best['share'])} of what it answers; {points(lead, signed=True)} where both "
        f"answer (95 % CI {span(low, high)})."
    )
    if low <= 0 <= high:
        return Outcome("noise", "Within noise", detail)
    if lead < 0:
        return Outcome("no", f"No: use {best['name']}", detail)
    text = f"Helped: {points(lead, signed=True)} over the best single source"
    return Outcome("helped", text, detail)


def outcome_over_seeds(found: Sequence[Mapping[str, Any]]) -> Outcome:
    """Return what the outcomes of several seeds, as in their summaries, are together."""
    answers = [str(one["answer"]) for one in found]
    helped = sum(answer in ("helped", "surpassed") for answer in answers)
    detail = " ".join(f"{one['headline']}." for one in found)
    if len(set(answers)) == 1 and not helped:
        return Outcome(found[0]["answer"], found[0]["headline"], detail)
    answer: Answer = "helped" if helped == len(found) else "noise"
    return Outcome(answer, f"Helped on {helped} of {plural(len(found), 'seed')}", detail)
