"""Which teacher supervises which samples, round by round."""

from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd

from cosup.analysis.arrays import Codes
from cosup.analysis.base import (
    Absent,
    Bools,
    Decided,
    categories,
    counted,
    mean,
    need_rounds,
    ratio,
)
from cosup.analysis.records import Run

MEASURES = (
    "assignment_accuracy",
    "annotation_accuracy",
    "kept",
    "kept_precision",
    "kept_recall",
    "student_accuracy",
)
HARD = 0.999
"""A sample whose largest weight is below this is shared among teachers."""


def rounds_table(run: Run) -> pd.DataFrame:
    """A row per finished round.

    round, level, teachers (how many), assigner, then the round's measures as in `summary.json`
    (null where no label is known): assignment_accuracy, annotation_accuracy, kept, kept_precision,
    kept_recall, student_accuracy; effective_teachers (2 to the entropy), entropy (bits, of the
    shares of samples that the teachers get), changed (share of samples whose teacher is another
    than in the round before; null in the first), soft (are samples shared among teachers? Then a
    sample counts for the one with the most weight).
    """
    rows = []
    before: Decided | None = None
    for now in need_rounds(run):
        stage = run.stages[f"round-{now.number}"]
        entropy = _entropy(np.bincount(now.teacher, minlength=len(run.teachers)))
        weight = run.round(now.number)["assignment_weight"].to_numpy()
        rows.append(
            {
                "round": now.number,
                "level": stage["level"],
                "teachers": len(stage["teachers"]),
                "assigner": stage["assigner"],
                **{name: _number(stage[name]) for name in MEASURES},
                "effective_teachers": 2.0**entropy,
                "entropy": entropy,
                "changed": np.nan if before is None else mean(now.teacher != before.teacher),
                "soft": bool((weight < HARD).any()),
            }
        )
        before = now
    return pd.DataFrame(rows)


def load_table(run: Run) -> pd.DataFrame:
    """A row per round and teacher of its level, those that get no sample too.

    round, level, teacher, samples, share (of all samples), kept (share of its samples),
    annotation_accuracy (of its samples' annotations), kept_accuracy (of those that are kept).
    """
    names, parts = run.teacher_names, []
    for now in need_rounds(run):
        stage = run.stages[f"round-{now.number}"]
        place = np.array([names.index(name) for name in stage["teachers"]])

        count = partial(_count, now.teacher, place)
        samples, everyone = count(now.teacher >= 0), len(now.teacher)
        parts.append(
            pd.DataFrame(
                {
                    "round": now.number,
                    "level": stage["level"],
                    "teacher": categories(place, names),
                    "samples": samples,
                    "share": samples / max(1, everyone),
                    "kept": ratio(count(now.kept), samples),
                    "annotation_accuracy": ratio(count(now.right), count(now.known)),
                    "kept_accuracy": ratio(
                        count(now.right & now.kept), count(now.known & now.kept)
                    ),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def assignment_table(run: Run) -> pd.DataFrame:
    """A row per round, teacher, and domain or true class of which the teacher gets any sample.

    round, teacher, by ("domain", "class"), name, samples, share (of that domain's or class's
    samples, per round), annotation_accuracy (null where no label is known), kept (share). Domains
    are there where there are several, classes where labels are known.
    """
    parts = []
    both = list(dict.fromkeys([*run.domains, *run.classes]))
    for now in need_rounds(run):
        teacher = (now.teacher, run.teacher_names)
        means = {"annotation_accuracy": (now.right, now.known), "kept": (now.kept, None)}
        for by, code, names in (
            ("domain", now.domain, run.domains),
            ("class", now.truth, run.classes),
        ):
            if by == "domain" and len(names) == 1:
                continue
            table = counted({"teacher": teacher, "name": (code, names)}, means)
            total = np.bincount(code[code >= 0], minlength=len(names))
            share = table["samples"] / total[table["name"].cat.codes]
            table.insert(3, "share", share)
            table["name"] = table["name"].cat.set_categories(both)
            table.insert(1, "by", by)
            table.insert(0, "round", now.number)
            parts.append(table)
    table = pd.concat(parts, ignore_index=True)
    table["by"] = pd.Categorical(table["by"], categories=["domain", "class"])
    return table[
        ["round", "teacher", "by", "name", "samples", "share", "annotation_accuracy", "kept"]
    ]


def flow_table(run: Run) -> pd.DataFrame:
    """How many samples go from each teacher of a round to each of the next.

    round, teacher, next_round, next_teacher, samples; pairs that occur alone.
    """
    found, names, parts = need_rounds(run), run.teacher_names, []
    for now, after in pairwise(found):
        table = counted({"teacher": (now.teacher, names), "next_teacher": (after.teacher, names)})
        table.insert(0, "round", now.number)
        table.insert(2, "next_round", after.number)
        parts.append(table)
    if not parts:
        raise Absent("there is one round alone")
    return pd.concat(parts, ignore_index=True)


def _count(teacher: Codes, place: Codes, chosen: Bools) -> Codes:
    """How many of the chosen samples each of these teachers has."""
    found: Codes = np.bincount(teacher[chosen], minlength=int(place.max()) + 1)[place]
    return found


def _entropy(load: Codes) -> float:
    shares = load[load > 0] / max(1, load.sum())
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
