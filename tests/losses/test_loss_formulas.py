"""Every loss equals its formula, worked sample by sample in plain float64 Python, and torch's own
functional where one exists."""

import math

import pytest
import torch
import torch.nn.functional as F
from plain_formulas import cross_entropy, divergence, soften, softmax
from torch import Tensor

from cosup.losses import (
    AdaptiveConfidence,
    AugmentedConfidence,
    CrossEntropy,
    DecoupledDistillation,
    Distillation,
    Product,
    ReverseCrossEntropy,
)


def samples(count: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    targets = (2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)).softmax(1)
    targets[0] = F.one_hot(logits[0].argmax(), classes)  # hard, agreeing
    targets[1] = F.one_hot(logits[1].argmin(), classes)  # hard, against the student
    targets[2] = torch.tensor([0.5, 0.5, 0, 0, 0])  # outside its scope the teacher gives 0
    return logits, targets


def adaptive(z: list[float], t: list[float], temperature: float, tau: float, form: str) -> float:
    probs = softmax(z)
    own, taught = z.index(max(z)), t.index(max(t))
    temperature = 1.0 if form == "paper" else temperature
    top = math.exp(-math.log(probs[own]) / temperature)
    weight = top / (top + math.exp(-math.log(probs[taught]) / temperature))
    if form == "paper":
        teacher = cross_entropy(t, probs)
    else:
        teacher = tau**2 * divergence(soften(t, tau), softmax(z, tau))
    return (1 - weight) * teacher - weight * math.log(probs[own])


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize(("temperature", "tau"), [(0.5, 1.0), (4.0, 4.0), (0.25, 10.0)])
def test_adaptive_confidence_is_its_formula(form: str, temperature: float, tau: float) -> None:
    logits, targets = samples()
    losses, _ = AdaptiveConfidence(temperature, tau, form)(logits, targets, 0.3)  # type: ignore[arg-type]
    worked = [
        adaptive(z, t, temperature, tau, form)
        for z, t in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(losses, torch.tensor(worked, dtype=torch.float64))


def test_adaptive_weight_is_the_closed_form_and_at_most_one_half() -> None:
    """a = 1 / (1 + (p[s] / p[t])^(1/T)) <= 1/2, with equality where the two agree."""
    logits, targets = samples(200)
    for i in range(200):
        _, metrics = AdaptiveConfidence(0.5)(logits[i : i + 1], targets[i : i + 1], 0.0)
        probs = logits[i].softmax(0)
        ratio = probs.max() / probs[targets[i].argmax()]
        assert float(metrics["adaptive_weight"]) == pytest.approx(float(1 / (1 + ratio**2)))
        assert float(metrics["adaptive_weight"]) <= 0.5
        agree = int(logits[i].argmax() == targets[i].argmax())
        assert float(metrics["agreement"]) == agree
        assert (float(metrics["adaptive_weight"]) == 0.5) == bool(agree)


def test_adaptive_weight_passes_no_gradient() -> None:
    """With a fixed at its value, the gradient is that of the two terms alone."""
    logits, targets = samples()
    logits.requires_grad_()
    AdaptiveConfidence(0.5)(logits, targets, 0.0)[0].sum().backward()
    assert logits.grad is not None
    probs = logits.detach().softmax(1)
    ratio = probs.amax(1) / probs.gather(1, targets.argmax(1, keepdim=True))[:, 0]
    weight = (1 / (1 + ratio**2))[:, None]
    own = F.one_hot(probs.argmax(1), 5)
    worked = (1 - weight) * (probs - targets) + weight * (probs - own)
    torch.testing.assert_close(logits.grad, worked)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_distillation_is_its_formula_and_torchs(tau: float) -> None:
    logits, targets = samples()
    losses, _ = Distillation(tau)(logits, targets, 0.0)
    worked = [
        tau**2 * divergence(soften(t, tau), softmax(z, tau))
        for z, t in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(losses, torch.tensor(worked, dtype=torch.float64))
    teacher_logits = targets[3:].log()
    reference = F.kl_div(
        F.log_softmax(logits[3:] / tau, 1), F.softmax(teacher_logits / tau, 1), reduction="none"
    )
    torch.testing.assert_close(losses[3:], tau**2 * reference.sum(1))


@pytest.mark.parametrize(("tau", "teacher_tau"), [(1.0, 4.0), (4.0, 1.0), (2.0, 0.5), (3.0, None)])
@pytest.mark.parametrize("form", ["kl", "cross_entropy"])
def test_distillation_may_soften_the_teacher_otherwise(
    tau: float, teacher_tau: float | None, form: str
) -> None:
    """Against torch's own functions; for hard and scoped annotations by hand."""
    logits, targets = samples()
    loss = Distillation(tau, teacher_tau, form)  # type: ignore[arg-type]
    losses, _ = loss(logits, targets, 0.0)
    softened = tau if teacher_tau is None else teacher_tau
    teacher = F.softmax(targets[3:].log() / softened, 1)
    student = F.log_softmax(logits[3:] / tau, 1)
    if form == "kl":
        reference = F.kl_div(student, teacher, reduction="none").sum(1)
    else:
        reference = F.cross_entropy(logits[3:] / tau, teacher, reduction="none")
    torch.testing.assert_close(losses[3:], tau**2 * reference)
    measure = divergence if form == "kl" else cross_entropy
    worked = [
        tau**2 * measure(soften(t, softened), softmax(z, tau))
        for z, t in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(losses, torch.tensor(worked, dtype=torch.float64))


def test_both_forms_of_distillation_have_one_gradient_and_differ_by_the_teachers_entropy() -> None:
    logits, targets = samples()
    found = []
    for form in ("kl", "cross_entropy"):
        given = logits.clone().requires_grad_()
        losses, _ = Distillation(2.0, 3.0, form)(given, targets, 0.0)  # type: ignore[arg-type]
        losses.sum().backward()
        found.append((losses.detach(), given.grad))
    torch.testing.assert_close(found[0][1], found[1][1])
    softened = [soften(t, 3.0) for t in targets.tolist()]
    entropy = [-sum(p * math.log(p) for p in row if p > 0) for row in softened]
    torch.testing.assert_close(
        found[1][0] - found[0][0], 4 * torch.tensor(entropy, dtype=torch.float64)
    )


@pytest.mark.parametrize("form", ["kl", "cross_entropy"])
def test_distillation_of_an_abstention_is_nothing(form: str) -> None:
    logits = torch.randn(2, 3, 5, dtype=torch.float64).requires_grad_()
    losses, _ = Distillation(2.0, 3.0, form)(logits, torch.zeros(2, 3, 5), 0.0)  # type: ignore[arg-type]
    losses.sum().backward()
    assert losses.tolist() == [[0.0] * 3] * 2
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("floor", [1e-4, 0.05])
def test_reverse_cross_entropy_is_its_formula(floor: float) -> None:
    logits, targets = samples()
    losses, _ = ReverseCrossEntropy(floor)(logits, targets, 0.1)
    worked = [
        -sum(p * math.log(max(q, floor)) for p, q in zip(softmax(z), t, strict=True))
        for z, t in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(losses, torch.tensor(worked, dtype=torch.float64))


def test_reverse_cross_entropy_seeks_one_class_where_cross_entropy_copies_doubt() -> None:
    """By gradient descent, from a student that leans to the more probable of two classes."""
    targets = torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64)
    ends = {}
    for loss in (ReverseCrossEntropy(), CrossEntropy()):
        logits = torch.tensor([[1.0, 0.8, 0.0]], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([logits], lr=1.0)
        for _ in range(2000):
            optimizer.zero_grad()
            loss(logits, targets, 1.0)[0].sum().backward()
            optimizer.step()
        ends[type(loss)] = logits.detach().softmax(1)[0].tolist()
    assert ends[ReverseCrossEntropy][0] > 0.99
    assert ends[CrossEntropy][0] == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)])
def test_product_is_its_formula_and_passes_no_gradient_through_its_target(
    alpha: float, beta: float
) -> None:
    logits, targets = samples()
    logits.requires_grad_()
    losses, metrics = Product(alpha, beta, warmup=0.1)(logits, targets, 0.1)
    worked, gradients, changed = [], [], 0
    for z, t in zip(logits.tolist(), targets.tolist(), strict=True):
        probs = softmax(z)
        powers = [p**beta * q**alpha if q else 0.0 for p, q in zip(probs, t, strict=True)]
        joint = [power / sum(powers) for power in powers]
        worked.append(cross_entropy(joint, probs))
        gradients.append([p - q for p, q in zip(probs, joint, strict=True)])
        changed += joint.index(max(joint)) != t.index(max(t))
    torch.testing.assert_close(losses.detach(), torch.tensor(worked, dtype=torch.float64))
    losses.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor(gradients, dtype=torch.float64))
    assert float(metrics["changed"]) == pytest.approx(changed / 12)
    assert not beta or changed


@pytest.mark.parametrize("loss", [Product, ReverseCrossEntropy])
def test_losses_that_follow_the_student_start_with_plain_cross_entropy(
    loss: type[Product] | type[ReverseCrossEntropy],
) -> None:
    logits, targets = samples()
    plain, _ = CrossEntropy()(logits, targets, 0.0)
    early, metrics = loss(warmup=0.1)(logits, targets, 0.09)
    assert early.equal(plain)
    assert float(metrics.get("changed", 0)) == 0
    assert not loss(warmup=0.0)(logits, targets, 0.0)[0].allclose(plain)


def test_cross_entropy_is_torchs() -> None:
    logits, targets = samples()
    reference = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(CrossEntropy()(logits, targets, 0.0)[0], reference)


@pytest.mark.parametrize(
    ("progress", "weight"), [(0.0, 0.0), (0.1, 0.3), (0.25, 0.75), (0.6, 0.75), (1.0, 0.75)]
)
def test_augmented_confidence_is_its_formula(progress: float, weight: float) -> None:
    """a rises linearly from 0 to max_weight over the ramp, and stays there."""
    logits, targets = samples()
    losses, metrics = AugmentedConfidence(0.75, ramp=0.25)(logits, targets, progress)
    worked = []
    for z, t in zip(logits.tolist(), targets.tolist(), strict=True):
        probs = softmax(z)
        own = -math.log(max(probs))
        worked.append((1 - weight) * cross_entropy(t, probs) + weight * own)
    torch.testing.assert_close(losses, torch.tensor(worked, dtype=torch.float64))
    assert float(metrics["own_weight"]) == pytest.approx(weight)


def test_a_ramp_of_zero_starts_at_the_full_weight() -> None:
    assert AugmentedConfidence(0.5, ramp=0.0).weight(0.0) == 0.5


def decoupled(z: list[float], t: list[float], y: int, tau: float) -> tuple[float, float]:
    """TCKD and NCKD as the paper defines them, by sums of probabilities; NCKD over the classes that
    the annotation names."""
    student, teacher = softmax(z, tau), soften(t, tau)
    tckd = divergence([teacher[y], 1 - teacher[y]], [student[y], 1 - student[y]])
    rest = [c for c in range(len(z)) if c != y and t[c] > 0]
    left = sum(teacher[c] for c in rest)
    if left == 0:
        return tckd, 0.0
    named = sum(student[c] for c in rest)
    among = [student[c] / named for c in rest]
    return tckd, divergence([teacher[c] / left for c in rest], among)


@pytest.mark.parametrize(("alpha", "beta", "tau"), [(1.0, 8.0, 4.0), (0.5, 2.0, 1.0)])
@pytest.mark.parametrize("labelled", [False, True])
def test_dkd_is_its_formula(alpha: float, beta: float, tau: float, labelled: bool) -> None:
    """The label is singled out where it is known, else the annotation's class; hard and scoped
    annotations (exact zeros) as well."""
    logits, targets = samples()
    labels = torch.arange(12) % 5 if labelled else torch.full((12,), -1)
    labels[4:6] = -1
    losses, metrics = DecoupledDistillation(alpha, beta, tau).with_labels(
        logits, targets, 0.0, labels
    )
    parts = [
        decoupled(z, t, y if y >= 0 else t.index(max(t)), tau)
        for z, t, y in zip(logits.tolist(), targets.tolist(), labels.tolist(), strict=True)
    ]
    worked = torch.tensor([tau**2 * (alpha * a + beta * b) for a, b in parts], dtype=torch.float64)
    torch.testing.assert_close(losses, worked)
    assert float(metrics["tckd"]) == pytest.approx(sum(a for a, _ in parts) / 12)
    assert float(metrics["nckd"]) == pytest.approx(sum(b for _, b in parts) / 12)


def test_dkds_two_parts_make_up_distillation() -> None:
    """KL = TCKD + (1 - p[y]) NCKD, equation 5."""
    logits, targets = samples()
    logits, targets = logits[3:], targets[3:]
    tckd, _ = DecoupledDistillation(1.0, 0.0, 1.0)(logits, targets, 0.0)
    nckd, _ = DecoupledDistillation(0.0, 1.0, 1.0)(logits, targets, 0.0)
    whole, _ = Distillation(1.0)(logits, targets, 0.0)
    torch.testing.assert_close(whole, tckd + (1 - targets.amax(1)) * nckd)


def test_dkd_follows_small_probabilities_of_confident_networks() -> None:
    """1 - p[y] is 0 in float32 on both sides; the order among the others is still learned."""
    targets = torch.tensor([[1.0, 3e-30, 1e-30]])
    logits = torch.tensor([[200.0, 0.0, 0.0]])
    losses, _ = DecoupledDistillation(0.0, 1.0, 1.0)(logits, targets, 0.0)
    assert float(losses[0]) == pytest.approx(divergence([0.75, 0.25], [0.5, 0.5]), rel=1e-5)


def test_dkd_grows_along_its_ramp() -> None:
    logits, targets = samples()
    whole, _ = DecoupledDistillation()(logits, targets, 0.0)
    for progress, share in [(0.0, 0.0), (0.1, 0.4), (0.25, 1.0), (1.0, 1.0)]:
        losses, _ = DecoupledDistillation(ramp=0.25)(logits, targets, progress)
        torch.testing.assert_close(losses, share * whole)
