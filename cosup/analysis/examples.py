"""Single samples that are worth a look: the surest of each kind of mistake."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cosup.analysis.arrays import Codes, Floats
from cosup.analysis.base import (
    Absent,
    Bools,
    Decided,
    categories,
    decided,
    need_rounds,
)
from cosup.analysis.records import Run
from cosup.probabilities import ProbTable

__all__ = ["KINDS", "MOST", "examples_table"]

KINDS = ("rejected_right", "kept_wrong", "contested", "student_wrong")
MOST = 24
"""Samples of each kind."""
CANDIDATES = (256, 4096)
"""Of more samples, at least and at most so many have their teachers compared class by class: those
whose first answers differ most, weighted by their confidence."""
COMPARED = 2**27
"""Probabilities that are compared, if that leaves enough candidates."""
ELEMENTS = 2**24


def examples_table(run: Run) -> pd.DataFrame:
    """At most 24 samples of each kind, the foremost first.

    kind: of the last round "rejected_right" (a right annotation that was rejected), "kept_wrong"
    (a wrong one that was kept), "contested" (teachers of its level that contradict each other), and
    "student_wrong" (what the student gets wrong of what measures). rank (from 1), sample_id, split,
    teacher, annotation, annotation_confidence, student_label, student_confidence (on student_train
    the student that guided the round, on test the last one), true_label, domain, rejected_by, score
    (what ranks them: the annotation's confidence, or the student's; of contested samples the bits
    by which the entropy of the teachers' mean annotation exceeds the mean of their entropies). Null
    is what there isn't. Without labels of student_train its first two kinds are not there.
    """
    need_rounds(run)
    now = decided(run, run.rounds[-1])
    confidence = run.round(now.number)["annotation_confidence"].to_numpy(np.float32)
    parts = [
        _trained(run, "rejected_right", now.right & ~now.kept, confidence),
        _trained(run, "kept_wrong", now.known & ~now.right & now.kept, confidence),
        _contested(run, now),
        _measured(run),
    ]
    there = [part for part in parts if len(part)]
    if not there:
        raise Absent("no annotation and no answer is wrong or contested")
    table = pd.concat(there, ignore_index=True)
    return table.astype({"kind": pd.CategoricalDtype(list(KINDS))})


def _trained(run: Run, kind: str, chosen: Bools, score: Floats) -> pd.DataFrame:
    """The chosen samples of student_train with the highest score, from the last round."""
    rows = _first(np.flatnonzero(chosen), score)
    found = run.round(run.rounds[-1]).iloc[rows].reset_index(drop=True)
    return _table(
        kind,
        found,
        {
            "split": "student_train",
            "teacher": found["assigned_teacher"].astype(object),
            "annotation": found["annotation"].astype(object),
            "annotation_confidence": found["annotation_confidence"],
            "student_label": found["student_label"].astype(object),
            "student_confidence": found["student_confidence"],
            "rejected_by": found["rejected_by"].astype(object),
            "score": score[rows],
        },
    )


def _contested(run: Run, now: Decided) -> pd.DataFrame:
    names = run.stages[f"round-{now.number}"]["teachers"]
    score = np.zeros(len(now.teacher), np.float32)
    if len(names) > 1:
        rows = _likely(run, names)
        tables = [run.annotations(name).take(torch.from_numpy(rows)) for name in names]
        score[rows] = _disagreement(tables)
    return _trained(run, "contested", score > 0, score)


def _likely(run: Run, names: list[str]) -> Codes:
    """The samples whose teachers' first answers, weighted by their confidence, differ most."""
    size = len(run.train)
    most = int(np.clip(COMPARED // (len(names) * len(run.classes)), *CANDIDATES))
    if size <= most:
        return np.arange(size)
    answers = [run.annotated(name) for name in names]
    label = np.stack([answer.label for answer in answers], axis=1)
    weight = np.stack([answer.confidence for answer in answers], axis=1) * (label >= 0)
    total = weight.sum(1)
    entropy = np.zeros(size, np.float32)
    for place in range(len(names)):  # of the votes, each class counted where it is first named
        votes = (weight * (label == label[:, [place]])).sum(1)
        first = ~(label[:, :place] == label[:, [place]]).any(1) & (votes > 0)
        share = votes[first] / total[first]
        entropy[first] -= share * np.log2(share)
    return np.sort(np.argpartition(-entropy, most)[:most])


def _disagreement(tables: list[ProbTable]) -> Floats:
    """[n] bits: entropy of the mean annotation less the mean of entropies (the Jensen-Shannon
    divergence; Lin 1991); teachers that abstain have no part in it."""
    parts = []
    for rows in _blocks(len(tables[0]), len(tables) * tables[0].num_classes):
        probs = torch.stack([table.dense(rows) for table in tables], dim=1)
        speaks = (probs.sum(2) > 0).to(torch.float32)
        count = speaks.sum(1).clamp_min(1)
        spread = _entropy(probs.sum(1) / count[:, None])
        parts.append(spread - (_entropy(probs) * speaks).sum(1) / count)
    found: Floats = torch.cat(parts).clamp_min(0).numpy()
    found[found < 1e-4] = 0  # rounding
    return found


def _blocks(size: int, width: int) -> Iterator[slice]:
    step = max(1, ELEMENTS // width)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _entropy(probs: Tensor) -> Tensor:
    """In bits, over the last axis."""
    entropy: Tensor = torch.special.entr(probs).sum(-1) / math.log(2)
    return entropy


def _measured(run: Run) -> pd.DataFrame:
    """What the student gets wrong, the surest first."""
    student = run.answered("student", "student")
    rows = _first(np.flatnonzero(~run.correct("student", "student")), student.confidence)
    found = run.test.iloc[rows].reset_index(drop=True)
    label = pd.Series(categories(student.label[rows], run.answers)).astype(object)
    return _table(
        "student_wrong",
        found,
        {
            "split": "test",
            "teacher": None,
            "annotation": None,
            "annotation_confidence": np.nan,
            "student_label": label,
            "student_confidence": student.confidence[rows],
            "rejected_by": None,
            "score": student.confidence[rows],
        },
    )


def _first(rows: Codes, score: Floats) -> Codes:
    """The `MOST` rows with the highest score; among equals in their own order."""
    found: Codes = rows[np.argsort(-score[rows], kind="stable")[:MOST]]
    return found


def _table(kind: str, found: pd.DataFrame, columns: dict[str, Any]) -> pd.DataFrame:
    """The columns of an example, in the table's order."""
    table = pd.DataFrame(
        {
            "kind": kind,
            "rank": np.arange(1, len(found) + 1),
            "sample_id": found["sample_id"].astype(object),
            "true_label": found["true_label"].astype(object),
            "domain": found["domain"].astype(object),
        }
    ).assign(**columns)
    order = [
        "kind",
        "rank",
        "sample_id",
        "split",
        "teacher",
        "annotation",
        "annotation_confidence",
        "student_label",
        "student_confidence",
        "true_label",
        "domain",
        "rejected_by",
        "score",
    ]
    return table[order]
