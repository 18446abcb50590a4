"""`compute_loss`: what each loss gives from any array, and what it says of a wrong argument."""

from typing import Any

import numpy as np
import pytest
import torch

from cosup.errors import UserError
from cosup.losses import LOSSES, AdaptiveConfidence, compute_loss

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).softmax(1)
LABELS = torch.tensor([0, 3, 1, -1, 2, 2])


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_arrays_and_class_numbers_give_what_tensors_give(name: str) -> None:
    loss = LOSSES[name].load()()
    wanted, metrics = loss(LOGITS, TARGETS, 0.5)
    found, same = compute_loss(name, LOGITS.double().numpy(), TARGETS.numpy(), 0.5)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(same, metrics)
    one_hot = torch.eye(5)[LABELS][:, :4]
    wanted, _ = loss(LOGITS, one_hot, 1.0)
    for labels in (LABELS, LABELS.numpy().astype(np.int16), LABELS.tolist()):
        found, _ = compute_loss(loss, LOGITS, labels)
        torch.testing.assert_close(found, wanted)


def test_the_gradient_flows_to_the_logits() -> None:
    logits = LOGITS.clone().requires_grad_()
    losses, _ = compute_loss({"name": "distillation", "tau": 4.0}, logits, TARGETS)
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("loss.name", {"loss": "adaptive"}),
        ("loss.temperature", {"loss": {"name": "adaptive_confidence", "temperature": 0}}),
        ("loss", {"loss": AdaptiveConfidence}),
        ("logits", {"logits": LOGITS[0]}),
        ("logits", {"logits": None}),
        ("targets", {"targets": TARGETS[:5]}),
        ("targets", {"targets": TARGETS[:, :3]}),
        ("targets", {"targets": LOGITS}),
        ("targets", {"targets": TARGETS * 2}),
        ("targets", {"targets": [0, 1, 2, 3, 4, 0]}),
        ("targets", {"targets": [0, 1, 2, 3, 0]}),
        ("targets", {"targets": [0.5] * 6}),
        ("progress", {"progress": 1.5}),
        ("progress", {"progress": "half"}),
    ],
)
def test_what_is_wrong_is_named(argument: str, change: dict[str, Any]) -> None:
    good = {"loss": "adaptive_confidence", "logits": LOGITS, "targets": TARGETS}
    compute_loss(**good)
    with pytest.raises(UserError) as error:
        compute_loss(**{**good, **change})
    assert [".".join(one.key) for one in error.value.errors] == [argument]
