"""Targets from live teachers: their annotations of augmented images, mixed and hardened."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from cosup.protocols import TINIEST, NetworkOutput

__all__ = ["live_targets"]

IMPOSSIBLE = math.log(TINIEST) + 1e-3
"""Log-probabilities up to this stand for probability 0."""


def live_targets(
    ask: Callable[[Tensor], NetworkOutput],
    first: tuple[Tensor, NetworkOutput],
    mixture: Tensor | None,
    stored: Tensor,
    *,
    hard: bool,
) -> Tensor:
    """Return what the teachers of each image say of it [B, C], mixed by their weights.

    ask: returns the output of teacher [B] int64 (negative: none) for each image. first: a teacher
    of each image, and its output, which is there already. mixture: [B, T] weights of the teachers;
    a row of zeros keeps the `stored` target; None takes the first teacher alone. hard: leave the
    most probable class alone.
    """
    teacher, output = first
    probs = _probabilities(output)
    if mixture is not None:
        weights = mixture.to(probs)
        mixed = weights.gather(1, teacher.to(probs.device)[:, None]) * probs
        for number in range(mixture.shape[1]):
            # Where both are, on the CPU in a training: to look is not to wait for the device.
            others = (mixture[:, number] > 0) & (teacher != number)
            if bool(others.any()):
                said = _probabilities(ask(torch.where(others, number, -1)))
                share = torch.where(others.to(probs.device), weights[:, number], 0.0)
                mixed = mixed + share[:, None] * said
        total = mixed.sum(1, keepdim=True)
        probs = mixed / torch.where(total > 0, total, 1.0)
    if hard:
        probs = functional.one_hot(probs.argmax(1), probs.shape[1]).to(probs)
    if mixture is None:
        return probs
    return torch.where(weights.sum(1, keepdim=True) > 0, probs, stored.to(probs))


def _probabilities(output: NetworkOutput) -> Tensor:
    """Return probabilities [B, C], 0 for the classes outside a teacher's scope."""
    logits = output.logits.float()
    return logits.exp().masked_fill(logits <= IMPOSSIBLE, 0.0)
