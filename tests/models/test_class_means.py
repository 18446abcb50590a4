"""Prototypes from annotations: the mean of each class's surest samples, against a plain loop."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from cosup.losses.base import Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.models import samples
from cosup.models.class_means import most_confident, use_class_means
from cosup.models.fit import fit_heads
from cosup.models.head_fit import HeadFit
from cosup.models.heads import HeadBank, build_heads
from cosup.models.samples import column_scaling
from cosup.models.section import HeadSection
from cosup.models.training_section import TrainingSection
from cosup.probabilities import ProbTable

PIXELS, DIGITS = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
FEATURES = PIXELS.to(torch.float16)


def plain(labels: Tensor, confidence: Tensor, classes: int, share: str) -> list[bool]:
    """By class: the share, counted exactly and rounded up, and what is as sure as its last."""
    chosen = np.zeros(len(labels), dtype=bool)
    for c in range(classes):
        own = np.flatnonzero(labels.numpy() == c)
        if len(own):
            count = max(1, math.ceil(len(own) * Fraction(share)))
            limit = np.sort(confidence.numpy()[own])[::-1][count - 1]
            chosen[own[confidence.numpy()[own] >= limit]] = True
    return chosen.tolist()


@pytest.mark.parametrize("share", ["1", "0.5", "0.1", "0.07", "0.35", "0.7", "0.001", "1e-9"])
@pytest.mark.parametrize("levels", [0, 5])
def test_the_surest_are_those_of_a_plain_loop(share: str, levels: int) -> None:
    """With ties (five levels of confidence) and without; with abstentions and an empty class."""
    generator = torch.Generator().manual_seed(levels)
    for count in (1, 7, 200, 3000):
        labels = torch.randint(-1, 9, (count,), generator=generator)
        confidence = torch.rand(count, generator=generator)
        if levels:
            confidence = (confidence * levels).ceil() / levels
        found = most_confident(labels, confidence, 10, float(share))
        assert found.tolist() == plain(labels, confidence, 10, share)


@pytest.mark.parametrize("share", ["0.07", "0.1", "0.3", "0.7", "0.57"])
def test_shares_of_any_class_size_are_rounded_up_and_no_further(share: str) -> None:
    """0.07 of 100 is 7: not 7.000000000000001, as in floating point, and so 8."""
    for size in range(1, 300):
        found = most_confident(
            torch.zeros(size, dtype=torch.int64), torch.arange(size).float(), 1, float(share)
        )
        assert int(found.sum()) == math.ceil(size * Fraction(share))
        assert found[-1]


def test_hard_annotations_all_count_and_abstentions_never() -> None:
    labels = torch.tensor([0, 0, 0, -1, 1, -1])
    confidence = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    assert most_confident(labels, confidence, 3, 0.1).tolist() == [True] * 3 + [False, True, False]
    nobody = most_confident(torch.full((4,), -1), torch.ones(4), 3, 0.5)
    assert not nobody.any()
    assert len(most_confident(labels[:0], confidence[:0], 3, 0.5)) == 0


def annotations() -> ProbTable:
    """Of the digits: of any confidence, some wrong, some abstentions, and none for class 9."""
    generator = torch.Generator().manual_seed(2)
    labels = DIGITS.clone()
    labels[::7] = (labels[::7] + 1) % 10
    labels[labels == 9] = 0
    share = 0.4 + 0.6 * torch.rand(len(labels), 1, generator=generator)
    probs = share * functional.one_hot(labels, 10) + (1 - share) / 10
    probs[::13] = 0
    return ProbTable.compress(probs)


def means(targets: ProbTable, rows: Tensor, share: str, features: Tensor) -> dict[int, np.ndarray]:
    """By numpy, in float64: the mean unit feature of each class's surest samples."""
    probs, x = targets.dense(rows).numpy(), features[rows].double().numpy()
    labels = np.where(probs.sum(1) > 0, probs.argmax(1), -1)
    chosen = plain(torch.from_numpy(labels), torch.from_numpy(probs.max(1)), 10, share)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = {c: unit[np.array(chosen) & (labels == c)] for c in range(10)}
    return {
        c: part.mean(0) / np.linalg.norm(part.mean(0)) for c, part in found.items() if len(part)
    }


def fitted(steps: int, members: list[Tensor], head: HeadSection, **training: object) -> HeadBank:
    fit = HeadFit(
        FEATURES,
        annotations(),
        members=members,
        head=head,
        training=TrainingSection.model_validate({"steps": steps, "lr": 1e-9, **training}),
        objective=Objective(CrossEntropy()),
        seed=0,
    )
    return fit_heads(fit)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("share", ["0.5", "1", "0.05"])
def test_prototypes_start_at_the_means_of_the_surest(steps: int, share: str) -> None:
    members = [torch.arange(1000), torch.arange(600, 1797)]
    head = HeadSection(kind="prototype", confident=float(share))
    bank = fitted(steps, members, head)
    for h, rows in enumerate(members):
        expected = means(annotations(), rows, share, FEATURES)
        assert sorted(expected) == list(range(9))
        for c, mean in expected.items():
            np.testing.assert_allclose(bank.weight[h, c], mean, atol=2e-3 if steps else 1e-5)


def test_a_share_chooses_other_samples_than_all() -> None:
    rows = [torch.arange(1000)]
    half = fitted(0, rows, HeadSection(kind="prototype", confident=0.5))
    whole = fitted(0, rows, HeadSection(kind="prototype", confident=1.0))
    assert (half.weight - whole.weight).abs().max() > 0.01


def test_a_class_without_samples_keeps_its_random_direction() -> None:
    head = HeadSection(kind="prototype")
    bank = fitted(0, [torch.arange(1000)], head)
    fresh = build_heads(head, 1, 64, 10, seed=0)
    assert torch.equal(bank.weight[0, 9], fresh.weight[0, 9])
    assert not torch.equal(bank.weight[0, 8], fresh.weight[0, 8])
    torch.testing.assert_close(bank.weight.norm(dim=-1), torch.ones(1, 10))


def test_nothing_but_abstentions_leaves_random_directions() -> None:
    bank = build_heads(HeadSection(kind="prototype"), 1, 64, 10, seed=0)
    before = bank.weight.detach().clone()
    silent = ProbTable.compress(torch.zeros(50, 10))
    use_class_means(bank, FEATURES[:50], silent, [torch.arange(50)], 0.5)
    assert torch.equal(bank.weight, before)
    assert bank.weight.requires_grad


def test_standardised_heads_start_at_the_means_of_what_they_read() -> None:
    rows = torch.arange(1000)
    bank = fitted(0, [rows], HeadSection(kind="prototype"), standardize=True)
    shift, gain = column_scaling(FEATURES, rows)
    read = (FEATURES.double() - shift.double()) * gain.double()
    for c, mean in means(annotations(), rows, "0.5", read).items():
        np.testing.assert_allclose(bank.weight[0, c], mean, atol=1e-5)


def test_samples_in_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(0, [torch.arange(1000)], HeadSection(kind="prototype"))
    monkeypatch.setattr(samples, "CHUNK", 33)
    parts = fitted(0, [torch.arange(1000)], HeadSection(kind="prototype"))
    torch.testing.assert_close(whole.weight, parts.weight)


def test_a_random_start_is_the_seeds_and_linear_heads_start_at_zero() -> None:
    rows = [torch.arange(100)]
    head = HeadSection(kind="prototype", init="random")
    assert torch.equal(fitted(0, rows, head).weight, build_heads(head, 1, 64, 10, seed=0).weight)
    assert not fitted(0, rows, HeadSection(kind="linear")).weight.any()
