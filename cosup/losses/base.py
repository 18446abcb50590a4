"""The contract of losses, their terms, and the objective of the student.

The terms map logits and targets [..., B, C] to one number per sample. The objective adds true
labels where they are given (Guo et al., "Vision Superalignment", arXiv 2402.03749, and its
published code; METHODS.md section 2):

    L = annotation_weight * loss(z, annotation) + true_label_weight * CE(z, y)

Without true labels (true_label_weight 0, the default) this is the weak-to-strong setting: then no
loss gets a label, even if there are some.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cosup.arrays import ArrayLike, logits_of, targets_of
from cosup.errors import UserError
from cosup.settings.losses import LossSettings

Metrics = dict[str, Tensor]
"""Metrics of a loss by name, each a mean over the batch, detached."""


class Loss(LossSettings, ABC):
    """Base of losses: a loss per sample of logits against target probabilities.

    A subclass is a dataclass whose fields are its settings. A loss keeps no state: schedules depend
    on `progress`, the share of the training that is done.
    """

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] and metrics of logits and targets [..., B, C].

        Leading dimensions are independent heads that are trained together. targets: probabilities
        (one-hot if hard). progress: in [0, 1].
        """

    def with_labels(
        self, logits: Tensor, targets: Tensor, progress: float, labels: Tensor | None
    ) -> tuple[Tensor, Metrics]:
        """As `__call__`, with true labels [..., B] (-1 unknown), for losses with `reads_labels`."""
        return self(logits, targets, progress)


def log_probs(logits: Tensor, tau: float = 1.0) -> Tensor:
    """Return the log-softmax of logits / tau, in float32 at least.

    Half precision would lose small probabilities.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return torch.log_softmax(logits if tau == 1.0 else logits / tau, dim=-1)


def soft_cross_entropy(log_student: Tensor, targets: Tensor) -> Tensor:
    """Return -sum_c targets[c] log_student[c], [..., B]."""
    return -(targets * log_student).sum(-1)


def label_cross_entropy(log_student: Tensor, labels: Tensor) -> Tensor:
    """Return -log_student[label], [..., B], for labels [..., B] int64."""
    return -log_student.gather(-1, labels[..., None])[..., 0]


def kl_divergence(log_student: Tensor, targets: Tensor) -> Tensor:
    """Return KL(targets || student), [..., B], with 0 log 0 = 0."""
    return (torch.xlogy(targets, targets) - targets * log_student).sum(-1)


def tempered(targets: Tensor, tau: float) -> Tensor:
    """Return the probabilities ^ (1 / tau), normalised, as if the logits were divided by tau.

    A row of zeros stays zero.
    """
    if tau == 1.0:
        return targets
    # Relative to the largest, so that not all probabilities underflow when tau < 1.
    largest = targets.amax(-1, keepdim=True)
    powers = (targets / torch.where(largest > 0, largest, 1)).pow(1 / tau)
    return powers / powers.sum(-1, keepdim=True).clamp_min(1)


def ramped(progress: float, ramp: float) -> float:
    """Return a factor that rises linearly from 0 to 1 over the share `ramp` of the training.

    It is 1 afterwards, and always 1 for a ramp of 0.
    """
    return min(1.0, progress / ramp) if ramp > 0 else 1.0


def answered(targets: Tensor) -> Tensor:
    """Return [..., B] bool: which rows are annotations; a row of zeros is an abstention."""
    return targets.amax(-1) > 0


@dataclass(frozen=True)
class Objective:
    """The loss that a student minimises, and the weights of annotations and true labels.

    smoothing: share of a true label that is spread evenly over all classes (Szegedy et al., arXiv
    1512.00567). own_labels: share of a true label that is replaced by the student's own class of
    the image without augmentation (bootstrapping: Reed et al., arXiv 1412.6596), from the share
    own_from of the training on.
    """

    loss: Loss
    annotation_weight: float = 1.0
    true_label_weight: float = 0.0
    smoothing: float = 0.0
    own_labels: float = 0.0
    own_from: float = 0.0

    def corrects(self, progress: float) -> bool:
        """Return whether the student's own classes replace a share of the labels by now."""
        return bool(self.own_labels and self.true_label_weight) and progress >= self.own_from

    def __call__(
        self, logits: Tensor, targets: Tensor, progress: float, labels: Tensor | None = None
    ) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] of logits and targets [..., B, C].

        labels: int64 [..., B], -1 unknown; or the shares of the classes [..., B, C] of mixed
        images, a row of zeros unknown (not for a loss with `one_class`); or None. The term of an
        unknown label is 0. Metrics: those of the loss, and `true_label_loss` (mean over known
        labels) if true labels have weight.
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
            true, known = _label_loss(log_probs(logits), labels, self.smoothing)
            losses = losses + self.true_label_weight * true
            metrics = {**metrics, "true_label_loss": true.detach().sum() / known.clamp_min(1e-12)}
        return losses, metrics


def _label_loss(log_student: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return cross-entropy [..., B] with the labels, smoothed, and the number (total share) of
    known ones."""
    if labels.is_floating_point():
        labels = labels.to(log_student.dtype)
        losses, known = soft_cross_entropy(log_student, labels), labels.sum(-1)
    else:
        known = labels >= 0
        losses = label_cross_entropy(log_student, labels.clamp_min(0)) * known
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * log_student.mean(-1) * known
    return losses, known.sum()


def compute_loss(
    loss: Loss | str | Mapping[str, Any],
    logits: ArrayLike,
    targets: ArrayLike,
    progress: float = 1.0,
) -> tuple[Tensor, Metrics]:
    """Return the losses [B] of a batch, and the loss's metrics, after checking the arguments.

    A training loop that has tensors calls the loss itself, which checks nothing.

    loss: a name, settings such as `{"name": "distillation", "tau": 4.0}`, or an object. logits:
    [B, C]; the gradient flows to a tensor. targets: probabilities [B, C] (all 0: no annotation), or
    class numbers [B] (-1: none). progress: the share of the training that is done, in 0 .. 1.
    Raises `UserError` with the name of the argument that is wrong.

    >>> import cosup
    >>> losses, _ = cosup.losses.compute_loss("cross_entropy", [[2.0, 0.0], [0.0, 0.0]], [0, 1])
    >>> [round(value, 4) for value in losses.tolist()]
    [0.1269, 0.6931]
    """
    loss = build_loss(loss)
    if not isinstance(progress, int | float) or not 0 <= progress <= 1:
        raise UserError("must be {allowed}", key="progress", value=progress, allowed="in 0 .. 1")
    scores = logits_of(logits, "logits")
    wanted = targets_of(targets, "targets", *scores.shape).to(scores.device)
    return loss(scores, wanted, progress)


def build_loss(given: Loss | str | Mapping[str, Any]) -> Loss:
    """Return the loss that a name or settings stand for, or the object itself.

    Raises `UserError`.
    """
    if isinstance(given, Loss):
        return given
    from cosup.registries import Losses, build  # needs pydantic, which objects do not

    return build(Losses, given, "loss")
