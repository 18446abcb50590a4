"""The meta stage of few-shot learning: a network is trained by episodes to be a good embedding.

Chen et al., "Meta-Baseline", arXiv 2003.04390, section 3.2: the logits of an episode's queries are
their cosines to the centroids of its support, times a temperature that is learnt.
"""

import torch
from torch import Tensor, nn

from cosup.losses.features import Seen
from cosup.models.centroids import cosine_logits
from cosup.models.classifier import Classifier

__all__ = ["MetaLearner"]


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
        self, pixels: Tensor, teacher: Seen | None = None, progress: float = 0.0
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
