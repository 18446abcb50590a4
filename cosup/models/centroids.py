"""Few-shot classification by the nearest centroid, and its training by episodes.

Classifier-Baseline and Meta-Baseline of Chen et al., arXiv 2003.04390, section 3: a class is the
mean of its support embeddings, and the logits of a query are scale * cosine(query, class). The meta
stage trains the embedding and the scale by episodes.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cosup.models.classifier import Classifier
from cosup.probabilities import ProbTable
from cosup.protocols import NetworkOutput

__all__ = [
    "MetaLearner",
    "cosine_logits",
    "episode_logits",
    "episode_probs",
    "nearest_centroid",
]


SCALE = 10.0
"""Scale of cosines that is used without a learned one."""
GATHERED = 2**24
"""Numbers gathered at a time: 64 MiB of float32."""


def cosine_logits(support: Tensor, query: Tensor) -> Tensor:
    """Return cosines [E, P, N] in float32 of queries [E, P, D] to means of support [E, N, K, D].

    The cosine of an embedding of zeros is 0.
    """
    with torch.autocast(support.device.type, enabled=False):
        centroids = normalize(support.float().mean(2), dim=-1)
        return normalize(query.float(), dim=-1) @ centroids.transpose(1, 2)


def nearest_centroid(
    embeddings: Tensor, support: Tensor, query: Tensor, scale: float | Tensor = 1.0
) -> Tensor:
    """Return logits [E, N * Q, N] float32 of the queries of each episode, way after way.

    embeddings: [M, D]. support: [E, N, K] and query: [E, N, Q] int64 rows of them. Episodes are
    processed in parts, so that memory does not grow with their number.
    """
    episodes, ways, shots = support.shape
    per_episode = ways * (shots + query.shape[2]) * embeddings.shape[1]
    size = max(1, GATHERED // max(1, per_episode))
    parts = [
        cosine_logits(
            embeddings[support[start : start + size]],
            embeddings[query[start : start + size].flatten(1)],
        )
        for start in range(0, episodes, size)
    ]
    return scale * torch.cat(parts)


def episode_probs(embeddings: Tensor, support: Tensor, query: Tensor) -> ProbTable:
    """Return probabilities of the ways, a row for each of the E * N * Q queries."""
    logits = nearest_centroid(embeddings, support, query, SCALE)
    return ProbTable.compress(logits.flatten(0, 1).softmax(-1))


def episode_logits(embedding: Tensor, ways: int, shots: int, queries: int) -> Tensor:
    """Return cosines [e * N * Q, N] of the queries of e consecutive episodes, way after way.

    embedding: [e * N * (K + Q), D]; for each episode of the N * K support images, then of the N * Q
    queries, both way after way. Raises `ValueError` for a part of an episode.
    """
    size = ways * (shots + queries)
    if len(embedding) % size:
        raise ValueError(f"{len(embedding)} images are not a multiple of the episode size {size}")
    episodes = embedding.view(len(embedding) // size, size, embedding.shape[1])
    labelled = ways * shots
    support = episodes[:, :labelled].reshape(len(episodes), ways, shots, -1)
    return cosine_logits(support, episodes[:, labelled:]).flatten(0, 1)


class MetaLearner(nn.Module):
    """A classifier's network in training by episodes of N ways, K shots and Q queries per way.

    The last layer of the classifier is not used. scale: start of the learned scale of cosines.
    """

    def __init__(
        self, classifier: Classifier, ways: int, shots: int, queries: int, scale: float = 10.0
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.ways, self.shots, self.queries = ways, shots, queries
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(
        self, pixels: Tensor, teacher: NetworkOutput | None = None, progress: float = 0.0
    ) -> tuple[Tensor, None]:
        """Return logits [e * N * Q, N] of the queries of e consecutive episodes, way after way.

        pixels: normalised [e * N * (K + Q), 3, S, S]; for each episode the N * K support images,
        then the N * Q queries, both way after way.
        """
        embedding = self.classifier.pooled(pixels)
        return self.scale * episode_logits(embedding, self.ways, self.shots, self.queries), None
