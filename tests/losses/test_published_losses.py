"""Losses of Guo et al. (arXiv 2402.03749) as in their published code, worked in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from feature_samples import connected, seen
from helpers.user_errors import error_of, key_of
from plain_formulas import cross_entropy, divergence, soften, softmax
from torch import Tensor

from cosup.losses import (
    AdaptiveConfidence,
    AugmentedConfidence,
    BinaryDistillation,
    CrossEntropy,
    FitNet,
    Objective,
)
from cosup.protocols import FeatureShapes, MapShape


def samples(count: int = 12, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    targets = (2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)).softmax(1)
    targets[0] = F.one_hot(logits[0].argmax(), classes)
    targets[1] = F.one_hot(logits[1].argmin(), classes)
    return logits, targets, torch.randint(0, classes, (count,), generator=generator)


@pytest.mark.parametrize(("progress", "factor"), [(0, 0), (0.1, 0.4), (0.25, 1), (0.9, 1)])
def test_the_adaptive_weight_rises_over_the_ramp(progress: float, factor: float) -> None:
    """Few-shot learning and noisy labels: a is multiplied by the factor, in both terms."""
    logits, targets, _ = samples()
    losses, metrics = AdaptiveConfidence(0.25, 10.0, ramp=0.25)(logits, targets, progress)
    worked, weights = [], []
    for z, t in zip(logits.tolist(), targets.tolist(), strict=True):
        probs = softmax(z)
        own, taught = z.index(max(z)), t.index(max(t))
        top = math.exp(-math.log(probs[own]) / 0.25)
        a = factor * top / (top + math.exp(-math.log(probs[taught]) / 0.25))
        teacher = 100 * divergence(soften(t, 10.0), softmax(z, 10.0))
        worked.append((1 - a) * teacher - a * math.log(probs[own]))
        weights.append(a)
    torch.testing.assert_close(losses, torch.tensor(worked, dtype=torch.float64))
    assert float(metrics["adaptive_weight"]) == pytest.approx(sum(weights) / len(weights))


@pytest.mark.parametrize(("tau", "progress", "weight"), [(4.0, 0.15, 0.25), (1.0, 0.5, 0.5)])
@pytest.mark.parametrize("form", ["cross_entropy", "kl"])
def test_augmented_confidence_may_soften_both(
    tau: float, progress: float, weight: float, form: str
) -> None:
    """(1 - a) tau^2 KL(t || s) + a CE(z, s), with a rising over 0.3 of the training."""
    logits, targets, _ = samples()
    loss = AugmentedConfidence(0.5, ramp=0.3, tau=tau, form=form)  # type: ignore[arg-type]
    losses, _ = loss(logits, targets, progress)
    measure = divergence if form == "kl" else cross_entropy
    worked = [
        (1 - weight) * tau**2 * measure(soften(t, tau), softmax(z, tau))
        - weight * math.log(max(softmax(z)))
        for z, t in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(losses, torch.tensor(worked, dtype=torch.float64))


def test_bkd_is_its_formula_and_torchs() -> None:
    logits, targets, _ = samples()
    losses, _ = BinaryDistillation()(logits, targets, 0.0)
    worked = []
    for z, t in zip(logits.tolist(), targets.tolist(), strict=True):
        sure = [1 / (1 + math.exp(-value)) for value in z]
        terms = [p * math.log(s) + (1 - p) * math.log(1 - s) for p, s in zip(t, sure, strict=True)]
        worked.append(-sum(terms) / len(terms))
    torch.testing.assert_close(losses, torch.tensor(worked, dtype=torch.float64))
    torch.testing.assert_close(losses.mean(), F.binary_cross_entropy_with_logits(logits, targets))


def test_plain_stages_are_the_published_sum() -> None:
    """One 1x1 convolution for each of the last maps, and the mean squared errors added up."""
    student = FeatureShapes(((3, 9, 9), (4, 8, 8), (6, 4, 4), (2, 4, 4)))
    teacher = FeatureShapes(((5, 8, 8), (7, 4, 4), (3, 4, 4)))
    connector = connected(FitNet(weight=2.0, stages=3), student, teacher)
    ours, theirs = seen(student), seen(teacher, seed=1)
    weights = [weight for _, weight in connector.named_parameters()]
    assert [weight.shape for weight in weights] == [(5, 4, 1, 1), (7, 6, 1, 1), (3, 2, 1, 1)]
    worked = torch.zeros(3, dtype=torch.float64)
    for weight, x, hint in zip(weights, ours.maps[1:], theirs.maps, strict=True):
        guess = torch.einsum("bchw,dc->bdhw", x, weight[:, :, 0, 0])
        worked += 2 * (guess - hint).square().mean((1, 2, 3))
    torch.testing.assert_close(connector(ours, theirs, 0.0), worked)
    # He's start by fan out: the variance is 2 over the channels that a pixel goes to.
    torch.manual_seed(0)
    shapes = FeatureShapes(((512, 2, 2),)), FeatureShapes(((256, 2, 2),))
    (weight,) = FitNet(stages=1).connect(*shapes).parameters()
    assert float(weight.var()) == pytest.approx(2 / 256, rel=0.03)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (((4, 8, 8),), ((4, 8, 8), (4, 4, 4))),
        (((4, 8, 8), (4, 4, 4)), ((4, 8, 8), (4, 2, 2))),
    ],
)
def test_plain_stages_need_maps_of_equal_sizes(
    student: tuple[MapShape, ...], teacher: tuple[MapShape, ...]
) -> None:
    found = error_of(FitNet(stages=2).connect, FeatureShapes(student), FeatureShapes(teacher))
    assert (key_of(found), found.value) == ("stages", 2)


@pytest.mark.parametrize("mixed", [False, True])
def test_smoothed_labels_are_torchs(mixed: bool) -> None:
    """Transfer (0.1): labels, and labels of mixed images as timm mixes them."""
    logits, targets, labels = samples()
    given = labels
    if mixed:
        given = 0.3 * F.one_hot(labels, 5).double() + 0.7 * F.one_hot(labels.flip(0), 5)
    losses, _ = Objective(CrossEntropy(), 0.0, 2.0, 0.1)(logits, targets, 0.0, given)
    worked = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    if mixed:
        other = F.cross_entropy(logits, labels.flip(0), reduction="none", label_smoothing=0.1)
        worked = 0.3 * worked + 0.7 * other
    torch.testing.assert_close(losses, 2 * worked)


def test_unknown_labels_are_not_smoothed() -> None:
    logits, targets, labels = samples(5)
    labels[1] = -1
    losses, metrics = Objective(CrossEntropy(), 0.0, 1.0, 0.2)(logits, targets, 0.0, labels)
    assert losses[1] == 0
    known = [0, 2, 3, 4]
    worked = F.cross_entropy(logits[known], labels[known], label_smoothing=0.2)
    assert float(metrics["true_label_loss"]) == pytest.approx(float(worked))
