"""Scores of predictions, assignments and filters.

Arrays are NumPy arrays or CPU tensors. A label of -1 is unknown and not counted. A share of no
samples is nan.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cosup.evidence import Scopes, Truth

Array = Tensor | npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

SMALLEST_PROBABILITY = 1e-12
"""Probabilities are clamped to this before taking logarithms."""


def accuracy(predicted: Array, labels: Array) -> float:
    """Return the share of predicted classes [N] that are the labels [N]."""
    right, known = _right(predicted, labels)
    return mean_of(right[known])


def per_group_accuracy(
    predicted: Array, labels: Array, groups: Array, names: Sequence[str]
) -> dict[str, float]:
    """Return the accuracy by group (codes [N] into names), without groups that have no samples."""
    right, known = _right(predicted, labels)
    codes = np.asarray(groups)[known]
    total = np.bincount(codes, minlength=len(names))
    hits = np.bincount(codes, weights=right[known], minlength=len(names))
    return {name: float(hits[i] / total[i]) for i, name in enumerate(names) if total[i]}


def pgr(floor: float, student: float, ceiling: float) -> float | None:
    """Return the performance gap recovered (PGR), or None without a gap.

    Burns et al., arXiv 2312.09390, section 3.
    """
    return (student - floor) / (ceiling - floor) if ceiling > floor else None


def agreement(first: Array, second: Array) -> float:
    """Return the share of samples with the same class in both [N]."""
    return mean_of(np.asarray(first) == np.asarray(second))


def kappa(first: Array, second: Array) -> float:
    """Return Cohen's kappa (1960) of classes [N]: agreement beyond chance.

    nan without samples, or if both give one and the same class to all.
    """
    from sklearn.metrics import cohen_kappa_score  # slow to import, and seldom used

    one, two = np.asarray(first), np.asarray(second)
    if len(np.unique(np.concatenate([one, two]))) < 2:
        return float("nan")
    return float(cohen_kappa_score(one, two))


def expected_calibration_error(probs: Array, labels: Array, bins: int = 15) -> float:
    """Return the ECE of probs [N, C] over equal bins of confidence.

    Guo et al., arXiv 1706.04599, section 2.
    """
    values, truth = _known(probs, labels)
    if not len(truth):
        return float("nan")
    confidence = values.max(1)
    right = values.argmax(1) == truth
    # Bin m is (m / bins, (m + 1) / bins], as in the paper.
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth))


def brier(probs: Array, labels: Array) -> float:
    """Return the Brier score (1950) of probs [N, C]: squared error over all classes, in 0 .. 2."""
    values, truth = _known(probs, labels)
    own = values[np.arange(len(truth)), truth]
    return mean_of((values**2).sum(1) - 2 * own + 1)


def negative_log_likelihood(probs: Array, labels: Array) -> float:
    """Return the mean -log p of the label, in nats, for probs [N, C]; p is at least 1e-12."""
    values, truth = _known(probs, labels)
    return mean_of(-np.log(np.maximum(values[np.arange(len(truth)), truth], SMALLEST_PROBABILITY)))


def assignment_accuracy(weights: Tensor, scopes: Scopes, truth: Truth) -> float | None:
    """Return the share of the specialists' weight [N, T] that is on those in scope.

    Specialists are the teachers whose scope is restricted: with the others no sample can be sent
    astray. None if no weight of a sample with a known label is on a specialist.
    """
    in_scope, total = assignment_sums(weights, scopes, truth)
    return float(in_scope) / float(total) if total else None


def assignment_sums(weights: Tensor, scopes: Scopes, truth: Truth) -> tuple[Tensor, Tensor]:
    """Return the specialists' weight that is on those in scope, and all of it, in float64."""
    known = truth.labels >= 0
    given = weights.double()[known] * scopes.restricted
    return (given * scopes.hold(truth)[known]).sum(), given.sum()


def kept_precision(keep: Array, annotated: Array, labels: Array) -> float:
    """Return the share of kept annotations that are right.

    keep: [N] bool. annotated: [N] the annotations' classes (-1: abstained). labels: [N].
    """
    right, known = _right(annotated, labels)
    return mean_of(right[known & np.asarray(keep)])


def kept_recall(keep: Array, annotated: Array, labels: Array) -> float:
    """Return the share of right annotations that are kept; arguments as for `kept_precision`."""
    right, known = _right(annotated, labels)
    return mean_of(np.asarray(keep)[known & right])


def effective_teachers(weights: Array) -> float:
    """Return the effective number of teachers of weights [N, T]: exp of the entropy of their load.

    1 if one teacher gets all samples, T if all get the same (Hill, 1973, order 1).
    """
    load = np.asarray(weights, dtype=np.float64).sum(0)
    shares = load[load > 0] / load.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _right(predicted: Array, labels: Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    truth = np.asarray(labels)
    return np.asarray(predicted) == truth, truth >= 0


def _known(probs: Array, labels: Array) -> tuple[Floats, npt.NDArray[np.int64]]:
    truth = np.asarray(labels)
    return np.asarray(probs, dtype=np.float64)[truth >= 0], truth[truth >= 0]


def mean_of(values: npt.NDArray[Any]) -> float:
    """Return the mean of values [N]; nan of none."""
    return float(np.mean(values)) if len(values) else float("nan")
