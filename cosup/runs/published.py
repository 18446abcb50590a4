"""Figures as published code has them, beside those of the run (`rounds.report_epoch: best_test`).

CSL's published code reports the best epoch on the test samples, and PGR over the accuracy of the
generalist's annotations on the samples that the student learns from (`cosup/METHODS.md`, section
1). The first is a selection on the test split, so it is higher than what a user would get.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cosup.metrics.scores import pgr
from cosup.models.watch import TEST, Watched
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext

__all__ = ["best_epoch", "epochs_watched", "published_numbers"]


def epochs_watched(context: RunContext, prepared: Prepared) -> Watched:
    """Return the test samples, whose accuracy is recorded after each pass over student_train."""
    test, training = prepared.test, context.config.student.training
    assert isinstance(test.inputs, Tensor), "the features of a head"
    samples = len(prepared.samples.sample_ids)
    total, each = training.total_steps(samples), training.epoch_steps(samples)
    ends = frozenset([*range(each, total, each), total])
    return Watched(test.inputs, test.split.labels, ends, TEST)


def best_epoch(accuracies: Sequence[float]) -> dict[str, Any]:
    """Return the best of the accuracies after each epoch, the first such epoch (from 1), and how
    many there were."""
    best = max(accuracies)
    return {
        "accuracy": best,
        "epoch": accuracies.index(best) + 1,
        "epochs": len(accuracies),
        "last": accuracies[-1],
    }


def published_numbers(
    rounds: Sequence[Mapping[str, Any]], ceiling: float | None
) -> dict[str, Any] | None:
    """Return `published` of the summary; None if the last round has no best epoch.

    floor: accuracy of the generalist's annotations of student_train; None without a single
    generalist on the coarsest level, or without labels. student: `best_epoch`. pgr: of its
    accuracy, with this floor and the run's ceiling.
    """
    best = rounds[-1].get("best_epoch")
    if best is None:
        return None
    # A level covers the task, so its only teacher is a generalist.
    alone = rounds[0]["level"] == 0 and len(rounds[0]["teachers"]) == 1
    floor = rounds[0].get("annotation_accuracy") if alone else None
    recovered = None
    if floor is not None and ceiling is not None:
        recovered = pgr(floor, best["accuracy"], ceiling)
    return {"floor": floor, "pgr": recovered, "student": best}
