"""A learned gate: routing by a linear classifier of teachers, fitted by EM without true labels.

The hierarchical mixture of experts of Jordan and Jacobs (1994), which Co-Supervised Learning (Liu
and Alahi, arXiv 2402.15505) leaves out; METHODS.md section 5.

Gate: g(t | x) = softmax(W x + b)_t on the student's features x.
E-step: r_t(x) proportional to [g_t(x) * sum_c p_student(c | x) p_t(c | x)]^sharpening.
M-step: fit the gate to r by penalised multinomial logistic regression.
With `prior: provenance` the training inputs of the teachers are examples whose teacher is known:
the gate is first fitted to them alone, and every M-step includes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cosup.assignment.base import SummingAssigner, available, to_weights
from cosup.assignment.drawing import draw
from cosup.assignment.em import converge
from cosup.assignment.parts import Parts
from cosup.errors import UserError
from cosup.evidence import Evidence, Scopes
from cosup.seeds import torch_generator
from cosup.settings.assigners import GateSettings


class Examples(NamedTuple):
    """Examples: inputs [n, D], targets [n, T] with rows that sum to 1, and their total weight."""

    inputs: Tensor
    targets: Tensor
    weight: float


@dataclass(frozen=True)
class LinearGate:
    """softmax(weight' (x - shift) scale + bias), weight [D, T], bias [T], shift and scale [D]."""

    weight: Tensor
    bias: Tensor
    shift: Tensor
    scale: Tensor

    @staticmethod
    def zeros(inputs: int, teachers: int, shift: Tensor, scale: Tensor) -> "LinearGate":
        """Return the gate that gives all teachers equal weights."""
        return LinearGate(
            shift.new_zeros(inputs, teachers), shift.new_zeros(teachers), shift, scale
        )

    def __call__(self, features: Tensor) -> Tensor:
        """Return logits [n, T] of raw features [n, D]."""
        return self.logits((features.float() - self.shift) * self.scale)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits [n, T] of standardised inputs [n, D]."""
        return torch.addmm(self.bias, inputs, self.weight)

    def to(self, device: torch.device) -> "LinearGate":
        """Return the gate on this device."""
        return LinearGate(**{name: part.to(device) for name, part in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by name."""
        return {"weight": self.weight, "bias": self.bias, "shift": self.shift, "scale": self.scale}


def standardisation(features: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """Return the shift and scale [D] that give features [N, D] mean 0 and variance 1.

    Constant features are not scaled. Returns 0 and 1 if not wanted.
    """
    if not wanted:
        return features.new_zeros(features.shape[1]), features.new_ones(features.shape[1])
    variance, mean = torch.var_mean(features, dim=0, correction=0)
    return mean, torch.where(variance > 1e-12, variance, torch.ones_like(variance)).rsqrt()


def fit_gate(
    start: LinearGate, examples: Sequence[Examples], weight_decay: float, steps: int
) -> LinearGate:
    """Minimise cross-entropy with the targets + weight_decay / 2 |weight|^2 by L-BFGS."""
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


@dataclass
class Gate(GateSettings, SummingAssigner):
    """Assign each sample by a linear gate on the student's features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gate_: LinearGate | None = None

    def fit_parts(
        self,
        parts: Parts,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Fit the gate by EM to samples of all parts; the seed draws them if there are too many.

        Raises `UserError` without features, or if the required provenance is missing or has no
        training input of some teacher.
        """
        generator = torch_generator(seed, "gate", "samples")
        found = draw(parts, _learned, self.max_samples, generator, "gate")
        features, likelihood = found.columns
        shift, scale = standardisation(features, self.standardize)
        inputs = features.sub_(shift).mul_(scale)
        gate = LinearGate.zeros(inputs.shape[1], len(scopes), shift, scale)
        known: list[Examples] = []
        if self.prior == "provenance":
            known_inputs, membership = _known(provenance, scopes, inputs.shape[1])
            known_inputs = known_inputs.sub_(shift).mul_(scale)
            start = Examples(known_inputs, membership, 1.0)
            gate = fit_gate(gate, [start], self.weight_decay, 5 * self.steps)
            known = [start._replace(weight=self.provenance_strength)]
        self.gate_ = self._expect_and_maximise(gate, inputs, likelihood, known)

    def _expect_and_maximise(
        self, gate: LinearGate, inputs: Tensor, likelihood: Tensor, known: list[Examples]
    ) -> LinearGate:
        """Run EM on standardised inputs [N, D], log-likelihoods [N, T] and examples with known
        teachers."""

        def responsibilities() -> Tensor:
            joint = gate.logits(inputs).log_softmax(1) + likelihood
            return (self.sharpening * joint).softmax(1)

        expected = responsibilities()

        def step() -> float:
            nonlocal gate, expected
            routed = Examples(inputs, expected, 1.0)
            gate = fit_gate(gate, [routed, *known], self.weight_decay, self.steps)
            before, expected = expected, responsibilities()
            return float((expected - before).abs().sum(1).mean()) / 2

        converge(step, self.iterations, self.tolerance)
        return gate

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return weights [N, T]: probabilities of the answering teachers (one-hot if hard).

        Raises `UserError` before `fit` and without features.
        """
        if self.gate_ is None:
            raise UserError("assigner gate: call 'fit' or 'load_state_dict' first")
        features = _features(evidence)
        annotations = evidence.annotations
        logits = self.gate_.to(features.device)(features).to(annotations)
        return to_weights(logits, available(annotations), self.hard)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weight [D, T], bias [T], and the shift and scale [D] of the features."""
        return {} if self.gate_ is None else self.gate_.tensors()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state returned by `state_dict`."""
        self.gate_ = LinearGate(**state) if state else None


def _features(evidence: Evidence) -> Tensor:
    if evidence.features is None:
        raise UserError("assigner gate: no features were given; it needs the student's features")
    return evidence.features


def _learned(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Return features [n, D] float32 and log sum_c p_student(c) p_t(c) [n, T]."""
    features = _features(evidence)
    overlap = torch.einsum("nc,ntc->nt", evidence.student_probs, evidence.annotations)
    overlap = overlap.clamp_min(1e-12).log()
    silent = ~available(evidence.annotations)
    return features.float(), overlap.masked_fill(silent, -torch.inf)


def _known(
    provenance: tuple[Tensor, Tensor] | None, scopes: Scopes, width: int
) -> tuple[Tensor, Tensor]:
    """Return copies of the features [M, D] of the training inputs, and of the membership [M, T]
    with rows that sum to 1."""
    if provenance is None:
        raise UserError(
            "assigner gate: prior: provenance: the teachers' training inputs were not given; "
            "use prior: uniform"
        )
    features, membership = provenance
    if features.shape[1] != width or membership.shape != (len(features), len(scopes)):
        raise UserError(
            f"assigner gate: provenance of shapes {tuple(features.shape)} and "
            f"{tuple(membership.shape)}: must be [M, {width}] and [M, {len(scopes)}]"
        )
    membership = membership.float()
    for name, inputs in zip(scopes.names, membership.sum(0).tolist(), strict=True):
        if not inputs:
            raise UserError(
                f"assigner gate: prior: provenance: teacher '{name}' has no training input here; "
                "use prior: uniform"
            )
    used = membership.sum(1) > 0
    membership = membership[used]
    return features[used].to(torch.float32, copy=True), membership / membership.sum(1, keepdim=True)
