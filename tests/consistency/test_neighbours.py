"""The selection of Sel-CL, against a plain-Python oracle in float64, and on real wrong labels."""

import numpy as np
import pytest
import torch
from helpers.user_errors import key_of, mistakes_of
from sklearn.datasets import load_digits

from cosup.config import check_config
from cosup.consistency import neighbours
from cosup.consistency.neighbours import clean_samples


def oracle(features: np.ndarray, labels: list[int], k: int, quantile: float) -> list[bool]:
    """The published selection, sample by sample."""
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    count, classes = len(labels), max(labels) + 1
    near = []
    for own in range(count):
        others = [n for n in range(count) if n != own]
        near.append(sorted(others, key=lambda n, own=own: -float(units[own] @ units[n]))[:k])

    def votes(of: list[int], own: int) -> list[int]:
        return [sum(of[n] == c for n in near[own]) for c in range(classes)]

    corrected = [votes(labels, own).index(max(votes(labels, own))) for own in range(count)]
    sure, clean = [], []
    for own in range(count):
        found = votes(corrected, own)
        sure.append(min(0.99, max(0.01, found[labels[own]] / k)))
        clean.append(found.index(max(found)) == labels[own])
    present = sorted(set(labels))
    numbers = sorted(sum(clean[n] for n in range(count) if labels[n] == c) for c in present)
    most = numbers[(len(numbers) - 1) // 2]
    if quantile != 0.5:
        most = int(np.quantile(numbers, quantile))
    kept = [False] * count
    for c in present:
        own = [n for n in range(count) if labels[n] == c]
        for n in sorted(own, key=lambda n: -sure[n])[:most]:
            kept[n] = True
    return kept


def digits(wrong: float, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, labels of which a share is wrong, and the true ones."""
    pixels, true = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    given = np.where(rng.random(count) < wrong, rng.integers(0, 10, count), true[:count])
    return pixels[:count] + rng.normal(0, 1e-3, (count, 64)), given, true[:count]


@pytest.mark.parametrize("quantile", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("k", [5, 30])
def test_it_is_the_published_selection(
    k: int, quantile: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, given, _ = digits(0.3)
    worked = oracle(pixels, given.tolist(), k, quantile)
    features, labels = torch.from_numpy(pixels), torch.from_numpy(given)
    assert clean_samples(features, labels, k, quantile).tolist() == worked
    monkeypatch.setattr(neighbours, "MAX_ELEMENTS", 1000)  # a few rows at a time
    assert clean_samples(features, labels, k, quantile).tolist() == worked


def test_kept_labels_are_right_more_often_on_real_digits() -> None:
    pixels, given, true = digits(0.4, 1500)
    features, labels = torch.from_numpy(pixels), torch.from_numpy(given)
    kept = clean_samples(features, labels, 40, 0.5).numpy()
    assert (given == true).mean() < 0.7
    assert (given == true)[kept].mean() > 0.9
    assert kept.mean() > 0.4


def test_samples_without_a_label_cannot_be_judged() -> None:
    pixels, given, _ = digits(0.3, 200)
    labels = torch.from_numpy(given)
    features = torch.from_numpy(pixels)
    known = torch.arange(200) % 4 != 0
    kept = clean_samples(features, torch.where(known, labels, -1), 10, 0.5)
    assert kept[~known].all()
    assert kept[known].equal(clean_samples(features[known], labels[known], 10, 0.5))


def test_more_neighbours_than_samples_are_all_others() -> None:
    features = torch.eye(3) + 0.1 * torch.arange(3)
    labels = torch.tensor([0, 0, 1])
    assert clean_samples(features, labels, 250, 1.0).equal(clean_samples(features, labels, 2, 1.0))
    assert clean_samples(features[:1], labels[:1], 250, 0.5).tolist() == [True]


def test_it_needs_labels() -> None:
    tree = {
        "data": {"source": "digits"},
        "student": {"backbone": {"name": "resnet18"}},
        "rounds": {"consistency": [{"name": "neighbours", "k": 10}]},
    }
    (error,) = mistakes_of(check_config, tree)
    assert key_of(error) == "rounds.consistency.0"
    check_config({**tree, "rounds": {**tree["rounds"], "true_label_weight": 1.0}})
