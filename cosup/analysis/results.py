"""Who reaches what on the samples that measure: student, controls, teachers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cosup.analysis.arrays import Teacher
from cosup.analysis.base import categories, mean, need_samples, need_student
from cosup.analysis.records import Run
from cosup.metrics import mcnemar, pgr, shares
from cosup.seeds import seed_for

SHOWN = 5
"""Names that a scope is written with before "and N more"."""


def overview_table(run: Run) -> pd.DataFrame:
    """A row for the student, each control, and each teacher.

    who, kind (student, control, teacher), accuracy, low, high (its 95 % interval), pgr (null
    without floor and ceiling), gain (the student's accuracy less this one's), gain_low, gain_high,
    p_value (exact McNemar test of the two on single samples). Intervals are bootstraps over groups
    (`cosup.metrics`), with the draws of `summary.json`.
    """
    need_student(run)
    everybody = [(kind, who) for kind, who in run.predictors() if kind != "round"]
    right = np.stack([run.correct(kind, who) for kind, who in everybody], axis=1)
    seed = seed_for(int(run.config["run"]["seed"]), "bootstrap")
    found = shares(right, run.test["group"].to_numpy(), seed=seed)
    student = right[:, 0]
    accuracy = dict(zip(everybody, found.mean.tolist(), strict=True))
    return pd.DataFrame(
        {
            "who": [who for _, who in everybody],
            "kind": pd.Categorical(
                [kind for kind, _ in everybody], categories=["student", "control", "teacher"]
            ),
            "accuracy": found.mean,
            "low": found.low,
            "high": found.high,
            "pgr": _pgr(run, accuracy),
            "gain": found.gain,
            "gain_low": found.gain_low,
            "gain_high": found.gain_high,
            "p_value": [
                mcnemar(int((student & ~other).sum()), int((other & ~student).sum()))
                for other in right.T
            ],
        }
    )


def _pgr(run: Run, accuracy: dict[tuple[str, str], float]) -> list[float | None]:
    floor = accuracy.get(("teacher", run.prepared["floor"]["teacher"]))
    ceiling = accuracy.get(("control", "ceiling"))
    if floor is None or ceiling is None:
        return [float("nan")] * len(accuracy)
    found = [pgr(floor, value, ceiling) for value in accuracy.values()]
    return [float("nan") if value is None else value for value in found]


def teachers_table(run: Run) -> pd.DataFrame:
    """A row per teacher of the hierarchy, level by level.

    teacher, level, kind, scope (in words), parent (the teacher of the level above whose scope
    holds this one's; null without one), steps, accuracy (on what measures), accuracy_inside and
    accuracy_outside of its scope with samples_inside and samples_outside (null in few-shot runs:
    nobody has learnt those classes), abstains (share of what measures).
    """
    need_samples(run)
    known = None if run.few_shot else run.holds(run.test)
    rows = []
    for place, teacher in enumerate(run.teachers):
        right = run.correct("teacher", teacher.name)
        inside = None if known is None else known[:, place]
        rows.append(
            {
                "teacher": teacher.name,
                "level": teacher.level,
                "kind": teacher.kind,
                "scope": scope_words(teacher, run.classes, run.domains),
                "parent": _parent(teacher, run),
                "steps": teacher.steps,
                "accuracy": mean(right),
                "accuracy_inside": np.nan if inside is None else mean(right, inside),
                "accuracy_outside": np.nan if inside is None else mean(right, ~inside),
                "samples_inside": None if inside is None else int(inside.sum()),
                "samples_outside": None if inside is None else int((~inside).sum()),
                "abstains": mean(run.answered("teacher", teacher.name).label < 0),
            }
        )
    table = pd.DataFrame(rows).astype({"samples_inside": "Int64", "samples_outside": "Int64"})
    names = run.teacher_names
    table["teacher"] = categories(np.arange(len(names)), names)
    place_of = {name: number for number, name in enumerate(names)}
    parents = [place_of.get(name, -1) for name in table["parent"]]
    table["parent"] = categories(np.array(parents), names)
    return table


def _parent(teacher: Teacher, run: Run) -> str | None:
    """The narrowest teacher of the level above whose scope holds all of this one's."""
    above = [other for other in run.teachers if other.level == teacher.level - 1]
    holding = [
        other
        for other in above
        if _within(teacher.classes, other.classes) and _within(teacher.domains, other.domains)
    ]
    sizes = [
        len(other.classes or run.classes) * len(other.domains or run.domains) for other in holding
    ]
    return holding[int(np.argmin(sizes))].name if holding else None


def _within(part: Sequence[int] | None, whole: Sequence[int] | None) -> bool:
    return whole is None or (part is not None and set(part) <= set(whole))


def scope_words(teacher: Teacher, classes: list[str], domains: list[str]) -> str:
    """A scope in words: "all", "domain rot30", "classes 0-4", "classes cat, dog; domain photo"."""
    parts = []
    for indices, names, one, several in (
        (teacher.classes, classes, "class", "classes"),
        (teacher.domains, domains, "domain", "domains"),
    ):
        if indices is not None:
            chosen = [names[index] for index in indices]
            parts.append(f"{one if len(chosen) == 1 else several} {_listed(chosen)}")
    return "; ".join(parts) or "all"


def _listed(names: list[str]) -> str:
    if len(names) > 2 and all(name.isascii() and name.isdigit() for name in names):
        numbers = [int(name) for name in names]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return f"{names[0]}-{names[-1]}"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
