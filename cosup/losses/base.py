"""The contract of losses.

The terms that losses are made of: logits and targets [..., B, C] to one number per sample.

What is minimised: the loss against the annotations, and against true labels where given.

Guo et al., "Vision Superalignment", arXiv 2402.03749, and its published code; METHODS.md section 2:

    L = annotation_weight * loss(z, annotation) + true_label_weight * CE(z, y)

Without true labels (true_label_weight 0, the default) this is the weak-to-strong setting: then no
loss gets to see a label, whoever passes them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.settings.losses import LossSettings

Metrics = dict[str, Tensor]


class Loss(LossSettings, ABC):
    """A per-sample loss of logits against target probabilities.

    A subclass is a dataclass whose fields are its settings. Nothing reads a global or an epoch
    counter: a schedule reads `progress`, the share of the training that is over.
    """

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Losses [..., B] and named metrics (means, detached) for logits and targets [..., B, C].

        Leading dimensions are independent heads that are fitted together. `targets` are
        probabilities (one-hot for hard ones); progress in [0, 1].
        """

    def with_labels(
        self, logits: Tensor, targets: Tensor, progress: float, labels: Tensor | None
    ) -> tuple[Tensor, Metrics]:
        """As `__call__`, with the true labels [..., B] (-1 unknown) for losses that read them."""
        return self(logits, targets, progress)


def log_probs(logits: Tensor, tau: float = 1.0) -> Tensor:
    """Log-softmax of logits / tau, in float32 at least (half precision would lose the tails)."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return torch.log_softmax(logits if tau == 1.0 else logits / tau, dim=-1)


def soft_cross_entropy(log_student: Tensor, targets: Tensor) -> Tensor:
    """-sum_c targets[c] log_student[c], [..., B]."""
    return -(targets * log_student).sum(-1)


def label_cross_entropy(log_student: Tensor, labels: Tensor) -> Tensor:
    """-log_student[label], [..., B], for labels [..., B] int64."""
    return -log_student.gather(-1, labels[..., None])[..., 0]


def kl_divergence(log_student: Tensor, targets: Tensor) -> Tensor:
    """KL(targets || student), [..., B], with 0 log 0 = 0."""
    return (torch.xlogy(targets, targets) - targets * log_student).sum(-1)


def tempered(targets: Tensor, tau: float) -> Tensor:
    """Probabilities ^ (1 / tau), renormalised: what dividing the teacher's logits by tau gives.

    A row of zeros stays zero.
    """
    if tau == 1.0:
        return targets
    # Relative to the largest, so that small probabilities can't all underflow when tau < 1.
    largest = targets.amax(-1, keepdim=True)
    powers = (targets / torch.where(largest > 0, largest, 1)).pow(1 / tau)
    return powers / powers.sum(-1, keepdim=True).clamp_min(1)


def ramped(progress: float, ramp: float) -> float:
    """0 at the start, rising linearly to 1 at the share `ramp` of the training, and 1 from there.

    A ramp of 0 is 1 throughout.
    """
    return min(1.0, progress / ramp) if ramp > 0 else 1.0


def answered(targets: Tensor) -> Tensor:
    """[..., B] bool: rows that are annotations; a row of zeros is an abstention."""
    return targets.amax(-1) > 0


@dataclass(frozen=True)
class Objective:
    """A loss, and how much it and the true labels count."""

    loss: Loss
    annotation_weight: float = 1.0
    true_label_weight: float = 0.0
    control: bool = False
    """Of a comparison, to which settings that belong to the run's own loss don't apply."""

    def __call__(
        self, logits: Tensor, targets: Tensor, progress: float, labels: Tensor | None = None
    ) -> tuple[Tensor, Metrics]:
        """Losses [..., B] of logits and targets [..., B, C].

        labels: int64 [..., B], -1 unknown; or, of mixed images, each class's share [..., B, C], a
        row of zeros unknown (not for a loss that singles out one class); or None. An unknown
        label's term is 0. Metrics: the loss's own, and `true_label_loss` (mean over known labels)
        where it counts.
        """
        if not self.true_label_weight:
            labels = None
        if self.loss.reads_labels:
            assert labels is None or not labels.is_floating_point() or not self.loss.one_class
            losses, metrics = self.loss.with_labels(logits, targets, progress, labels)
        else:
            losses, metrics = self.loss(logits, targets, progress)
        losses = self.annotation_weight * losses
        if labels is not None:
            true, known = _label_loss(log_probs(logits), labels)
            losses = losses + self.true_label_weight * true
            metrics = {**metrics, "true_label_loss": true.detach().sum() / known.clamp_min(1e-12)}
        return losses, metrics


def _label_loss(log_student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy [..., B] with the labels, and the number (or the summed share) of known ones"""
    if labels.is_floating_point():
        labels = labels.to(log_student.dtype)
        return soft_cross_entropy(log_student, labels), labels.sum()
    known = labels >= 0
    return label_cross_entropy(log_student, labels.clamp_min(0)) * known, known.sum()
