"""The crowd layer: a matrix per teacher on top of a linear probe, learned together with it.

Rodrigues and Pereira, "Deep learning from crowds", AAAI 2018, arXiv 1709.01779, and its published
code (fmpr/CrowdLayer: `CrowdsClassification` with `MW`, `MaskedMultiCrossEntropy`); METHODS.md
section 5.

    minimise over the probe and the W_t:
    1/T sum over the teachers t that answer of CE(softmax(W_t softmax(probe(x))), annotation of t)

The W_t start at the identity. A teacher's errors are explained by its matrix, and what is left to
the probe is the class. The probe is on the student's features, as the published one is on VGG-16's,
and its probabilities are the assigned annotations, so that students of any kind are taught by them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import SummingAssigner, available, to_weights
from cosup.assignment.em import EPSILON
from cosup.assignment.gate import standardisation
from cosup.assignment.parts import Parts
from cosup.assignment.probe import Drawn, draw_samples, shuffled
from cosup.errors import UserError
from cosup.evidence import Assigned, Evidence, Scopes
from cosup.seeds import torch_generator
from cosup.settings.assigners import CrowdLayerSettings

BATCH = 64


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features [n, D]: softmax((x - shift) * scale @ weight + bias).

    weight: [D, C]. bias: [C]. shift, scale: [D].
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor
    scale: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return the probabilities [n, C]."""
        inputs = (features.float() - self.shift) * self.scale
        return torch.addmm(self.bias, inputs, self.weight).softmax(1)


@dataclass
class CrowdLayer(CrowdLayerSettings, SummingAssigner):
    """Assign what a probe predicts that was trained through a matrix per teacher."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.probe_: Probe | None = None
        self.confusion_: Tensor | None = None
        """[T, C, C] float32: P(teacher t answers j | true class c) at [t, c, j], softmax of column
        c of W_t."""

    def fit_parts(
        self,
        parts: Parts,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Learn probe and matrices from samples of all parts; the seed draws them, if there are too
        many, and their order.

        Raises `UserError` without features or samples.
        """
        samples = draw_samples(parts, self.max_samples, seed, "crowd_layer")
        self.probe_, matrices = self._learn(samples, seed)
        self.confusion_ = matrices.softmax(1).mT.contiguous()

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return weights [N, T] in proportion to the probability that a teacher's answer is right,
        of those that answer; raise `UserError` before `fit`."""
        return self.assign(evidence, scopes).weights

    def assign(self, evidence: Evidence, scopes: Scopes) -> Assigned:
        """Return the probe's probabilities [N, C] (all zero where no teacher answers), and the
        weights [N, T].

        Raises `UserError` before `fit` and without features.
        """
        if self.probe_ is None:
            raise UserError("assigner crowd_layer: call 'fit' or 'load_state_dict' first")
        if evidence.features is None:
            raise UserError("assigner crowd_layer: no features were given; it needs the student's")
        annotations = evidence.annotations
        probs = self.probe_(evidence.features).to(annotations)
        right = torch.einsum("nc,ntc->nt", probs, annotations).clamp_min(EPSILON)
        weights = to_weights(right.log(), available(annotations), hard=False)
        return Assigned(weights, probs * (annotations.sum((1, 2)) > 0)[:, None])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the confusion matrices [T, C, C] and the probe; empty before `fit`."""
        if self.probe_ is None or self.confusion_ is None:
            return {}
        return {"confusion": self.confusion_, **vars(self.probe_)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state returned by `state_dict`."""
        self.confusion_ = state.get("confusion")
        probe = {name: tensor for name, tensor in state.items() if name != "confusion"}
        self.probe_ = Probe(**probe) if probe else None

    def _learn(self, samples: Drawn, seed: int) -> tuple[Probe, Tensor]:
        """Return the probe, and the matrices [T, C, C] as in `crowd_loss`."""
        inputs, answers = samples.features, samples.annotations
        size, teachers, classes = answers.shape
        shift, scale = standardisation(inputs, self.standardize)
        probe = Probe(
            inputs.new_zeros(inputs.shape[1], classes), inputs.new_zeros(classes), shift, scale
        )
        matrices = torch.eye(classes, device=inputs.device).repeat(teachers, 1, 1)
        learned = [each.requires_grad_() for each in (probe.weight, probe.bias, matrices)]
        optimizer = torch.optim.Adam(learned, lr=self.lr)
        if self.annotations == "hard":
            answers = hardened(answers)
        generator = torch_generator(seed, "crowd_layer", "batches")
        for _, rows in shuffled(size, self.epochs, BATCH, generator):
            rows = rows.to(inputs.device)
            with torch.enable_grad():
                losses = crowd_loss(probe(inputs[rows]), answers[rows], matrices)
                optimizer.zero_grad()
                losses.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for each in learned:
            each.requires_grad_(False)
        return probe, matrices


def crowd_loss(probs: Tensor, annotations: Tensor, matrices: Tensor) -> Tensor:
    """Return the loss [B] of probabilities [B, C] with the annotations [B, T, C] of all teachers.

    matrices: [T, C, C], the score of the answer j where the class is c at [t, j, c]. The loss is
    the sum of the cross-entropies of the teachers that answer, divided by T as in the published
    code, so that a sample with more answers counts for more.
    """
    scores = torch.einsum("tjc,bc->btj", matrices, probs)
    return -(annotations * scores.log_softmax(2)).sum((1, 2)) / annotations.shape[1]


def hardened(annotations: Tensor) -> Tensor:
    """Return the most probable classes of annotations [N, T, C] as one-hot rows; an abstention
    stays all zero."""
    hard = torch.zeros_like(annotations).scatter_(2, annotations.argmax(2, keepdim=True), 1.0)
    return hard * (annotations.sum(2, keepdim=True) > 0)
