"""Nearest centroids by cosine are those of scikit-learn, for real images too; the meta stage."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from cosup.models import centroids
from cosup.models.centroids import MetaLearner, cosine_logits, nearest_centroid
from cosup.models.classifier import build_classifier

NETWORK = "test_resnet.r160_in1k"


def digit_episodes(episodes: int = 6) -> tuple[np.ndarray, Tensor, Tensor]:
    """Pixels [M, 64], and rows [E, 3, 2] and [E, 3, 4] of three digits each."""
    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    rows = np.stack(
        [
            [rng.permutation(np.flatnonzero(labels == c))[:6] for c in rng.permutation(10)[:3]]
            for _ in range(episodes)
        ]
    )
    return pixels, torch.from_numpy(rows[..., :2]), torch.from_numpy(rows[..., 2:])


def test_logits_are_the_cosines_to_the_class_means() -> None:
    pixels, support, query = digit_episodes()
    logits = nearest_centroid(torch.from_numpy(pixels), support, query, scale=7.0)
    assert logits.shape == (6, 12, 3)
    for episode in range(6):
        means = pixels[support[episode].numpy()].mean(1)
        expected = 7 * cosine_similarity(pixels[query[episode].flatten().numpy()], means)
        np.testing.assert_allclose(logits[episode].numpy(), expected, rtol=1e-5)


def test_real_digits_are_told_apart() -> None:
    """Two scans of each of three digits, as pixels: well above the third that is chance."""
    pixels, support, query = digit_episodes(100)
    chosen = nearest_centroid(torch.from_numpy(pixels), support, query).argmax(2)
    right = (chosen.view(100, 3, 4) == torch.arange(3)[None, :, None]).float().mean()
    assert right > 0.85


def test_memory_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, support, query = digit_episodes()
    whole = nearest_centroid(torch.from_numpy(pixels), support, query)
    monkeypatch.setattr(centroids, "GATHERED", 2 * 3 * 6 * 64)
    assert torch.equal(nearest_centroid(torch.from_numpy(pixels), support, query), whole)
    monkeypatch.setattr(centroids, "GATHERED", 1)
    torch.testing.assert_close(nearest_centroid(torch.from_numpy(pixels), support, query), whole)


def test_an_embedding_of_zeros_is_like_nothing() -> None:
    support = torch.tensor([[[[3.0, 4.0]], [[0.0, 0.0]]]])
    query = torch.tensor([[[0.0, 0.0], [6.0, 8.0]]])
    assert cosine_logits(support, query).tolist() == [[[0, 0], [1, 0]]]


def test_bfloat16_is_not_used_for_cosines() -> None:
    support, query = torch.randn(1, 2, 3, 8), torch.randn(1, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosine_logits(support, query)
    assert found.dtype == torch.float32
    assert torch.equal(found, cosine_logits(support, query))


def test_the_meta_learner_answers_queries_and_learns() -> None:
    classifier = build_classifier(NETWORK, 5, image_size=32)
    learner = MetaLearner(classifier, ways=3, shots=2, queries=4, scale=10.0).eval()
    pixels, support, query = digit_episodes(2)
    rows = torch.cat([support.flatten(1), query.flatten(1)], 1).flatten()
    images = torch.from_numpy((pixels[rows] * 15.9).astype(np.uint8)).view(-1, 1, 8, 8)
    images = images.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)
    with torch.no_grad():
        logits, features = learner(classifier.pixels(images), None, 0.0)
        embedded = classifier.embed(images).view(2, 18, -1).double().numpy()
    assert features is None
    assert logits.shape == (2 * 12, 3)
    for episode in range(2):
        means = embedded[episode, :6].reshape(3, 2, -1).mean(1)
        expected = 10 * cosine_similarity(embedded[episode, 6:], means)
        own = logits[12 * episode : 12 * episode + 12]
        np.testing.assert_allclose(own.numpy(), expected, atol=1e-4)
    ways = torch.arange(3).repeat_interleave(4).repeat(2)
    learner.train()
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(learner(classifier.pixels(images))[0], ways)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert learner.scale.item() != 10.0
    with pytest.raises(ValueError, match="35 images are not a multiple of the episode size 18"):
        learner(classifier.pixels(images)[:35])
