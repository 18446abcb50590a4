"""The evidential loss against torch's Dirichlet distributions, and its start."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.nn.functional import one_hot, softplus

from cosup.losses import CrossEntropy, Evidential, Objective
from cosup.losses.base import Loss
from cosup.models.fit import fit_heads
from cosup.models.head_fit import HeadFit
from cosup.models.section import HeadSection
from cosup.models.training_section import TrainingSection
from cosup.probabilities import ProbTable


def of_class(evidence: Tensor, label: int, progress: float) -> Tensor:
    """The loss of one sample [C] and class, from torch's own Dirichlet distributions."""
    alpha = evidence + 1
    rest = alpha.clone()
    rest[label] = 1
    divergence = kl_divergence(Dirichlet(rest), Dirichlet(torch.ones_like(rest)))
    return alpha.sum().log() - alpha[label].log() + progress * divergence


@pytest.mark.parametrize("kind", ["relu", "softplus"])
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_loss_is_that_of_dirichlet_distributions(kind: str, progress: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(8, 5, generator=generator, dtype=torch.float64)
    targets = torch.randn(8, 5, generator=generator, dtype=torch.float64).softmax(1)
    loss = Evidential(0.4, kind)  # type: ignore[arg-type]
    found, metrics = loss(logits, targets, progress)
    for row in range(8):
        evidence = logits[row].clamp_min(0) if kind == "relu" else softplus(logits[row])
        each = torch.stack([of_class(evidence, label, progress) for label in range(5)])
        expected = 0.6 * (targets[row] * each).sum() + 0.4 * each[int(logits[row].argmax())]
        torch.testing.assert_close(found[row], expected)
    assert 0 < float(metrics["uncertainty"]) <= 1


def test_the_mean_of_hard_annotations_is_the_published_sum_over_teachers() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    answers = torch.randint(4, (6, 3), generator=generator)
    hard = one_hot(answers, 4).double()
    loss = Evidential(gamma=0.0)
    mixed, _ = loss(logits, hard.mean(1), 0.5)
    each = torch.stack([loss(logits, hard[:, t], 0.5)[0] for t in range(3)])
    torch.testing.assert_close(mixed, each.mean(0))


def fit(loss: Loss, heads: int = 1) -> HeadFit:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(120) % 3
    features = torch.randn(120, 8, generator=generator) + 4 * one_hot(labels, 8).float()
    return HeadFit(
        features,
        ProbTable.one_hot(labels, 3),
        members=[torch.arange(120)] * heads,
        head=HeadSection(kind="linear"),
        training=TrainingSection(steps=60, lr=0.05),
        objective=Objective(loss),
        seed=0,
    )


def test_a_linear_head_starts_where_it_can_learn() -> None:
    """At random with relu, which has no gradient at zero; the same start for the same seed."""
    start = fit(Evidential(), heads=2).start()
    assert 0 < float(start.weight.detach().abs().max()) <= 8**-0.5
    assert torch.equal(start.weight[0], start.weight[1])
    assert torch.equal(start.weight, fit(Evidential(), heads=2).start().weight)
    for loss in (Evidential(evidence="softplus"), CrossEntropy()):
        assert float(fit(loss).start().weight.detach().abs().max()) == 0


@pytest.mark.parametrize("kind", ["relu", "softplus"])
def test_a_head_learns(kind: str) -> None:
    given = fit(Evidential(evidence=kind))  # type: ignore[arg-type]
    bank = fit_heads(given)
    right = bank(given.features)[0].argmax(1) == torch.arange(120) % 3
    assert float(right.float().mean()) > 0.9


def test_from_zero_relu_would_not_learn() -> None:
    logits = torch.zeros(4, 3, requires_grad=True)
    losses, _ = Evidential()(logits, torch.eye(3)[[0, 1, 2, 0]], 0.5)
    losses.sum().backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0
