"""The terms that losses are made of: logits and targets [..., B, C] to one number per sample."""

import torch
from torch import Tensor


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


def answered(targets: Tensor) -> Tensor:
    """[..., B] bool: rows that are annotations; a row of zeros is an abstention."""
    return targets.amax(-1) > 0
