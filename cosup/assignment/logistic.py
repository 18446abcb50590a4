"""The gate's model and its M-step: multinomial logistic regression on soft targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Examples: inputs [n, D], targets [n, T] whose rows sum to 1, and what they count together."""

    inputs: Tensor
    targets: Tensor
    weight: float


@dataclass(frozen=True)
class LinearGate:
    """softmax(weight' (x - shift) scale + bias): weight [D, T], bias [T], shift and scale [D]."""

    weight: Tensor
    bias: Tensor
    shift: Tensor
    scale: Tensor

    @staticmethod
    def zeros(inputs: int, teachers: int, shift: Tensor, scale: Tensor) -> "LinearGate":
        """The gate that sends every sample to all teachers alike."""
        return LinearGate(
            shift.new_zeros(inputs, teachers), shift.new_zeros(teachers), shift, scale
        )

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [n, T] of features [n, D] as they come."""
        return self.logits((features.float() - self.shift) * self.scale)

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits [n, T] of inputs [n, D] that are standardised already."""
        return torch.addmm(self.bias, inputs, self.weight)

    def to(self, device: torch.device) -> "LinearGate":
        """The same gate on this device."""
        return LinearGate(**{name: part.to(device) for name, part in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        return {"weight": self.weight, "bias": self.bias, "shift": self.shift, "scale": self.scale}


def standardisation(features: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """Shift and scale [D] that give features [N, D] mean 0 and variance 1 (0 and 1 if unwanted).

    A feature that doesn't vary keeps its scale.
    """
    if not wanted:
        return features.new_zeros(features.shape[1]), features.new_ones(features.shape[1])
    variance, mean = torch.var_mean(features, dim=0, correction=0)
    return mean, torch.where(variance > 1e-12, variance, torch.ones_like(variance)).rsqrt()


def fit_gate(
    start: LinearGate, examples: Sequence[Rows], weight_decay: float, steps: int
) -> LinearGate:
    """Minimise the mean cross-entropy to the targets + weight_decay / 2 |weight|^2 by L-BFGS."""
    weight, bias = start.weight.clone(), start.bias.clone()
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def loss_and_gradient() -> float:
        gate = LinearGate(weight.detach(), bias.detach(), start.shift, start.scale)
        loss = weight_decay / 2 * float(gate.weight.square().sum())
        weight.grad, bias.grad = weight_decay * gate.weight, torch.zeros_like(gate.bias)
        for rows in examples:
            share = rows.weight / len(rows.inputs)
            log_probs = gate.logits(rows.inputs).log_softmax(1)
            loss -= share * float((rows.targets * log_probs).sum())
            error = (log_probs.exp() - rows.targets) * share
            weight.grad += rows.inputs.T @ error
            bias.grad += error.sum(0)
        return loss

    optimizer.step(loss_and_gradient)  # type: ignore[no-untyped-call]
    return LinearGate(weight.detach(), bias.detach(), start.shift, start.scale)
