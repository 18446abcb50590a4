"""Nearest centroid by cosine: a classifier of classes known from a few images each.

The classifier-baseline of Chen et al., "Meta-Baseline", arXiv 2003.04390, section 3: a class is the
mean of its support embeddings, and a query's logits are scale * cosine(query, class).

The meta stage of few-shot learning: a network is trained by episodes to be a good embedding.

Chen et al., "Meta-Baseline", arXiv 2003.04390, section 3.2: the logits of an episode's queries are
their cosines to the centroids of its support, times a temperature that is learnt.
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
    "episode_probs",
    "nearest_centroid",
]


SCALE = 10.0
"""What cosines are multiplied by to become logits where nothing has been learnt about it."""
GATHERED = 2**24
"""Numbers that are gathered at a time: 64 MiB of float32."""


def cosine_logits(support: Tensor, query: Tensor) -> Tensor:
    """[E, P, N] cosines in float32 of queries [E, P, D] to the means of support [E, N, K, D].

    An embedding of zeros has cosine 0 to everything.
    """
    with torch.autocast(support.device.type, enabled=False):
        centroids = normalize(support.float().mean(2), dim=-1)
        return normalize(query.float(), dim=-1) @ centroids.transpose(1, 2)


def nearest_centroid(
    embeddings: Tensor, support: Tensor, query: Tensor, scale: float | Tensor = 1.0
) -> Tensor:
    """Logits [E, N * Q, N] float32 of each episode's queries, way after way.

    embeddings: [M, D]. support: [E, N, K] and query: [E, N, Q] int64 rows of them. Episodes are
    worked through in parts, so that memory doesn't grow with their number.
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
    """Probabilities of the ways, a row for each of the E * N * Q queries."""
    logits = nearest_centroid(embeddings, support, query, SCALE)
    return ProbTable.compress(logits.flatten(0, 1).softmax(-1))


class MetaLearner(nn.Module):
    """A classifier's network, trained by episodes of N ways, K shots and Q queries of each way.

    Its own last layer has no part in it. scale: what cosines are multiplied by, learnt.
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
        """Logits [e * N * Q, N] of the queries, way after way, of e episodes one after another.

        pixels: normalised [e * N * (K + Q), 3, S, S]; of each episode the N * K support images,
        then the N * Q queries, both way after way.
        """
        size = self.ways * (self.shots + self.queries)
        if len(pixels) % size:
            raise ValueError(f"{len(pixels)} images are no whole number of episodes of {size}")
        embedding = self.classifier.pooled(pixels)
        episodes = embedding.view(len(pixels) // size, size, embedding.shape[1])
        labelled = self.ways * self.shots
        support = episodes[:, :labelled].reshape(len(episodes), self.ways, self.shots, -1)
        cosines = cosine_logits(support, episodes[:, labelled:])
        return (self.scale * cosines).flatten(0, 1), None
