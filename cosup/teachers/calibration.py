"""Calibration of teachers: one temperature each, fitted to labels that it was not trained on.

Guo et al., "On calibration of modern neural networks", arXiv 1706.04599; for teachers of a strong
student arXiv 2502.01458; METHODS.md section 5. The annotation is softmax(z / T), where z are the
teacher's logits and T minimises the cross-entropy with the held-out labels. Its most probable class
stays: what changes is how far it is trusted beside others, and what a student learns of its doubt.
"""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cosup.errors import about
from cosup.teachers.base import Teacher, Training
from cosup.teachers.rows import calibration_rows

__all__ = ["calibrate", "fit_temperature"]

log = logging.getLogger(__name__)

LOWEST, HIGHEST = 0.05, 20.0
"""A teacher that makes no error on the held-out samples has no least temperature."""
TINIEST = torch.finfo(torch.float32).tiny
HALVINGS = 50


def calibrate(teachers: Sequence[Teacher], training: Training) -> None:
    """Fit the temperature of each teacher whose setup asks for it.

    Raises `UserError` for a teacher with too few held-out labels in its scope.
    """
    for teacher in teachers:
        if teacher.spec.setup.calibrate is None:
            continue
        with about(f"teacher '{teacher.name}'"):
            rows = calibration_rows(teacher.spec, training.data, training.rows)
        batches = teacher.inputs(training.data, rows, training.compute)
        probs = torch.cat([teacher.annotate(batch) for batch in batches])
        teacher.temperature = fit_temperature(
            probs[:, teacher.support], _places(training.data.given(rows), teacher.support)
        )
        log.debug("teacher %s: temperature %.3f", teacher.name, teacher.temperature)


def _places(labels: Tensor, support: Tensor) -> Tensor:
    """Return the place of each label among the classes of `support`."""
    return (support.cumsum(0) - 1)[labels]


def fit_temperature(probs: Tensor, labels: Tensor) -> float:
    """Return T in 0.05 .. 20 that minimises the cross-entropy of softmax(log p / T) with labels.

    probs: [N, C]. Abstentions (rows of zeros) and rows with one certain class, which no temperature
    changes, do not count; 1 if there are no others. labels: [N] int64. With b = 1 / T the
    cross-entropy is convex in b; its derivative, the mean over samples of E[z] - z_label under
    softmax(b z), is brought to 0 by bisection of log b.
    """
    answered = (probs.sum(1) > 0) & (probs.amax(1) < 1)
    logits = probs[answered].double().clamp_min(TINIEST).log()
    labels = labels[answered]
    if not len(labels):
        return 1.0
    own = logits.gather(1, labels[:, None])[:, 0]

    def slope(log_exponent: float) -> float:
        expected = ((math.exp(log_exponent) * logits).softmax(1) * logits).sum(1)
        return float((expected - own).mean())

    low, high = -math.log(HIGHEST), -math.log(LOWEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)
