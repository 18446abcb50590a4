"""The decisions of a round: the table that a run writes, its measures, and the table as arrays."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cosup.analysis.arrays import Bools, Codes, codes
from cosup.analysis.figure import require_rounds
from cosup.analysis.records import Run
from cosup.evidence import Scopes, Truth
from cosup.levels import LevelAnnotations
from cosup.metrics import accuracy, assignment_accuracy, kept_precision, kept_recall
from cosup.rounds import Decided, Outcome

HARD = 0.999
"""A sample whose largest weight is below this is shared among teachers."""


def decisions_table(
    outcome: Decided,
    scopes: Scopes,
    sample_ids: Sequence[Hashable],
    truth: Truth,
    classes: Sequence[Hashable],
    domains: Sequence[Hashable],
    given: Tensor | None = None,
) -> pd.DataFrame:
    """Make the table of a round's decisions, a row per sample of student_train.

    Columns: sample_id, round, level, assigned_teacher, assignment_weight, annotation,
    annotation_confidence, student_label, student_confidence (of the student before its update in
    this round; null in the first round), kept, rejected_by, loss_weight, true_label (null if
    unknown), domain. Assigners that fuse sources add evidence and student_evidence (nats for the
    annotation, of the assigned teacher and of the student) and label_probability. Rounds that
    refine add refined_label and refined_confidence, what the annotation became. given: [N] labels
    with noise, as seen in training; adds given_label and noisy.
    """
    columns = {
        "sample_id": list(sample_ids),
        "round": np.int32(outcome.number),
        "level": np.int32(outcome.level),
        **_assigned(outcome, scopes, classes),
        **_guided(outcome, classes),
        "kept": outcome.kept.keep.numpy(),
        "rejected_by": _named(outcome.kept.rejected_by, outcome.kept.reasons),
        "loss_weight": outcome.assigned.weighed(outcome.kept.keep).numpy(),
        **_fused(outcome),
        **_refined(outcome, classes),
        "true_label": _named(truth.labels, classes),
        "domain": _named(truth.domains, domains),
    }
    if given is not None:
        columns["given_label"] = _named(given, classes)
        columns["noisy"] = (given != truth.labels).numpy()
    return pd.DataFrame(columns)


def _assigned(outcome: Decided, scopes: Scopes, classes: Sequence[Hashable]) -> dict[str, Any]:
    """Return the columns of the teachers and their annotations."""
    weight, teacher = outcome.assigned.weights.max(1)
    label, confidence = outcome.assigned.targets.top()
    return {
        "assigned_teacher": _named(teacher, scopes.names),
        "assignment_weight": weight.numpy(),
        "annotation": _named(torch.where(confidence > 0, label, -1), classes),
        "annotation_confidence": confidence.numpy(),
    }


def _guided(outcome: Decided, classes: Sequence[Hashable]) -> dict[str, Any]:
    """Return the columns of the student before its update."""
    if outcome.guide is None:
        nobody = torch.full((len(outcome.kept.keep),), -1)
        return {
            "student_label": _named(nobody, classes),
            "student_confidence": np.float32("nan"),
        }
    label, confidence = outcome.guide.top()
    return {"student_label": _named(label, classes), "student_confidence": confidence.numpy()}


def _fused(outcome: Decided) -> dict[str, Any]:
    """Return the columns of assigners that fuse sources."""
    assigned = outcome.assigned
    if assigned.nats is None:
        return {}
    teacher = assigned.weights.max(1).indices
    return {
        "evidence": assigned.nats.gather(1, teacher[:, None])[:, 0].numpy(),
        "student_evidence": assigned.nats[:, -1].numpy(),
        "label_probability": assigned.annotations.top()[1].numpy(),
    }


def _refined(outcome: Decided, classes: Sequence[Hashable]) -> dict[str, Any]:
    """Return the columns of rounds that refine."""
    if outcome.refined is None:
        return {}
    label, confidence = outcome.refined.top()
    return {
        "refined_label": _named(torch.where(confidence > 0, label, -1), classes),
        "refined_confidence": confidence.numpy(),
    }


def refinement_measures(outcome: Outcome, truth: Truth) -> dict[str, float | None]:
    """Measure what refinement changed in the annotations of a round; {} in one that does not.

    refined: share of the annotations whose class was changed. refined_accuracy: share of refined
    annotations that are correct. Of the changed ones with a known label: refined_right, the share
    whose new class is correct, and refined_wrong, the share whose old class was correct (None
    without any).
    """
    return refinement_shares(refinement_counts(outcome, truth))


def refinement_counts(decided: Decided, truth: Truth) -> dict[str, Tensor]:
    """Count what refinement changed; {} in a round that does not refine.

    refined_answered: annotations. changed: those whose class was changed. refined_known: samples
    with a known label, and refined_correct those with a correct refined annotation. changed_known,
    changed_right, changed_wrong: changed ones with a known label, and those whose new and whose old
    class is correct.
    """
    if decided.refined is None:
        return {}
    (before, confidence), (after, _) = decided.assigned.annotations.top(), decided.refined.top()
    labels, answered = truth.labels, confidence > 0
    known, changed = labels >= 0, (before != after) & answered
    return {
        "refined_answered": answered.sum(),
        "changed": changed.sum(),
        "refined_known": known.sum(),
        "refined_correct": (known & answered & (after == labels)).sum(),
        "changed_known": (changed & known).sum(),
        "changed_right": (changed & known & (after == labels)).sum(),
        "changed_wrong": (changed & known & (before == labels)).sum(),
    }


def refinement_shares(counts: Mapping[str, Tensor]) -> dict[str, float | None]:
    """Return the measures of `refinement_measures` from counts, or sums of counts, among others."""
    if "changed" not in counts:
        return {}

    def share(part: str, whole: str) -> float | None:
        return int(counts[part]) / int(counts[whole]) if int(counts[whole]) else None

    return {
        "refined": share("changed", "refined_answered"),
        "refined_accuracy": share("refined_correct", "refined_known"),
        "refined_right": share("changed_right", "changed_known"),
        "refined_wrong": share("changed_wrong", "changed_known"),
    }


def noise_measures(keep: Tensor, truth: Truth, given: Tensor | None) -> dict[str, float | None]:
    """Measure how the filters treat wrong given labels; {} without label noise.

    noise: share of samples whose given label is wrong. noise_rejected, clean_rejected: share of
    samples with a wrong and with a correct given label that are rejected (None without samples).
    """
    if given is None:
        return {}
    noisy = given != truth.labels

    def rejected(chosen: Tensor) -> float | None:
        return float((~keep)[chosen].double().mean()) if bool(chosen.any()) else None

    return {
        "noise": float(noisy.double().mean()),
        "noise_rejected": rejected(noisy),
        "clean_rejected": rejected(~noisy),
    }


def round_measures(
    outcome: Outcome, scopes: Scopes, truth: Truth, annotations: LevelAnnotations
) -> dict[str, float | None]:
    """Measure assignment and filters of a round on samples with a known label (None without any).

    assignment_accuracy: share of the weight on specialists that is on those in scope (None if they
    have none). annotation_accuracy: share of assigned annotations that are correct. best_choice:
    the same if the best teacher were chosen for each sample, so the share of samples for which at
    least one teacher of the round is correct. kept: share kept. kept_precision: share of the kept
    annotations that are correct. kept_recall: share of the correct annotations that are kept.
    """
    known = truth.labels >= 0
    keep = outcome.kept.keep
    measures: dict[str, float | None] = {"kept": float(keep.double().mean())}
    if not bool(known.any()):
        names = ("assignment_accuracy", "annotation_accuracy", "best_choice")
        return {**measures, **dict.fromkeys((*names, "kept_precision", "kept_recall"))}
    label, confidence = outcome.assigned.targets.top()
    answer = torch.where(confidence > 0, label, -1)
    return {
        "assignment_accuracy": assignment_accuracy(outcome.assigned.weights, scopes, truth),
        "annotation_accuracy": accuracy(answer[known], truth.labels[known]),
        "best_choice": float(someone_right(annotations, truth.labels)[known].double().mean()),
        **measures,
        "kept_precision": kept_precision(keep, answer, truth.labels),
        "kept_recall": kept_recall(keep, answer, truth.labels),
    }


def someone_right(annotations: LevelAnnotations, labels: Tensor) -> Tensor:
    """Return [N] bool: whether some teacher annotates a sample with its label (-1: none does)."""
    right = torch.zeros(len(labels), dtype=torch.bool)
    for rows, probs in annotations.iter_dense():
        confidence, answer = probs.max(2)
        right[rows] = ((answer == labels[rows, None]) & (confidence > 0)).any(1)
    return right


def _named(index: Tensor, names: Sequence[Hashable]) -> "pd.Series[Any]":
    """Convert indices (-1: missing) to a categorical column."""
    codes = index.numpy().astype(np.int32)
    return pd.Series(pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(list(names))))


@dataclass(frozen=True)
class RoundDecisions:
    """The decisions of a round, in N rows: the samples of student_train, or in a sharded run groups
    of samples with the same decision.

    samples: [N] how many samples a row is of. teacher: [N] index of the assigned teacher among the
    run's teachers. before: [N] that of the round before (None in the first). shared: [N] are the
    samples shared among teachers? truth: [N] true class (-1: unknown). domain: [N] index of the
    domain. kept: [N] is the annotation kept? known: [N] is the true class known? correct: [N] is
    the annotation correct?
    """

    number: int
    samples: Codes
    teacher: Codes
    before: Codes | None
    shared: Bools
    truth: Codes
    domain: Codes
    kept: Bools
    known: Bools
    correct: Bools

    def count(self, place: Codes, size: int, chosen: Bools | None = None) -> Codes:
        """Return the number of samples at each place [size], of all or of the chosen rows. place:
        [N], -1 for rows that are not counted."""
        there = place >= 0 if chosen is None else chosen & (place >= 0)
        found = np.bincount(place[there], weights=self.samples[there], minlength=size)
        return found.astype(np.int64)

    def mean(self, values: Bools, chosen: Bools | None = None) -> float:
        """Return the share of samples for which values [N] are true, of all or of the chosen rows;
        nan if there are none."""
        weight = self.samples if chosen is None else self.samples * chosen
        whole = int(weight.sum())
        return float((weight * values).sum() / whole) if whole else float("nan")


def round_decisions(run: Run, number: int) -> RoundDecisions:
    """Return the decisions of a finished round as arrays."""
    table = run.round(number)
    teacher = codes(table["assigned_teacher"], run.teacher_names)
    truth = codes(table["true_label"], run.classes)
    known, earlier = truth >= 0, [other for other in run.rounds if other < number]
    before = None
    if run.sharded:
        correct = table["correct"].to_numpy(bool)
        if earlier:
            before = codes(table["previous_teacher"], run.teacher_names)
    else:
        correct = known & (codes(table["annotation"], run.classes) == truth)
        if earlier:
            before = codes(run.round(earlier[-1])["assigned_teacher"], run.teacher_names)
    return RoundDecisions(
        number,
        table["samples"].to_numpy(np.int64) if run.sharded else np.ones(len(table), np.int64),
        teacher,
        before,
        (table["shared"] if run.sharded else table["assignment_weight"] < HARD).to_numpy(bool),
        truth,
        codes(table["domain"], run.domains),
        table["kept"].to_numpy(bool),
        known,
        correct,
    )


def all_decisions(run: Run) -> list[RoundDecisions]:
    """Return the decisions of every finished round; raise `Unavailable` if there is none."""
    require_rounds(run)
    return [round_decisions(run, number) for number in run.rounds]
