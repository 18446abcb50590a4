"""RAVEN: weights over the teachers, learned together with a student of their mixture.

Jeon et al., "Weak-to-strong generalization under distribution shifts", arXiv 2510.21332, and its
published code (mlbio-epfl/raven, `rw2s/vision/ensemble.py`); METHODS.md section 5.

    minimise over student and w:  CE(student(x), sum_t w_t p_t(x)),   w on the simplex

The student moves by Adam, w by plain gradient steps, each followed by clamping at 1e-6 and scaling
to sum 1: a teacher gains weight where the student, who averages over all samples, agrees with it.
In the first epochs w rests, and the student learns only from samples on which all teachers agree.

Here the student is a linear probe on the student's features, as in the published code, so that the
weights serve students of any kind: cosup's own student is then trained on the mixture.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosup.assignment.base import SummingAssigner, available, to_weights
from cosup.assignment.em import answered
from cosup.assignment.gate import standardisation
from cosup.assignment.parts import Parts
from cosup.assignment.probe import Drawn, draw_samples, shuffled
from cosup.errors import UserError
from cosup.evidence import Evidence, Scopes
from cosup.seeds import torch_generator
from cosup.settings.assigners import RavenSettings

BATCH = 128
LEAST_WEIGHT = 1e-6


@dataclass
class Raven(RavenSettings, SummingAssigner):
    """Mix the teachers by weights that are learned together with a linear probe."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weights_: Tensor | None = None
        """[T]: the weights; with `per_sample` their mean."""
        self.own_: Tensor | None = None
        """[N, T]: the weights of each sample, with `per_sample`."""

    def check(self, scopes: Scopes) -> None:
        """Raise `UserError` for a single teacher: there is nothing to weigh."""
        if len(scopes) < 2:
            raise UserError(
                f"assigner raven learns weights over teachers, and '{scopes.names[0]}' is the only "
                "one; use single"
            )

    def fit_parts(
        self,
        parts: Parts,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Learn the weights from samples of all parts; the seed draws them, if there are too many,
        and their order.

        Raises `UserError` without features or samples, and for more samples than `max_samples` (or
        2^28 annotation values) with `per_sample`.
        """
        whole = "per_sample" if self.per_sample else None
        samples = draw_samples(parts, self.max_samples, seed, "raven", whole)
        weights = self._learn(samples, seed)
        self.weights_ = weights.mean(0)
        self.own_ = None
        if self.per_sample:
            self.own_ = self.weights_.repeat(samples.count, 1)
            self.own_[samples.index] = weights

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return the weights [N, T], scaled to the teachers that answer; raise `UserError` before
        `fit`."""
        if self.weights_ is None:
            raise UserError("assigner raven: call 'fit' or 'load_state_dict' first")
        annotations = evidence.annotations
        found = self.weights_.expand(len(evidence), -1)
        if self.own_ is not None:
            found = self.own_[evidence.indices().to(self.own_.device)]
        return to_weights(found.to(annotations).log(), available(annotations), hard=False)

    def elsewhere(self) -> "Raven":
        """Return the assigner of other samples, whose weights are the mean of those it knows."""
        other = replace(self)
        other.weights_ = self.weights_
        return other

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights [T], and with `per_sample` those of each sample [N, T]."""
        named = {"weights": self.weights_, "own": self.own_}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state returned by `state_dict`."""
        self.weights_, self.own_ = state.get("weights"), state.get("own")

    def _learn(self, samples: Drawn, seed: int) -> Tensor:
        """Return the learned weights [1, T], or [n, T] with `per_sample`."""
        shift, scale = standardisation(samples.features, self.standardize)
        inputs = (samples.features - shift) * scale
        size, teachers, classes = samples.annotations.shape
        probe = Probe(inputs.shape[1], classes, self.lr, inputs)
        weights = inputs.new_full((size if self.per_sample else 1, teachers), 1 / teachers)
        agreed = all_agree(samples.annotations)
        easy_epochs = round(self.easy * self.epochs) if bool(agreed.any()) else 0
        generator = torch_generator(seed, "raven", "batches")
        steps = self.epochs * -(-size // BATCH)
        for step, (epoch, rows) in enumerate(shuffled(size, self.epochs, BATCH, generator)):
            easy = epoch < easy_epochs
            rows = rows.to(agreed.device)
            if easy:
                rows = rows[agreed[rows]]
                if not len(rows):
                    continue
            own = rows if self.per_sample else slice(None)
            gradient = probe.step(
                inputs[rows], samples.annotations[rows], weights[own], step / steps
            )
            if not easy:
                weights[own] = projected(weights[own] - self.weight_lr * gradient)
        return weights


class Probe:
    """A linear classifier that starts at zero and learns by Adam, with a rate that falls as a
    cosine to 0."""

    def __init__(self, width: int, classes: int, lr: float, like: Tensor) -> None:
        self.weight = like.new_zeros(width, classes).requires_grad_()
        self.bias = like.new_zeros(classes).requires_grad_()
        self.lr = lr
        self.optimizer = torch.optim.Adam([self.weight, self.bias], lr=lr)

    def step(self, inputs: Tensor, annotations: Tensor, weights: Tensor, progress: float) -> Tensor:
        """Learn from inputs [B, D] with annotations [B, T, C] mixed by weights [1 or B, T].

        Returns the gradient of the weights: of the mean loss for one vector [1, T], of each
        sample's own loss for several [B, T].
        """
        weights = weights.detach().requires_grad_()
        with torch.enable_grad():
            logits = torch.addmm(self.bias, inputs, self.weight)
            losses = mixture_loss(logits, annotations, weights)
            self.optimizer.zero_grad()
            losses.mean().backward()  # type: ignore[no-untyped-call]
        rate = self.lr * (1 + float(torch.tensor(torch.pi * progress).cos())) / 2
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        assert weights.grad is not None
        return weights.grad * (len(inputs) if len(weights) > 1 else 1)


def mixture_loss(logits: Tensor, annotations: Tensor, weights: Tensor) -> Tensor:
    """Return the cross-entropy [B] of logits [B, C] with the mixture of annotations [B, T, C].

    weights: [1 or B, T]; scaled to the teachers that answer, as the published code does.
    """
    mixed = (weights[:, :, None] * annotations).sum(1)
    targets = mixed / mixed.sum(1, keepdim=True).clamp_min(1e-12)
    return -(targets * logits.log_softmax(1)).sum(1)


def projected(weights: Tensor) -> Tensor:
    """Return weights [..., T] that are clamped at 1e-6 and scaled to sum 1."""
    clamped = weights.clamp_min(LEAST_WEIGHT)
    return clamped / clamped.sum(-1, keepdim=True)


def all_agree(annotations: Tensor) -> Tensor:
    """Return [n] bool: whether the teachers that answer give the same most probable class."""
    labels = answered(annotations)
    silent = labels < 0
    highest = labels.amax(1, keepdim=True)
    return ((labels == highest) | silent).all(1) & (highest[:, 0] >= 0)
