"""Episodes of few-shot learning: classes with a few labelled images each, and images to classify.

N ways (classes), K shots (labelled images of each, the support), Q queries of each, E episodes;
Vinyals et al., arXiv 1606.04080.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cosup.data.images import Ints
from cosup.data.section import FewShotSection
from cosup.data.table import ImageData
from cosup.errors import UserError, within
from cosup.seeds import numpy_generator

__all__ = ["EpisodePool", "EpisodeRows", "EpisodeSize", "Episodes", "episode_rows"]


@dataclass(frozen=True)
class Episodes:
    """Rows of samples: support int64 [E, N, K], query int64 [E, N, Q]; classes int64 [E, N].

    Way n of episode e is class `classes[e, n]`.
    """

    support: Tensor
    query: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class EpisodeSize:
    """Classes of an episode, and images per class."""

    ways: int
    shots: int
    queries: int


class EpisodePool:
    """The samples that episodes are drawn from.

    labels: [M] class indices; samples with -1 are left out. groups: [M] codes or None; an episode
    has at most one image of a group per class, so that no support image shows the same object as a
    query. classes: names for error messages.
    """

    def __init__(
        self, labels: Ints, groups: Ints | None = None, classes: Sequence[str] | None = None
    ) -> None:
        known = [label for label in np.unique(labels).tolist() if label >= 0]
        self._pools = {
            label: _class_pool(np.flatnonzero(labels == label), groups) for label in known
        }
        self._unit = "images" if groups is None else "groups of images"
        self._classes = classes

    def draw(self, size: EpisodeSize, episodes: int, seed: int) -> Episodes:
        """Draw episodes by seed; no class and no sample occurs twice in an episode.

        Raise `UserError` if there are fewer classes than ways, or a class has too few images.
        """
        self._check(size)
        count = size.shots + size.queries
        generator = numpy_generator(seed, "episodes")
        chosen = np.empty((episodes, size.ways), np.int64)
        rows = np.empty((episodes, size.ways, count), np.int64)
        known = np.asarray(list(self._pools), np.int64)
        for episode in range(episodes):
            chosen[episode] = generator.permutation(known)[: size.ways]
            for way, label in enumerate(chosen[episode].tolist()):
                rows[episode, way] = self._pools[label].draw(count, generator)
        return Episodes(
            torch.from_numpy(rows[..., : size.shots].copy()),
            torch.from_numpy(rows[..., size.shots :].copy()),
            torch.from_numpy(chosen),
        )

    def _check(self, size: EpisodeSize) -> None:
        if size.ways > len(self._pools):
            count = "1 class" if len(self._pools) == 1 else f"{len(self._pools)} classes"
            raise UserError(f"there are only images of {count}", key="ways", value=size.ways)
        needed = size.shots + size.queries
        for label, pool in self._pools.items():
            if len(pool.starts) < needed:
                raise UserError(
                    f"with {size.queries} queries, {needed} {self._unit} of each class are needed, "
                    f"and class '{self._classes[label] if self._classes else label}' has "
                    f"{len(pool.starts)}",
                    key="shots",
                    value=size.shots,
                )


def episode_rows(data: ImageData, section: FewShotSection, seed: int) -> "EpisodeRows":
    """Draw the section's episodes from all labelled samples of `data` (as `ImageData.novel`)."""
    everything = np.arange(len(data), dtype=np.int64)
    labels = data.truth(everything).labels.numpy()
    pool = EpisodePool(labels, data.groups(everything), data.classes)
    size = EpisodeSize(section.ways, section.shots, section.queries)
    with within("data.few_shot"):
        return EpisodeRows(data, pool.draw(size, section.episodes, seed))


@dataclass(frozen=True)
class EpisodeRows:
    """Episodes of samples of `data`; items are the E * N * Q queries, by episode and way."""

    data: ImageData
    episodes: Episodes

    def __len__(self) -> int:
        return self.episodes.query.numel()

    @property
    def way(self) -> Tensor:
        """Correct answers, int64 [E * N * Q] in 0 .. N-1."""
        ways = torch.arange(self.episodes.classes.shape[1])
        return ways[None, :, None].expand_as(self.episodes.query).flatten()

    @property
    def group(self) -> Tensor:
        """Episode of each query, int64 [E * N * Q]."""
        numbers = torch.arange(len(self.episodes))
        return numbers[:, None, None].expand_as(self.episodes.query).flatten()

    @property
    def class_of(self) -> Tensor:
        """Class of each query in `data`, int64 [E * N * Q]."""
        return self.episodes.classes[..., None].expand_as(self.episodes.query).flatten()

    @cached_property
    def used(self) -> Ints:
        """Distinct rows that occur, ascending: those that must be embedded."""
        return np.union1d(self.episodes.support.numpy(), self.episodes.query.numpy())

    @property
    def support(self) -> Tensor:
        """Positions in `used`, int64 [E, N, K]."""
        return self._positions(self.episodes.support)

    @property
    def query(self) -> Tensor:
        """Positions in `used`, int64 [E, N, Q]."""
        return self._positions(self.episodes.query)

    def _positions(self, rows: Tensor) -> Tensor:
        return torch.searchsorted(torch.from_numpy(self.used), rows.contiguous())


@dataclass(frozen=True)
class _ClassPool:
    """Rows of a class sorted by group, and the start and end of each group."""

    rows: Ints
    starts: Ints
    ends: Ints

    def draw(self, count: int, generator: np.random.Generator) -> Ints:
        """Return rows [count], each of another group."""
        group = generator.choice(len(self.starts), count, replace=False)
        return self.rows[generator.integers(self.starts[group], self.ends[group])]


def _class_pool(rows: Ints, groups: Ints | None) -> _ClassPool:
    own = rows if groups is None else groups[rows]
    order = np.argsort(own, kind="stable")
    _, starts, sizes = np.unique(own[order], return_index=True, return_counts=True)
    return _ClassPool(rows[order], starts.astype(np.int64), (starts + sizes).astype(np.int64))
