"""What every registered loss keeps: shapes, independent heads, finite numbers, right gradients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cosup.errors import UserError
from cosup.losses import (
    LOSSES,
    AdaptiveConfidence,
    AugmentedConfidence,
    DecoupledDistillation,
    Distillation,
    Evidential,
    FeatureLoss,
    FitNet,
    KnowledgeReview,
    Loss,
    Product,
    RelationalDistillation,
    ReverseCrossEntropy,
)
from cosup.registry import Registry
from cosup.validation import setting_docs

NAMES = sorted(LOSSES)
REGISTRY = Registry("loss", LOSSES)


def batch(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    logits = torch.randn(*shape, generator=generator, dtype=dtype)
    targets = (2 * torch.randn(*shape, generator=generator, dtype=dtype)).softmax(-1)
    return logits, targets


@pytest.fixture(params=NAMES)
def loss(request: pytest.FixtureRequest) -> Loss:
    return LOSSES[request.param].load()()


def test_heads_are_independent(loss: Loss) -> None:
    """Three heads at once give what each gives alone."""
    logits, targets = batch(3, 8, 5)
    together, metrics = loss(logits, targets, 0.5)
    assert together.shape == (3, 8)
    alone = torch.stack([loss(logits[h], targets[h], 0.5)[0] for h in range(3)])
    torch.testing.assert_close(together, alone)
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())


def test_losses_and_metrics_are_on_the_device_of_the_logits(loss: Loss) -> None:
    """`meta` stands for a GPU: ranks send their losses and metrics in one tensor."""
    if isinstance(loss, AugmentedConfidence):
        loss = replace(loss, balanced=False)  # balancing looks at numbers, which `meta` has not
    logits, targets = (tensor.to("meta") for tensor in batch(8, 5))
    losses, metrics = loss(logits, targets, 0.5)
    assert {value.device.type for value in (losses, *metrics.values())} == {"meta"}


def test_an_abstention_costs_nothing(loss: Loss) -> None:
    logits, targets = batch(8, 5)
    targets[2] = 0
    logits.requires_grad_()
    losses, metrics = loss(logits, targets, 1.0)
    losses.sum().backward()
    assert logits.grad is not None
    assert losses[2] == 0
    assert logits.grad[2].abs().sum() == 0
    assert logits.grad.isfinite().all()
    without, alone = loss(logits[[0, 1, *range(3, 8)]], targets[[0, 1, *range(3, 8)]], 1.0)
    torch.testing.assert_close(losses[[0, 1, *range(3, 8)]], without)
    torch.testing.assert_close(metrics, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_and_hard_targets_stay_finite(loss: Loss, dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    losses, _ = loss(logits, targets, 1.0)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert losses.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# The adaptive weight and the product are constant to the gradient but not to finite differences
# (their gradients are worked by hand in test_loss_formulas).
@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("adaptive_confidence", "product")]
)
@pytest.mark.parametrize("progress", [0.0, 0.7])
def test_gradients_are_those_of_the_loss(name: str, progress: float) -> None:
    logits, targets = batch(4, 3, dtype=torch.float64)
    logits.requires_grad_()
    loss = LOSSES[name].load()()
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, progress)[0], (logits,))


@pytest.mark.parametrize("form", ["code", "paper"])
def test_adaptive_gradients_where_teacher_and_student_agree(form: str) -> None:
    """There the weight is 1/2 whatever the logits, and finite differences hold."""
    logits, _ = batch(4, 3, dtype=torch.float64)
    targets = (3 * logits).softmax(1)
    logits.requires_grad_()
    loss = AdaptiveConfidence(0.5, 2.0, form)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, 0.0)[0], (logits,))


def test_sharpening_many_small_probabilities_does_not_underflow() -> None:
    """tau = 0.05 raises 1/1000 to the 20th power: zero in float32, if taken as it stands."""
    targets = torch.full((1, 1000), 1e-3)
    losses, _ = Distillation(0.05)(torch.zeros(1, 1000), targets, 0.0)
    assert float(losses[0]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Distillation(tau=0), "tau: 0"),
        (lambda: AdaptiveConfidence(temperature=-1), "temperature: -1"),
        (lambda: AdaptiveConfidence(form="x"), "form: 'x'"),
        (lambda: AdaptiveConfidence(weight="x"), "weight: 'x'.*'half_where_agree'"),  # type: ignore[arg-type]
        (lambda: AdaptiveConfidence(constant=1.5), "constant: 1.5"),
        (lambda: AdaptiveConfidence(constants=(0.5, -0.1)), r"constants: \[0.5, -0.1\]"),
        (lambda: AdaptiveConfidence(constants=()), r"constants: \[\]"),
        (lambda: Evidential(gamma=1.5), "gamma: 1.5"),
        (lambda: Evidential(evidence="exp"), "evidence: 'exp'"),  # type: ignore[arg-type]
        (lambda: DecoupledDistillation(tau=0), "tau: 0"),
        (lambda: DecoupledDistillation(beta=-1), "beta: -1"),
        (lambda: DecoupledDistillation(ramp=1.1), "ramp: 1.1"),
        (lambda: ReverseCrossEntropy(floor=0), "floor: 0"),
        (lambda: ReverseCrossEntropy(floor=0.6), "floor: 0.6"),
        (lambda: ReverseCrossEntropy(warmup=-0.1), "warmup: -0.1"),
        (lambda: Product(alpha=-1), "alpha: -1"),
        (lambda: Product(beta=float("nan")), "beta: nan"),
        (lambda: Product(warmup=1.5), "warmup: 1.5"),
        (lambda: FitNet(weight=float("inf")), "weight: inf"),
        (lambda: FitNet(annotation=-1), "annotation: -1"),
        (lambda: FitNet(stages=0), "stages: 0"),
        (lambda: FitNet(stages=2, hint_stage=1), "hint_stage: 1"),
        (lambda: AdaptiveConfidence(ramp=-0.1), "ramp: -0.1"),
        (lambda: AugmentedConfidence(tau=0), "tau: 0"),
        (lambda: AugmentedConfidence(form="x"), "form: 'x'"),  # type: ignore[arg-type]
        (lambda: RelationalDistillation(angle=-1), "angle: -1"),
        (lambda: RelationalDistillation(weight=-1), "weight: -1"),
        (lambda: KnowledgeReview(stages=0), "stages: 0"),
        (lambda: KnowledgeReview(channels=0), "channels: 0"),
        (lambda: KnowledgeReview(ramp=-1), "ramp: -1"),
        (lambda: AugmentedConfidence(max_weight=2), "max_weight: 2"),
        (lambda: AugmentedConfidence(ramp=float("nan")), "ramp: nan"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(build: object, named: str) -> None:
    with pytest.raises(UserError, match=named):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_can_be_written_in_a_config(name: str) -> None:
    """Its settings go through the config with their defaults, and each is described."""
    assert REGISTRY.build(REGISTRY.check(name)) == LOSSES[name].load()()
    for setting, (description, default) in setting_docs(LOSSES[name].settings).items():
        assert description, setting
        assert default is not ..., setting


def test_labels_change_nothing_for_losses_that_do_not_read_them(loss: Loss) -> None:
    logits, targets = batch(8, 5)
    labels = torch.randint(0, 5, (8,), generator=torch.Generator().manual_seed(0))
    plain, _ = loss(logits, targets, 0.5)
    with_labels, _ = loss.with_labels(logits, targets, 0.5, labels)
    assert plain.equal(with_labels) != loss.reads_labels


def test_the_logits_part_of_feature_losses_has_a_weight_of_its_own() -> None:
    logits, targets = batch(8, 5)
    reference = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    for name in NAMES:
        if issubclass(LOSSES[name].load(), FeatureLoss):
            losses, _ = LOSSES[name].load()(annotation=0.3)(logits, targets, 0.0)  # type: ignore[call-arg]
            torch.testing.assert_close(losses, 0.3 * reference)
