"""The result of a run without a test split, in sentences: all of it is estimated without labels."""

from collections.abc import Mapping
from typing import Any

from cosup.analysis.agreement import agreement_sentence
from cosup.analysis.labels import label_sentence
from cosup.analysis.records import Run
from cosup.sources import ENOUGH, STUDENT
from cosup.words import percent, span

__all__ = ["NOTHING_MEASURED", "best_source", "student_is_best", "unmeasured_sentences"]

NOTHING_MEASURED = "There is no test split, so all figures are estimates without labels."


def unmeasured_sentences(run: Run) -> list[str]:
    """Return sentences on what to use, on the labels, and on who agrees; the first two are what a
    run prints at its end."""
    found = [what_to_use(run), label_sentence(run), agreement_sentence(run)]
    return [sentence for sentence in found if sentence]


def what_to_use(run: Run) -> str:
    """Compare the student with the best source, both as estimated."""
    text = NOTHING_MEASURED
    sources = run.summary.get("sources")
    if not sources:
        return f"{text} The estimates are made when the run is finished."
    student, best = sources[STUDENT], best_source(sources)
    if student["reliability"] is None or best is None:
        return f"{text} No source can be judged: nobody else speaks of its samples."
    name, numbers = best
    trained = "" if run.summary["agreement"]["cross_fitted"] else ", on which it was trained"
    if student_is_best(sources):
        return (
            f"{text} Use the student: it has {_right(student)} of student_train right{trained}; "
            f"{name}, the best source, has {_right(numbers)}."
        )
    return (
        f"{text} Use {name}, which has {_right(numbers)} of its samples right; the student has "
        f"{_right(student)}{trained}."
    )


def student_is_best(sources: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the student is right at least as often as the best teacher, by estimate."""
    student, best = sources[STUDENT]["reliability"], best_source(sources)
    return student is not None and best is not None and student >= best[1]["reliability"]


def best_source(sources: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the teacher that is right most often by estimate; None if none can be judged."""
    judged = {
        name: numbers
        for name, numbers in sources.items()
        if name != STUDENT and numbers["reliability"] is not None
    }

    def rank(name: str) -> tuple[bool, float]:
        return judged[name]["coverage"] >= ENOUGH, judged[name]["reliability"]

    name = max(judged, key=rank, default=None)
    return None if name is None else (name, judged[name])


def _right(numbers: Mapping[str, Any]) -> str:
    bounds = numbers["reliability_ci95"]
    interval = f" (95 % CI {span(*bounds)} %)" if bounds else ""
    return f"about {percent(numbers['reliability'])}{interval}"
