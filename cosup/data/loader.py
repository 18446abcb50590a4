"""Batches of images: decoded in order by threads, or augmented for training.

Training batches depend on the seed and the step only, so a run can be resumed at any step.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cosup.data.images import BrokenImage, Ints
from cosup.data.table import ImageData
from cosup.data.transforms import Transform
from cosup.errors import RunError
from cosup.seeds import random_states, reseed, restore_random_states, seed_for, torch_generator

MEMORY = 2**30
"""Images up to this total size (bytes) are decoded once if the transform is deterministic."""

Sample = tuple[Tensor, Tensor]
Positions = Callable[[int], Tensor]

_AHEAD = 3


def image_batches(
    data: ImageData,
    rows: Ints,
    transform: Transform,
    batch_size: int,
    workers: int,
    *,
    pinned: bool = False,
) -> Iterator[Tensor]:
    """Yield the images of `rows` in order, as uint8 batches [b, K, H, W].

    pinned: in page-locked memory, from which a GPU copies while it computes.

    `workers` threads decode up to three batches ahead of the consumer, and end when the iterator is
    closed. Raise `RunError` for a file that broke after it was checked.
    """
    images = data.table["image"].to_numpy(np.int64)[np.asarray(rows, dtype=np.int64)]
    workers = max(1, workers)

    def decode(chunk: Ints) -> Tensor:
        tensors = [transform(data.images.read(int(index))) for index in chunk]
        # Stacked by NumPy, because torch would start a pool of threads in each of these threads.
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
            whole = torch.cat([part.result() for part in waiting.popleft()])
            yield whole.pin_memory() if pinned else whole
    except BrokenImage as error:
        raise RunError(f"an image broke after it was checked: {error}") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class ImageRows:
    """The samples `rows` [N] of `data`, in this order."""

    data: ImageData
    rows: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> "ImageRows":
        """Return a part: index is int64 [n] or bool [N]."""
        return ImageRows(self.data, self.rows[index.numpy()])


class Order:
    """Endless seeded passes over `count` samples, each in a new order; a batch may span two."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self._passes: dict[int, Tensor] = {}

    def positions(self, step: int) -> Tensor:
        """Return the positions of a step (from 0), int64 [batch_size] in 0 .. count - 1."""
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
    """Seeded batches of the samples `rows` [N] of `data`, transformed.

    transform: RGB image -> uint8 [3, S, S]. If it has a `key` that is not None it is deterministic,
    and images that fit into `MEMORY` are decoded once. Otherwise it may draw from the global
    generators of Python, NumPy and torch: they are seeded by seed, step and position in the batch,
    independently of `workers`, rank and resuming, and restored afterwards.
    batch_size: of all ranks together, at most N. steps: in total. workers: processes that decode
    files (0: this process). Each rank gets its own slice of every batch. order: function from a
    step to positions [b] int64, instead of seeded passes over all samples.
    """

    data: ImageData
    rows: Ints
    transform: Callable[[Image.Image], Tensor]
    batch_size: int
    steps: int
    seed: int
    workers: int = 0
    rank: int = 0
    world_size: int = 1
    order: Positions | None = None

    def __call__(self, start: int = 0) -> Generator[Sample, None, None]:
        """Yield (images uint8 [b, 3, S, S], positions int64 [b] in `rows`) from step `start`.

        Workers end when the generator is closed. Raise `RunError` for an unreadable image.
        """
        order = self.order
        if order is None:
            batch_size = min(self.batch_size, len(self.rows))
            order = Order(len(self.rows), batch_size, self.seed).positions
        if self._decodes_once:
            return self._from_memory(order, start)
        images = self.data.table["image"].to_numpy(np.int64)[self.rows]
        source = _Steps(self, order, images)
        workers = self.workers if self.data.images.files else 0
        return load_steps(source, range(start, self.steps), workers)

    @property
    def _decodes_once(self) -> bool:
        """Whether the images are decoded once and kept in memory."""
        if getattr(self.transform, "key", None) is None:
            return False
        try:
            first = self.transform(self.data.read(int(self.rows[0])))
        except BrokenImage:
            return False  # the error is raised when it is read again
        return len(self.rows) * first.numel() <= MEMORY

    def own(self, positions: Tensor) -> Tensor:
        """Return this rank's slice of a batch."""
        count = len(positions)
        start = count * self.rank // self.world_size
        return positions[start : count * (self.rank + 1) // self.world_size]

    def _from_memory(self, order: Positions, start: int) -> Generator[Sample, None, None]:
        # Threads may call the transform in any order, because it has a key.
        decoded = image_batches(self.data, self.rows, self.transform, 256, self.workers)  # type: ignore[arg-type]
        images = torch.cat(list(decoded))
        for step in range(start, self.steps):
            positions = self.own(order(step))
            yield images[positions], positions


class _Steps(Dataset[Any]):
    """The batch of a step by its number: (images, positions), or an error message."""

    def __init__(self, batches: TrainingBatches, order: Positions, images: Ints) -> None:
        self.batches = batches
        self.order = order
        self.images = images

    def __getitem__(self, step: int) -> Sample | str:
        batches = self.batches
        whole = self.order(step)
        positions = batches.own(whole)
        first = len(whole) * batches.rank // batches.world_size
        reads = (partial(batches.data.images.read, int(self.images[p])) for p in positions)
        images = augmented(reads, batches.transform, batches.seed, step, first)
        return images if isinstance(images, str) else (images, positions)


def augmented(
    reads: Iterable[Callable[[], Image.Image]],
    transform: Callable[[Image.Image], Tensor],
    seed: int,
    step: int,
    first: int,
) -> Tensor | str:
    """Return the transformed images of a step, uint8 [b, 3, S, S], or an error message.

    reads: functions that read an image. first: place of the first one in the batch. A transform
    that draws is seeded by seed, step and place.
    """
    before = random_states()
    try:
        parts = []
        for place, read in enumerate(reads, start=first):
            reseed(seed_for(seed, "augment", step, place))
            parts.append(transform(read()).numpy())
    except BrokenImage as error:
        return str(error)  # a worker process would add its traceback to an exception
    finally:
        restore_random_states(before)
    return torch.from_numpy(np.stack(parts))


def load_steps(source: Dataset[Any], steps: range, workers: int) -> Generator[Any, None, None]:
    """Yield the items of these steps in order; `workers` processes load ahead.

    Raise `RunError` for an item that is an error message about an image.
    """
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        generator=torch.Generator(),  # so that the global one is not used
    )
    batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, str):
                raise RunError(f"an image broke after it was checked: {batch}")
            yield batch
    finally:
        del batches  # ends the processes
