"""The objective weights annotations and true labels; without weight no loss gets a label."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cosup.losses import CrossEntropy, DecoupledDistillation, Distillation, Objective


def samples(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64)
    targets = torch.randn(*shape, generator=generator, dtype=torch.float64).softmax(-1)
    labels = torch.randint(0, shape[-1], shape[:-1], generator=generator)
    return logits, targets, labels


def test_both_parts_count_by_their_weights() -> None:
    logits, targets, labels = samples(10, 4)
    labels[[2, 7]] = -1
    losses, metrics = Objective(CrossEntropy(), 0.7, 0.2)(logits, targets, 0.0, labels)
    true = F.cross_entropy(logits, labels, reduction="none", ignore_index=-1)
    worked = 0.7 * F.cross_entropy(logits, targets, reduction="none") + 0.2 * true
    torch.testing.assert_close(losses, worked)
    mean = F.cross_entropy(logits, labels, ignore_index=-1)
    assert float(metrics["true_label_loss"]) == pytest.approx(float(mean))


def test_only_true_labels_are_left_without_annotations() -> None:
    logits, targets, labels = samples(10, 4)
    losses, _ = Objective(CrossEntropy(), 0.0, 1.0)(logits, targets, 0.0, labels)
    torch.testing.assert_close(losses, F.cross_entropy(logits, labels, reduction="none"))
    abstained, _ = Objective(CrossEntropy(), 1.0, 1.0)(logits, 0 * targets, 0.0, labels)
    torch.testing.assert_close(abstained, losses)


def test_heads_of_a_bank_are_independent() -> None:
    """Logits [H, B, C] with labels [H, B]: what each head gives alone."""
    logits, targets, labels = samples(3, 6, 4)
    labels[1, :3] = -1
    objective = Objective(DecoupledDistillation(), 1.0, 0.5)
    together, _ = objective(logits, targets, 0.3, labels)
    assert together.shape == (3, 6)
    for head in range(3):
        alone, _ = objective(logits[head], targets[head], 0.3, labels[head])
        torch.testing.assert_close(together[head], alone)


def test_labels_of_mixed_images_are_shares_of_classes() -> None:
    """CE with a mixture is the mixture of the CEs; a row of zeros is unknown."""
    logits, targets, labels = samples(6, 4)
    shares = 0.3 * F.one_hot(labels, 4) + 0.7 * F.one_hot(labels.flip(0), 4)
    shares[0] = 0
    losses, metrics = Objective(CrossEntropy(), 0.0, 1.0)(logits, targets, 0.0, shares)
    worked = 0.3 * F.cross_entropy(logits, labels, reduction="none")
    worked += 0.7 * F.cross_entropy(logits, labels.flip(0), reduction="none")
    worked[0] = 0
    torch.testing.assert_close(losses, worked)
    assert float(metrics["true_label_loss"]) == pytest.approx(float(worked.sum()) / 5)


def test_no_loss_gets_labels_without_weight() -> None:
    """dkd uses the label as its target class if it gets one."""
    logits, targets, labels = samples(10, 4)
    labels = (targets.argmax(1) + 1) % 4
    blind, metrics = Objective(DecoupledDistillation())(logits, targets, 0.0, labels)
    assert blind.equal(DecoupledDistillation()(logits, targets, 0.0)[0])
    assert "true_label_loss" not in metrics
    seeing, _ = Objective(DecoupledDistillation(), 1.0, 1e-9)(logits, targets, 0.0, labels)
    assert not torch.allclose(seeing, blind)


def test_without_labels_it_is_the_loss() -> None:
    logits, targets, _ = samples(10, 4)
    losses, _ = Objective(Distillation(3.0), 2.0, 1.0)(logits, targets, 0.0)
    assert losses.equal(2 * Distillation(3.0)(logits, targets, 0.0)[0])


def test_unknown_labels_alone_make_no_loss_and_no_nan() -> None:
    logits, targets, labels = samples(5, 4)
    logits.requires_grad_()
    losses, metrics = Objective(CrossEntropy(), 0.0, 1.0)(
        logits, targets, 0.0, torch.full_like(labels, -1)
    )
    torch.autograd.backward(losses.sum())
    assert losses.abs().sum() == 0
    assert metrics["true_label_loss"] == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extremes_in_half_precision_stay_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    losses, _ = Objective(CrossEntropy(), 1.0, 1.0)(
        logits, torch.tensor([[0.0, 1.0, 0.0]]), 0.0, torch.tensor([1])
    )
    assert losses.dtype == torch.float32
    assert losses.isfinite().all()
