"""How good annotations are, and what the filters rejected of them."""

import numpy as np
import pandas as pd

from cosup.analysis.arrays import codes
from cosup.analysis.base import (
    Bools,
    Decided,
    Values,
    categories,
    mean,
    need_labels,
    need_rounds,
    need_samples,
    ratio,
)
from cosup.analysis.records import Run

WHOLE = "all"
"""How the chain of all filters together is called."""


def annotation_accuracy_table(run: Run) -> pd.DataFrame:
    """A row per teacher and true class of student_train with any sample.

    teacher, class, samples, accuracy (of all its annotations of that class; an abstention is
    wrong), assigned_samples and assigned_accuracy (of those that it was assigned in the last round
    that used its level; null where there are none).
    """
    need_samples(run)
    truth = codes(run.train["true_label"], run.classes)
    known = truth >= 0
    need_labels(known)
    size = len(run.classes)
    samples = np.bincount(truth[known], minlength=size)
    there = np.flatnonzero(samples)
    last = {run.stages[f"round-{now.number}"]["level"]: now for now in _rounds(run)}
    parts = []
    for place, teacher in enumerate(run.teachers):
        right = known & (run.annotated(teacher.name).label == truth)
        assigned: Values = np.zeros(size)
        hits: Values = np.zeros(size)
        now = last.get(teacher.level)
        if now is not None:
            mine = known & (now.teacher == place)
            assigned = np.bincount(truth[mine], minlength=size).astype(np.float64)
            hits = np.bincount(truth[mine], weights=now.right[mine], minlength=size)
        parts.append(
            pd.DataFrame(
                {
                    "teacher": categories(np.full(len(there), place), run.teacher_names),
                    "class": categories(there, run.classes),
                    "samples": samples[there],
                    "accuracy": np.bincount(truth[right], minlength=size)[there] / samples[there],
                    "assigned_samples": assigned[there].astype(np.int64),
                    "assigned_accuracy": ratio(hits, assigned)[there],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def filters_table(run: Run) -> pd.DataFrame:
    """A row per round and filter, then one for all of them together ("all").

    round, filter, rejected, share (of all samples), precision (share of the rejected whose
    annotation is wrong), recall (share of the wrong annotations that it rejected), noise_caught
    (share of the samples with a wrong given label that it rejected; null without label noise). A
    sample counts for the first filter that rejects it; "abstained" counts where all assigned
    teachers abstain. Where no label is known precision and recall are null.
    """
    rows = []
    for now in need_rounds(run):
        table = run.round(now.number)
        reasons = _reasons(run)
        by = codes(table["rejected_by"], reasons)
        noisy = table["noisy"].to_numpy(bool) if "noisy" in table else None
        for place, name in [*enumerate(reasons), (-1, WHOLE)]:
            rejected = ~now.kept if name == WHOLE and place < 0 else by == place
            rows.append({"round": now.number, "filter": name, **_measures(now, rejected, noisy)})
    table = pd.DataFrame(rows)
    names = [*_reasons(run), WHOLE]
    table["filter"] = pd.Categorical(table["filter"], categories=list(dict.fromkeys(names)))
    return table


def _rounds(run: Run) -> list[Decided]:
    return need_rounds(run) if run.rounds else []


def _reasons(run: Run) -> list[str]:
    """Why an annotation can be rejected, in the order of the filters."""
    return list(run.round(run.rounds[-1])["rejected_by"].cat.categories)


def _measures(now: Decided, rejected: Bools, noisy: Bools | None) -> dict[str, float]:
    wrong = now.known & ~now.right
    return {
        "rejected": int(rejected.sum()),
        "share": mean(rejected),
        "precision": mean(wrong, rejected & now.known),
        "recall": mean(rejected, wrong),
        "noise_caught": float("nan") if noisy is None else mean(rejected, noisy),
    }
