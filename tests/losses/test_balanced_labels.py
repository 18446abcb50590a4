"""The student's own labels keep the teacher's class balance, as in Burns et al."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.losses import AugmentedConfidence
from cosup.losses.augmented_confidence import balanced_labels
from cosup.losses.base import log_probs


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), heads=st.integers(1, 3), size=st.integers(1, 30))
def test_the_class_counts_are_the_teachers_in_every_head(seed: int, heads: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(heads, size, 4, generator=generator).log_softmax(-1)
    taught = torch.randint(0, 4, (heads, size), generator=generator)
    labels = balanced_labels(student, torch.nn.functional.one_hot(taught, 4).float())
    for head in range(heads):
        assert torch.bincount(labels[head], minlength=4).equal(
            torch.bincount(taught[head], minlength=4)
        )


def test_two_classes_give_the_threshold_of_the_binary_original() -> None:
    """f_hat = 1 where p > q, with q the quantile that leaves the teacher's share above it."""
    rng = np.random.default_rng(0)
    probs = rng.beta(8, 2, size=101)
    taught = (rng.random(101) < 0.3).astype(int)
    student = torch.from_numpy(np.stack([1 - probs, probs], axis=1)).log()
    labels = balanced_labels(student, torch.eye(2)[torch.from_numpy(taught)])
    threshold = np.sort(probs)[::-1][taught.sum() - 1]
    np.testing.assert_array_equal(labels.numpy(), (probs >= threshold).astype(int))


def test_abstentions_take_no_place() -> None:
    """Two annotated samples, one of each class; the abstention has the highest probability of 0."""
    student = torch.tensor([[0.999, 0.001], [0.8, 0.2], [0.7, 0.3]]).log()
    targets = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert balanced_labels(student, targets)[1:].tolist() == [0, 1]
    losses, _ = AugmentedConfidence(balanced=True)(student, targets, 1.0)
    assert losses[0] == 0


@pytest.mark.parametrize("nothing", [-torch.inf, torch.nan])
@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 30)])
def test_logits_of_minus_infinity_take_the_places_that_are_left(
    nothing: float, rows: slice
) -> None:
    """A student that rules classes out, or overflows, must not stop the training in this loop."""
    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(2))
    logits[rows, 1:] = nothing
    taught = torch.arange(30) % 4
    labels = balanced_labels(log_probs(logits), torch.eye(4)[taught])
    assert torch.bincount(labels, minlength=4).equal(torch.bincount(taught, minlength=4))


def test_a_class_of_probability_0_comes_after_all_others() -> None:
    log_student = torch.tensor([[0.5, 0.0, 0.5], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]]).log()
    assert balanced_labels(log_student, torch.eye(3)).tolist() == [1, 0, 2]


def test_a_student_that_agrees_keeps_its_labels() -> None:
    student = torch.randn(50, 10, generator=torch.Generator().manual_seed(1)).log_softmax(1)
    assert balanced_labels(student, student.exp()).equal(student.argmax(1))
