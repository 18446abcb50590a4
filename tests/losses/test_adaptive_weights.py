"""The other weights of adaptive confidence, as in METHODS.md section 2 and its settings."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cosup.errors import UserError
from cosup.losses import LOSSES, AdaptiveConfidence
from cosup.registry import Registry


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    logits = 2 * torch.randn(20, 4, generator=generator, dtype=torch.float64)
    targets = (logits + 2 * torch.randn(20, 4, generator=generator, dtype=torch.float64)).softmax(1)
    return logits, targets


def published(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """a = e^{CE(z,s)/T} / (e^{CE(z,s)/T} + e^{CE(z,t)/T})."""
    own = (F.cross_entropy(logits, logits.argmax(1), reduction="none") / temperature).exp()
    taught = (F.cross_entropy(logits, targets.argmax(1), reduction="none") / temperature).exp()
    return own / (own + taught)


def weighted(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    teacher = F.kl_div(logits.log_softmax(1), targets, reduction="none").sum(1)
    own = F.cross_entropy(logits, logits.argmax(1), reduction="none")
    return (1 - weight) * teacher + weight * own


def expected(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    a = published(logits, targets, 0.5)
    agree = logits.argmax(1) == targets.argmax(1)
    assert 4 < agree.sum() < 16
    return {
        "adaptive": a,
        "complement": 1 - a,
        "half": torch.full_like(a, 0.5),
        "half_where_agree": torch.where(agree, 0.5, 0.0).to(a),
        "constant": torch.full_like(a, 0.3),
    }


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize(
    "weight", ["adaptive", "complement", "half", "half_where_agree", "constant"]
)
def test_every_weight_is_its_formula(weight: str, form: str) -> None:
    logits, targets = samples()
    loss = AdaptiveConfidence(0.5, form=form, weight=weight, constant=0.3)  # type: ignore[arg-type]
    losses, metrics = loss(logits, targets, 0.0)
    wanted = expected(logits, targets)[weight]
    if form == "paper" and weight in ("adaptive", "complement"):
        a = published(logits, targets, 1.0)
        wanted = a if weight == "adaptive" else 1 - a
    worked = weighted(logits, targets, wanted)
    if form == "paper":  # cross-entropy for the KL: it adds the targets' entropy
        worked = worked + (1 - wanted) * torch.special.entr(targets).sum(1)
    torch.testing.assert_close(losses, worked)
    assert float(metrics["adaptive_weight"]) == pytest.approx(float(wanted.mean()))


@pytest.mark.parametrize("weight", ["half", "half_where_agree", "constant"])
def test_gradients_of_the_fixed_weights_are_those_of_the_loss(weight: str) -> None:
    logits, targets = samples()
    logits.requires_grad_()
    loss = AdaptiveConfidence(weight=weight)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, 0.0)[0], (logits,))


def test_half_where_agree_is_the_limit_of_a_small_temperature() -> None:
    logits, targets = samples()
    limit, _ = AdaptiveConfidence(1e-4)(logits, targets, 0.0)
    losses, _ = AdaptiveConfidence(weight="half_where_agree")(logits, targets, 0.0)
    torch.testing.assert_close(losses, limit)


def test_best_constant_is_chosen_by_a_run() -> None:
    """The loss raises, and returns its candidates."""
    loss = AdaptiveConfidence(tau=3.0, weight="best_constant", constants=(0.1, 0.9))
    with pytest.raises(UserError, match=r"best_constant.*validation split"):
        loss(*samples(), 0.0)
    assert loss.candidates() == [
        (
            value,
            AdaptiveConfidence(tau=3.0, weight="constant", constant=value, constants=(0.1, 0.9)),
        )
        for value in (0.1, 0.9)
    ]
    for _, candidate in loss.candidates():
        assert isinstance(candidate, AdaptiveConfidence)
        assert candidate(*samples(), 0.0)[0].isfinite().all()


def test_a_list_of_constants_can_be_given_in_a_config() -> None:
    registry = Registry("loss", LOSSES)
    choice = registry.check({"name": "adaptive_confidence", "constants": [0.2, 0.3]})
    assert registry.build(choice) == AdaptiveConfidence(constants=(0.2, 0.3))
