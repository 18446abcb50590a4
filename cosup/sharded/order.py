"""The order in which the samples of shards are learned.

Each pass takes the shards in a seeded random order, gathers consecutive ones into windows of at
least `WINDOW` samples, and shuffles the samples within a window, by the same seed. Labelled samples
beside them are spread over the windows of a pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cosup.seeds import torch_generator
from cosup.sharded.lesson import LabelledRows

__all__ = ["WINDOW", "ShardOrder", "windows_of"]

WINDOW = 2**16
"""Samples in memory from which batches are drawn: 100 MiB of 768 features, and their targets."""


def windows_of(order: Sequence[int], counts: Sequence[int], window: int) -> list[list[int]]:
    """Divide shards, in this order, into windows of at least so many samples; the last one may have
    less. counts: samples of each shard."""
    windows: list[list[int]] = [[]]
    held = 0
    for place in order:
        if held >= window:
            windows.append([])
            held = 0
        windows[-1].append(place)
        held += counts[place]
    return windows


class _Window(NamedTuple):
    """A window of a pass: its shards, its labelled samples, and how many samples in all."""

    shards: Tensor
    labelled: Tensor
    size: int


class ShardOrder:
    """The samples of each step; a batch may span passes.

    counts: samples of each shard. size: of a batch. labelled: samples beside them, whose place is
    that after the last shard. most_shards: that two windows and a batch need.
    """

    def __init__(
        self,
        counts: Sequence[int],
        size: int,
        seed: int,
        window: int = WINDOW,
        labelled: LabelledRows | None = None,
    ) -> None:
        self.counts = torch.tensor(counts)
        self.size, self.seed, self.window = size, seed, window
        self.labelled = labelled
        self.total = int(self.counts.sum()) + (0 if labelled is None else len(labelled))
        per_window = min(len(counts), -(-window // max(1, int(self.counts.min()))) + 1)
        self.most_shards = 2 * per_window + 1
        self._passes: dict[int, list[_Window]] = {}
        self._drawn: dict[tuple[int, int], Tensor] = {}

    def places(self, step: int) -> Tensor:
        """Return the samples of a step (from 0), int64 [size, 2]: shard, and place in it."""
        start, stop, parts = step * self.size, (step + 1) * self.size, []
        used: dict[tuple[int, int], Tensor] = {}
        while start < stop:
            number, offset = divmod(start, self.total)
            place, offset = self._window_at(number, offset)
            drawn = used[number, place] = self._draw(number, place)
            parts.append(drawn[offset : offset + stop - start])
            start += len(parts[-1])
        self._drawn = used
        return torch.cat(parts)

    def _window_at(self, number: int, offset: int) -> tuple[int, int]:
        """Return the window of a pass that has its sample `offset`, and the offset within it."""
        for place, window in enumerate(self._windows(number)):
            if offset < window.size:
                return place, offset
            offset -= window.size
        raise AssertionError("beyond the pass")

    def _windows(self, number: int) -> list["_Window"]:
        """Return the windows of a pass."""
        if number not in self._passes:
            generator = torch_generator(self.seed, "shards", number)
            order = torch.randperm(len(self.counts), generator=generator)
            places = windows_of(order.tolist(), self.counts.tolist(), self.window)
            sizes = [int(self.counts[own].sum()) for own in places]
            none = torch.zeros(0, dtype=torch.int64)
            shares = [none] * len(places)
            if self.labelled is not None:
                shares = self.labelled.shares(sizes, self.seed, number)
            found = zip(places, shares, sizes, strict=True)
            self._passes = {n: w for n, w in self._passes.items() if n == number - 1}
            self._passes[number] = [
                _Window(torch.tensor(own), share, size + len(share)) for own, share, size in found
            ]
        return self._passes[number]

    def _draw(self, number: int, place: int) -> Tensor:
        """Return the samples of a window, shuffled: [n, 2]."""
        if (number, place) in self._drawn:
            return self._drawn[number, place]
        window = self._windows(number)[place]
        every = [
            torch.stack([torch.full((int(count),), int(shard)), torch.arange(int(count))], 1)
            for shard, count in zip(window.shards, self.counts[window.shards], strict=True)
        ]
        beside = torch.full_like(window.labelled, len(self.counts))
        samples = torch.cat([*every, torch.stack([beside, window.labelled], 1)])
        generator = torch_generator(self.seed, "samples", number, place)
        return samples[torch.randperm(len(samples), generator=generator)]
