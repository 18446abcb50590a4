"""Single samples to inspect: confident errors of each kind, and contested samples."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cosup import words
from cosup.analysis.arrays import Bools, Codes, Row, Singles, categories, rows_of
from cosup.analysis.decisions import RoundDecisions, round_decisions
from cosup.analysis.drawing import Example, Gallery, View
from cosup.analysis.figure import Figure, Unavailable, require_rounds
from cosup.analysis.records import Run
from cosup.analysis.said import answer_text, said_of, source_lines
from cosup.analysis.variety import varied
from cosup.probabilities import ProbTable
from cosup.seeds import numpy_generator
from cosup.words import plural

__all__ = ["EXAMPLES_FIGURE", "MOST_LISTED", "examples_table"]

KINDS = {
    "rejected_right": (
        "Correct annotations that were rejected",
        "The annotation was correct and a filter rejected it.",
    ),
    "kept_wrong": (
        "Wrong annotations that were kept",
        "The student was trained on these errors.",
    ),
    "contested": (
        "Samples on which the teachers disagree most",
        "Each teacher is confident, and their annotations differ.",
    ),
    "student_wrong": (
        "The student's most confident errors",
        "Test samples that the student predicts wrongly with the highest confidence.",
    ),
}
"""The title and the explanation of each kind."""
MOST_LISTED = 24
"""Samples of each kind in the table."""
MOST_SHOWN = 12
"""Samples of each kind in the drawing."""
ALONE = 0.995
"""Weight from which an annotation is that of its teacher, and no mixture."""
CANDIDATES = (256, 4096)
"""Least and largest number of samples whose full annotations are compared: those whose teachers'
first answers differ most, weighted by confidence."""
COMPARED = 2**27
"""Probabilities that are compared at most, if that leaves enough candidates."""
ELEMENTS = 2**24


def examples_table(run: Run) -> pd.DataFrame:
    """Make the table of examples: at most 24 samples of each kind, of high score and of as many
    domains and classes as there are (`varied`; the class is the true one, or else the annotation).

    Columns: kind (of the last round "rejected_right": correct annotations that were rejected,
    "kept_wrong": wrong annotations that were kept, "contested": samples on which the teachers of
    its level disagree; "student_wrong": errors of the student on test samples), rank (from 1),
    sample_id, split, teacher, assignment_weight (of the teacher; 1 if it alone annotates),
    annotation, annotation_confidence, student_label, student_confidence (on student_train of the
    student before its update in the last round, on test of the final student), true_label, domain,
    rejected_by, score (the confidence of the annotation or of the student; for "contested" the
    disagreement in bits, see `_disagreement`), sources (what each teacher of the last round says of
    it, as `said_of` writes it), evidence and student_evidence (nats for the annotation, of
    `teacher` and of the student, where the assigner gives them). Values that do not apply are null.
    The first two kinds need labels of student_train; a sharded run has the last kind alone.
    """
    require_rounds(run)
    parts = [*([] if run.sharded else _taught(run)), _measured(run)]
    there = [part for part in parts if len(part)]
    if not there:
        raise Unavailable("no annotation and no answer is wrong or contested")
    table = pd.concat(there, ignore_index=True)
    return table.astype({"kind": pd.CategoricalDtype(list(KINDS))})


def _taught(run: Run) -> list[pd.DataFrame]:
    """Return the samples of student_train that are listed, by kind."""
    now = round_decisions(run, run.rounds[-1])
    confidence = run.round(now.number)["annotation_confidence"].to_numpy(np.float32)
    return [
        _trained(run, "rejected_right", now.correct & ~now.kept, confidence),
        _trained(run, "kept_wrong", now.known & ~now.correct & now.kept, confidence),
        _contested(run, now),
    ]


def _trained(run: Run, kind: str, chosen: Bools, score: Singles) -> pd.DataFrame:
    """Return the chosen samples of student_train that are listed."""
    last = run.round(run.rounds[-1])
    rows = _first(run, kind, np.flatnonzero(chosen), score, last)
    found = last.iloc[rows].reset_index(drop=True)
    return _table(
        kind,
        found,
        {
            "split": "student_train",
            "teacher": found["assigned_teacher"].astype(object),
            "assignment_weight": found["assignment_weight"],
            "annotation": found["annotation"].astype(object),
            "annotation_confidence": found["annotation_confidence"],
            "student_label": found["student_label"].astype(object),
            "student_confidence": found["student_confidence"],
            "rejected_by": found["rejected_by"].astype(object),
            "score": score[rows],
            "sources": said_of(run, rows),
            "evidence": found.get("evidence", np.nan),
            "student_evidence": found.get("student_evidence", np.nan),
        },
    )


def _contested(run: Run, now: RoundDecisions) -> pd.DataFrame:
    names = run.stages[f"round-{now.number}"]["teachers"]
    score = np.zeros(len(now.teacher), np.float32)
    if len(names) > 1:
        rows = _likely(run, names)
        tables = [run.annotations(name).take(torch.from_numpy(rows)) for name in names]
        score[rows] = _disagreement(tables)
    return _trained(run, "contested", score > 0, score)


def _likely(run: Run, names: list[str]) -> Codes:
    """Return the samples whose teachers' first answers, weighted by confidence, differ most."""
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


def _disagreement(tables: list[ProbTable]) -> Singles:
    """Return [n] the Jensen-Shannon divergence (Lin 1991) of the teachers' annotations, in bits.

    It is the entropy of the mean annotation minus the mean of the entropies. Teachers that abstain
    are left out.
    """
    parts = []
    for rows in _blocks(len(tables[0]), len(tables) * tables[0].num_classes):
        probs = torch.stack([table.dense(rows) for table in tables], dim=1)
        speaks = (probs.sum(2) > 0).to(torch.float32)
        count = speaks.sum(1).clamp_min(1)
        spread = _entropy(probs.sum(1) / count[:, None])
        parts.append(spread - (_entropy(probs) * speaks).sum(1) / count)
    found: Singles = torch.cat(parts).clamp_min(0).numpy()
    found[found < 1e-4] = 0  # rounding
    return found


def _blocks(size: int, width: int) -> Iterator[slice]:
    step = max(1, ELEMENTS // width)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _entropy(probs: Tensor) -> Tensor:
    """Return the entropy over the last axis, in bits."""
    entropy: Tensor = torch.special.entr(probs).sum(-1) / math.log(2)
    return entropy


def _measured(run: Run) -> pd.DataFrame:
    """Return the errors of the student on test samples that are listed."""
    student = run.answered("student", "student")
    wrong = np.flatnonzero(~run.correct("student", "student"))
    rows = _first(run, "student_wrong", wrong, student.confidence, run.test)
    found = run.test.iloc[rows].reset_index(drop=True)
    label = pd.Series(categories(student.label[rows], run.answers)).astype(object)
    return _table(
        "student_wrong",
        found,
        {
            "split": "test",
            "teacher": None,
            "assignment_weight": np.nan,
            "annotation": None,
            "annotation_confidence": np.nan,
            "student_label": label,
            "student_confidence": student.confidence[rows],
            "rejected_by": None,
            "score": student.confidence[rows],
            "sources": None,
            "evidence": np.nan,
            "student_evidence": np.nan,
        },
    )


def _first(run: Run, kind: str, rows: Codes, score: Singles, samples: pd.DataFrame) -> Codes:
    """Return at most `MOST_LISTED` of the rows, in the order in which they are listed."""
    table = samples.iloc[rows]
    label = table["true_label"].astype(object)
    if "annotation" in table:
        label = label.where(label.notna(), table["annotation"].astype(object))
    domain, named = (pd.factorize(column)[0] for column in (table["domain"], label))
    generator = numpy_generator(int(run.config["run"]["seed"]), "examples", kind)
    found: Codes = rows[varied(score[rows], domain, named, MOST_LISTED, generator)]
    return found


def _table(kind: str, found: pd.DataFrame, columns: dict[str, Any]) -> pd.DataFrame:
    """Return the columns of the table in its order."""
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
        "assignment_weight",
        "annotation",
        "annotation_confidence",
        "student_label",
        "student_confidence",
        "true_label",
        "domain",
        "rejected_by",
        "score",
        "sources",
        "evidence",
        "student_evidence",
    ]
    return table[order]


def examples_sentence(run: Run, table: pd.DataFrame) -> str:
    """Count the correct annotations that were rejected and the wrong ones that were kept."""
    if run.sharded:
        return "Only errors on test samples are shown, as those of student_train are not listed."
    last = run.round(run.rounds[-1])
    labelled = last[last["true_label"].notna()]
    if not len(labelled):
        return (
            "Without true labels of student_train, only samples on which the teachers disagree and "
            "errors on test samples are shown."
        )
    correct = labelled["annotation"].astype(str) == labelled["true_label"].astype(str)
    lost = int((correct & ~labelled["kept"]).sum())
    passed = int((~correct & labelled["kept"]).sum())
    return (
        f"In the last round {plural(lost, 'correct annotation')} {_were(lost)} rejected and "
        f"{plural(passed, 'wrong annotation')} {_were(passed)} kept. Shown are some of the most "
        "confident ones, and samples on which the teachers disagree most."
    )


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def draw_examples(table: pd.DataFrame) -> list[View]:
    """Draw a gallery for each kind."""
    views: list[View] = []
    for kind, (title, explanation) in KINDS.items():
        part = table[table["kind"].astype(str) == kind].sort_values("rank")
        if not len(part):
            continue
        shown = [_example(row) for row in rows_of(part.head(MOST_SHOWN))]
        others = len(part) - len(shown)
        left_out = f"The table lists {others} more." if others else ""
        views.append(Gallery(title, explanation, shown, left_out))
    return views


def _example(row: Row) -> Example:
    fused, contested = not words.missing(row.get("evidence")), str(row["kind"]) == "contested"
    teacher = "teacher" if words.missing(row.get("teacher")) else str(row["teacher"])
    weight = row.get("assignment_weight")
    alone = not fused and (words.missing(weight) or float(weight or 0) > ALONE)
    others = source_lines(row.get("sources"), teacher if alone and not contested else "")
    lines = others if contested else []
    if contested and alone:
        lines.append(("assigned", teacher))
    elif not words.missing(row.get("annotation")):
        text = answer_text(row["annotation"], row.get("annotation_confidence"))
        lines.append((teacher if alone else "label" if fused else "annotation", text))
    if fused:
        text = f"{teacher} {words.decimal(row['evidence'], 1)} nats"
        if row.get("student_evidence"):
            text += f", student {words.decimal(row['student_evidence'], 1)}"
        lines.append(("evidence", text))
    if not words.missing(row.get("student_label")):
        lines.append(("student", answer_text(row["student_label"], row.get("student_confidence"))))
    if not words.missing(row.get("true_label")):
        lines.append(("truth", str(row["true_label"])))
    if not words.missing(row.get("rejected_by")):
        lines.append(("filter", str(row["rejected_by"]).replace("_", " ")))
    return Example(str(row["sample_id"]), lines if contested else [*lines, *others])


EXAMPLES_FIGURE = Figure(
    "examples",
    "Errors and disagreements, sample by sample",
    examples_table,
    examples_sentence,
    draw_examples,
    "How the images of a kind are chosen: one after another, each of the domain and class that has "
    "come up least so far, and of these the most confident (or most contested) one, so that "
    "nothing fills the list. Equal ones are drawn at random, by the run's seed.",
)
