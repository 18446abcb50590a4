"""What is minimised: the loss against the annotations, and against true labels where given.

Guo et al., "Vision Superalignment", arXiv 2402.03749, and its published code; METHODS.md section 2:

    L = annotation_weight * loss(z, annotation) + true_label_weight * CE(z, y)

Without true labels (true_label_weight 0, the default) this is the weak-to-strong setting: then no
loss gets to see a label, whoever passes them.
"""

from dataclasses import dataclass

from torch import Tensor

from cosup.losses.base import Loss, Metrics
from cosup.losses.terms import label_cross_entropy, log_probs, soft_cross_entropy


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
