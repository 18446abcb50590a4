"""Episodes: a few classes, a few labelled images of each (support), further ones to classify.

N ways, K shots, Q queries of each class, E episodes; Vinyals et al., arXiv 1606.04080.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosup.data.section import FewShotSection
from cosup.data.table import ImageData
from cosup.errors import UserError, about
from cosup.seeds import numpy_generator

__all__ = ["EpisodeRows", "Episodes", "draw_episodes", "episode_rows"]

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Episodes:
    """support: [E, N, K] and query: [E, N, Q] int64 rows of the samples drawn from; classes: [E, N]
    int64, of which an episode's way n is class n.
    """

    support: Tensor
    query: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.classes)


def draw_episodes(
    labels: Rows,
    ways: int,
    shots: int,
    queries: int,
    episodes: int,
    seed: int,
    groups: Rows | None = None,
    classes: Sequence[str] | None = None,
) -> Episodes:
    """Episodes of samples with these labels [M] (-1 is left out), all drawn by seed.

    Within an episode no class and no sample comes twice. With `groups` [M] no group comes twice
    among a class's images either: a support image never shows the same thing as its query.
    Raises `UserError` for more ways than classes, and for a class with too few images (called by
    its name among `classes`, or by its number).
    """
    pools = _pools(labels, groups)
    if ways > len(pools):
        count = "1 class" if len(pools) == 1 else f"{len(pools)} classes"
        raise UserError(f"ways: {ways}, but there are images of {count} only")
    for label, pool in pools.items():
        if len(pool.starts) < shots + queries:
            raise UserError(
                f"shots {shots} and queries {queries} need {shots + queries} "
                f"{'images' if groups is None else 'groups of images'} of each class, and class "
                f"'{label if classes is None else classes[label]}' has {len(pool.starts)}"
            )
    generator = numpy_generator(seed, "episodes")
    chosen = np.empty((episodes, ways), np.int64)
    rows = np.empty((episodes, ways, shots + queries), np.int64)
    known = np.asarray(list(pools), np.int64)
    for episode in range(episodes):
        chosen[episode] = generator.permutation(known)[:ways]
        for way, label in enumerate(chosen[episode].tolist()):
            rows[episode, way] = pools[label].draw(shots + queries, generator)
    return Episodes(
        torch.from_numpy(rows[..., :shots].copy()),
        torch.from_numpy(rows[..., shots:].copy()),
        torch.from_numpy(chosen),
    )


def episode_rows(data: ImageData, section: FewShotSection, seed: int) -> "EpisodeRows":
    """The section's episodes on all labelled samples of `data` (such as `ImageData.novel`)."""
    everything = np.arange(len(data), dtype=np.int64)
    with about("data.few_shot"):
        episodes = draw_episodes(
            data.truth(everything).labels.numpy(),
            section.ways,
            section.shots,
            section.queries,
            section.episodes,
            seed,
            data.groups(everything),
            data.classes,
        )
    return EpisodeRows(data, episodes)


@dataclass(frozen=True)
class EpisodeRows:
    """Episodes on the samples of `data`; its items are the E * N * Q queries, episode after
    episode, way after way."""

    data: ImageData
    episodes: Episodes

    def __len__(self) -> int:
        return self.episodes.query.numel()

    @property
    def way(self) -> Tensor:
        """[E * N * Q] int64 in 0 .. N-1: the right answer to each query."""
        ways = torch.arange(self.episodes.classes.shape[1])
        return ways[None, :, None].expand_as(self.episodes.query).flatten()

    @property
    def group(self) -> Tensor:
        """[E * N * Q] int64: each query's episode."""
        numbers = torch.arange(len(self.episodes))
        return numbers[:, None, None].expand_as(self.episodes.query).flatten()

    @property
    def class_of(self) -> Tensor:
        """[E * N * Q] int64: each query's class of `data`."""
        return self.episodes.classes[..., None].expand_as(self.episodes.query).flatten()

    @cached_property
    def used(self) -> Rows:
        """The rows that occur, ascending, each once: what must be embedded."""
        return np.union1d(self.episodes.support.numpy(), self.episodes.query.numpy())

    @property
    def support(self) -> Tensor:
        """[E, N, K] int64: places in `used`."""
        return self._places(self.episodes.support)

    @property
    def query(self) -> Tensor:
        """[E, N, Q] int64: places in `used`."""
        return self._places(self.episodes.query)

    def _places(self, rows: Tensor) -> Tensor:
        return torch.searchsorted(torch.from_numpy(self.used), rows.contiguous())


@dataclass(frozen=True)
class _Pool:
    """A class's rows, ordered by group, and where each group starts and ends."""

    rows: Rows
    starts: Rows
    ends: Rows

    def draw(self, count: int, generator: np.random.Generator) -> Rows:
        """Rows [count] of as many groups."""
        group = generator.choice(len(self.starts), count, replace=False)
        return self.rows[generator.integers(self.starts[group], self.ends[group])]


def _pools(labels: Rows, groups: Rows | None) -> dict[int, _Pool]:
    return {label: _pool(np.flatnonzero(labels == label), groups) for label in _known(labels)}


def _known(labels: Rows) -> Iterator[int]:
    return (label for label in np.unique(labels).tolist() if label >= 0)


def _pool(rows: Rows, groups: Rows | None) -> _Pool:
    own = rows if groups is None else groups[rows]
    order = np.argsort(own, kind="stable")
    _, starts, sizes = np.unique(own[order], return_index=True, return_counts=True)
    return _Pool(rows[order], starts.astype(np.int64), (starts + sizes).astype(np.int64))
