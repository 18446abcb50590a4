"""The batches of heads that are fitted to shards, in the order of `cosup.sharded.order`.

What is left of a window is less than a batch, and comes first in the next one. A head of a subset
draws from its samples of the window, and begins with them again where the window lasts longer. If
all kept samples fit into one window it is read once, and every pass shuffles all of them: the
batches are then those of `cosup.models.fit`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from cosup.models.samples import Shuffle
from cosup.seeds import torch_generator
from cosup.sharded.lesson import Block, ShardSamples, Subsets
from cosup.sharded.order import WINDOW, windows_of

__all__ = ["batches_of"]


def batches_of(
    samples: ShardSamples, size: int, seed: int, window: int = WINDOW
) -> Iterator[Block]:
    """Yield batches without end, each of [H * size] samples: `size` for the head of all samples,
    then for that of each subset."""
    subsets = samples.subsets
    generators = [torch_generator(seed, "batches", head) for head in range(1 + len(subsets))]
    if len(samples) <= window:
        whole = Block.join([samples.read(shard) for shard in samples.used])
        if samples.labelled is not None:
            whole = whole.with_labelled(samples.labelled)
        every = Shuffle(torch.arange(len(whole)), generators[0]).draw
        draws = [every, *_draws(whole, subsets, generators[1:])]
        while True:
            yield _batch(whole, subsets, [draw(size) for draw in draws])
    left: list[Block] = []
    for block in _windows(samples, seed, generators[0], window):
        order = torch.randperm(len(block), generator=generators[0])
        ordered = Block.join([*left, block.take(order)])
        draws = _draws(ordered, subsets, generators[1:])
        count = len(ordered)
        rows = torch.arange(count)
        for start in range(0, count - size + 1, size):
            own = rows[start : start + size]
            yield _batch(ordered, subsets, [own, *(draw(size) for draw in draws)])
        left = [ordered.take(rows[count - count % size :])]


def _windows(
    samples: ShardSamples, seed: int, generator: torch.Generator, window: int
) -> Iterator[Block]:
    used, labelled = samples.used, samples.labelled
    counts = [kept for kept in samples.kept if kept]
    for number in itertools.count():
        order = torch.randperm(len(used), generator=generator).tolist()
        places = windows_of(order, counts, window)
        shares: Sequence[Tensor | None] = [None] * len(places)
        if labelled is not None:
            sizes = [sum(counts[place] for place in own) for own in places]
            shares = labelled.shares(sizes, seed, number)
        for own, share in zip(places, shares, strict=True):
            block = Block.join([samples.read(used[place]) for place in own])
            if labelled is not None and share is not None:
                block = block.with_labelled(labelled.take(share))
            yield block


def _draws(
    block: Block, subsets: Subsets, generators: Sequence[torch.Generator]
) -> list[Callable[[int], Tensor]]:
    """Return functions that draw so many rows of a block, of each subset."""
    draws: list[Callable[[int], Tensor]] = []
    for place, generator in enumerate(generators):
        rows = torch.nonzero(subsets.has(place, block.folds))[:, 0]
        # In a window without any, `_batch` gives the first row no weight.
        none = partial(torch.zeros, dtype=torch.int64)
        draws.append(Shuffle(rows, generator).draw if len(rows) else none)
    return draws


def _batch(block: Block, subsets: Subsets, drawn: Sequence[Tensor]) -> Block:
    """Return the rows of each head, one head after another; none has weight outside its subset."""
    rows = torch.stack(list(drawn))
    batch = block.take(rows.flatten())
    first, *others = batch.folds.view(rows.shape)
    inside = [subsets.has(place, own) for place, own in enumerate(others)]
    learned = torch.cat([torch.ones_like(first, dtype=torch.bool), *inside])
    return replace(batch, weights=batch.weights * learned)
