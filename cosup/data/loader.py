"""Decoding in threads, ahead of whoever reads the batches.

Some samples of a table, as a network reads them: rows, decoded when they are needed.

Batches of augmented images to train on: a pure function of seed and step, from any step on.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cosup.data.images import BrokenImage
from cosup.data.table import ImageData
from cosup.data.transforms import Transform
from cosup.errors import RunError
from cosup.seeds import random_states, reseed, restore_random_states, seed_for, torch_generator

__all__ = [
    "Order",
    "TrainingBatches",
]


_AHEAD = 3


def image_batches(
    data: ImageData,
    rows: NDArray[np.int64],
    transform: Transform,
    batch_size: int,
    workers: int,
) -> Iterator[Tensor]:
    """The images of `rows`, in order, as uint8 batches [b, K, H, W].

    `workers` threads decode up to three batches ahead, while the consumer works on one; they end
    when the iterator is closed. A file that broke since it was checked is a `RunError`.
    """
    images = data.table["image"].to_numpy(np.int64)[np.asarray(rows, dtype=np.int64)]
    workers = max(1, workers)

    def decode(chunk: NDArray[np.int64]) -> Tensor:
        tensors = [transform(data.images.read(int(index))) for index in chunk]
        # Stacked by NumPy: torch would start a pool of threads of its own in each of ours.
        return torch.from_numpy(np.stack([tensor.numpy() for tensor in tensors]))

    pool = ThreadPoolExecutor(workers, thread_name_prefix="cosup-decode")
    waiting: deque[list[Future[Tensor]]] = deque()
    starts = iter(range(0, len(images), batch_size))
    try:
        while True:
            while len(waiting) < _AHEAD and (start := next(starts, None)) is not None:
                batch = images[start : start + batch_size]
                chunks = np.array_split(batch, min(workers, len(batch)))
                waiting.append([pool.submit(decode, chunk) for chunk in chunks])
            if not waiting:
                return
            yield torch.cat([part.result() for part in waiting.popleft()])
    except BrokenImage as error:
        raise RunError(f"an image broke since it was checked: {error}") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class ImageRows:
    """The samples `rows` [N] of `data`, in this order."""

    data: ImageData
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> "ImageRows":
        """Some of them: index is int64 [n] or bool [N]."""
        return ImageRows(self.data, self.rows[index.numpy()])


MEMORY = 2**30
"""Images up to this size in all (bytes) are decoded once where the transform draws nothing."""

Sample = tuple[Tensor, Tensor]
Positions = Callable[[int], Tensor]


class Order:
    """Endless seeded passes over `count` samples, each in a new order; a batch may span two."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self._passes: dict[int, Tensor] = {}

    def positions(self, step: int) -> Tensor:
        """[batch_size] int64 places in 0 .. count - 1 of the step (from 0)."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        first, last = places.start // self.count, (places.stop - 1) // self.count
        self._passes = {n: self._order(n) for n in range(first, last + 1)}
        start = places.start - first * self.count
        return torch.cat(list(self._passes.values()))[start : start + self.batch_size]

    def _order(self, number: int) -> Tensor:
        if number in self._passes:
            return self._passes[number]
        generator = torch_generator(self.seed, "batches", number)
        return torch.randperm(self.count, generator=generator)


@dataclass(frozen=True)
class TrainingBatches:
    """The samples `rows` [N] of `data`, transformed, in seeded batches.

    transform: RGB image -> uint8 [3, S, S]; if it has a `key` that isn't None it draws nothing,
    and a set that fits `MEMORY` is decoded once. What else it draws from the global generators of
    Python, NumPy and torch depends on seed, step and place in the batch alone: not on `workers`,
    on the rank, or on where a killed run went on; these generators are given back as they were.
    batch_size: of all ranks together; N where that is smaller. workers: processes that decode files
    (0: in this one). steps: in all. Each rank has its own slice of every batch. order: positions
    [b] int64 of a step's samples, in place of seeded passes over all of them.
    """

    data: ImageData
    rows: NDArray[np.int64]
    transform: Callable[[Image.Image], Tensor]
    batch_size: int
    steps: int
    seed: int
    workers: int = 0
    rank: int = 0
    world_size: int = 1
    order: Positions | None = None

    def __call__(self, start: int = 0) -> Generator[Sample, None, None]:
        """(images uint8 [b, 3, S, S], their positions [b] int64 in `rows`) from a step on.

        Ends its workers when closed. Raises `RunError` naming an image that can't be read.
        """
        order = self.order
        if order is None:
            batch_size = min(self.batch_size, len(self.rows))
            order = Order(len(self.rows), batch_size, self.seed).positions
        if self._kept:
            return self._from_memory(order, start)
        images = self.data.table["image"].to_numpy(np.int64)[self.rows]
        source = _Steps(self, order, images)
        workers = self.workers if self.data.images.files else 0
        return _load(source, range(start, self.steps), workers)

    @property
    def _kept(self) -> bool:
        """Whether the images are decoded once."""
        if getattr(self.transform, "key", None) is None:
            return False
        try:
            first = self.transform(self.data.read(int(self.rows[0])))
        except BrokenImage:
            return False  # reading it again says so
        return len(self.rows) * first.numel() <= MEMORY

    def own(self, positions: Tensor) -> Tensor:
        """This rank's slice of a batch."""
        count = len(positions)
        start = count * self.rank // self.world_size
        return positions[start : count * (self.rank + 1) // self.world_size]

    def _from_memory(self, order: Positions, start: int) -> Generator[Sample, None, None]:
        # One pass of threads; the transform has a key, so it doesn't matter who asks it when.
        decoded = image_batches(self.data, self.rows, self.transform, 256, self.workers)  # type: ignore[arg-type]
        images = torch.cat(list(decoded))
        for step in range(start, self.steps):
            positions = self.own(order(step))
            yield images[positions], positions


class _Steps(Dataset[Any]):
    """A whole step's batch by its number, for a worker: (images, positions), or what went wrong."""

    def __init__(
        self, batches: TrainingBatches, order: Positions, images: NDArray[np.int64]
    ) -> None:
        self.batches = batches
        self.order = order
        self.images = images

    def __getitem__(self, step: int) -> Sample | str:
        batches = self.batches
        whole = self.order(step)
        positions = batches.own(whole)
        first = len(whole) * batches.rank // batches.world_size
        before = random_states()
        try:
            parts = []
            for place, position in enumerate(positions.tolist(), start=first):
                reseed(seed_for(batches.seed, "augment", step, place))
                image = batches.data.images.read(int(self.images[position]))
                parts.append(batches.transform(image).numpy())
        except BrokenImage as error:
            return str(error)  # an exception would cross processes with its traceback as text
        finally:
            restore_random_states(before)
        return torch.from_numpy(np.stack(parts)), positions


def _load(source: _Steps, steps: range, workers: int) -> Generator[Sample, None, None]:
    """The batches of these steps in order, made ahead by processes if there are workers."""
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        generator=torch.Generator(),  # or it would draw from the global one
    )
    batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, str):
                raise RunError(f"an image broke since it was checked: {batch}")
            yield batch
    finally:
        del batches  # ends the processes
