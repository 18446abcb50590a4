"""Work on shards: what is computed for each of them, and what carries it out.

A `Work` is small, can be sent to any process, and gives the same files there. An `Executor` carries
it out for shards, in any order, and returns a small result of each: the caller's memory does not
grow with the number of samples.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosup.data.images import find_broken
from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import Transform
from cosup.models.compute import Compute
from cosup.sharded.shards import Shard, ShardReader
from cosup.sharded.store import Product, Record, ShardStore

__all__ = [
    "CheckImages",
    "Checked",
    "Done",
    "Executor",
    "FunctionWork",
    "ImageWork",
    "LocalExecutor",
    "Processes",
    "Samples",
    "ShardImages",
    "Work",
    "in_order",
    "parts",
]

log = logging.getLogger(__name__)

T = TypeVar("T")
Processes = Literal["teachers", "features", "shards"]
"""Kinds of processes on a cluster, named as their sections of `execution`."""
MOST_NAMED = 5
"""Samples, and reasons for broken images, that are named per shard."""


@dataclass(frozen=True)
class Samples:
    """The samples of shards, without broken images.

    checked: the product of `CheckImages`, by which those are known; None: all are taken for whole.
    """

    reader: ShardReader
    store: ShardStore
    checked: Product | None = None

    @property
    def key(self) -> str:
        """A hash of all that the samples depend on."""
        return f"{self.reader.fingerprint} {'' if self.checked is None else self.checked.key}"

    def read(self, shard: Shard) -> ImageData:
        """Return the samples of a shard that have an image; `RunError` if it has changed."""
        data = self.reader.read(shard)
        if self.checked is None:
            return data
        broken = self.store.table(self.checked, shard.number).column("row").to_numpy()
        if not len(broken):
            return data
        return data.subset(np.setdiff1d(np.arange(len(data)), broken))


class Work(ABC, Generic[T]):
    """Something that is computed for each shard.

    name: in words, for messages, such as `annotations by resnet18`. products: what it writes.
    processes: that do it on a cluster. of_images_alone: whether its products depend on the images
    and not on the seed or on teachers, so that runs with other seeds have the same.
    """

    name: str
    products: tuple[Product, ...]
    processes: Processes = "shards"
    of_images_alone: bool = False

    @abstractmethod
    def begin(self, compute: Compute) -> Callable[[Shard], T]:
        """Return the function of a shard, after loading in this process what it needs.

        Its result is small. Done twice for a shard, it writes the same files.
        """


class Done(NamedTuple):
    """The result of a shard. samples: how many were worked on. records: of the files written."""

    samples: int
    records: tuple[Record, ...]


class ImageWork(Work[Done]):
    """Work on the decoded images of shards, which may be decoded elsewhere.

    transform: of the images. batch: images at a time.
    """

    samples: Samples
    transform: Transform
    batch: int

    @abstractmethod
    def begin_images(self, compute: Compute) -> Callable[[int, Iterator[Tensor]], Done]:
        """Return the function of a shard's number and its images, uint8 [b, K, H, W] in batches."""

    def begin(self, compute: Compute) -> Callable[[Shard], Done]:
        """Return a function that decodes the images as well."""
        process, images = self.begin_images(compute), self.images
        return lambda shard: process(
            shard.number, images.batches(shard, compute.workers, compute.pins)
        )

    @property
    def images(self) -> "ShardImages":
        """Return what decodes the images."""
        return ShardImages(self.samples, self.transform, self.batch)


@dataclass(frozen=True)
class ShardImages:
    """Decodes the images of shards. transform: of the images. batch: images at a time."""

    samples: Samples
    transform: Transform
    batch: int

    def batches(self, shard: Shard, workers: int, pinned: bool = False) -> Iterator[Tensor]:
        """Yield the images of a shard, uint8 [b, K, H, W], decoded by so many threads."""
        data = self.samples.read(shard)
        rows = np.arange(len(data))
        return image_batches(data, rows, self.transform, self.batch, workers, pinned=pinned)

    def decode(self, shard: Shard, workers: int) -> Tensor:
        """Return all images of a shard, uint8 [n, K, H, W]; [0] without any."""
        return torch.cat([torch.empty(0, dtype=torch.uint8), *self.batches(shard, workers)])

    def split(self, images: NDArray[np.uint8], pinned: bool = False) -> Iterator[Tensor]:
        """Yield copies of decoded images in the batches of `batches`."""
        for start in range(0, len(images), self.batch):
            yield torch.tensor(images[start : start + self.batch], pin_memory=pinned)


def parts(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Yield so many rows at a time; nothing of none."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@dataclass(frozen=True)
class FunctionWork(Work[T]):
    """A function of a shard. It can be sent to other processes: defined in a module, or a partial
    function of one; `function(shard)` returns a small result."""

    name: str
    function: Callable[[Shard], T]
    products: tuple[Product, ...] = ()

    def begin(self, compute: Compute) -> Callable[[Shard], T]:
        """Return the function."""
        return self.function


class Checked(NamedTuple):
    """Broken images of a shard. samples: all of the shard. reasons: of the first ones."""

    samples: int
    broken: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class CheckImages(Work[Checked]):
    """Decode every image once, and write which are broken: their rows in the shard, and why."""

    reader: ShardReader
    store: ShardStore
    name = "checks of images"
    of_images_alone = True

    @property
    def product(self) -> Product:
        """Return the product of the check, which `Samples` reads."""
        return Product.of("checks", "images", self.reader.fingerprint)

    @property
    def products(self) -> tuple[Product, ...]:  # type: ignore[override]
        """Return its product."""
        return (self.product,)

    def begin(self, compute: Compute) -> Callable[[Shard], Checked]:
        """Return the function of a shard."""
        import pyarrow as pa

        def check(shard: Shard) -> Checked:
            data = self.reader.read(shard)
            images = data.table["image"].to_numpy(np.int64)
            found = find_broken(data.images, images, compute.workers)
            rows = sorted(found)
            reasons = [found[row] for row in rows]
            ids = data.sample_ids(np.asarray(rows, np.int64))
            columns = {
                "row": pa.array(rows, pa.int64()),
                "sample_id": pa.array(ids, pa.string()),
                "reason": pa.array(reasons, pa.string()),
            }
            self.store.write(self.product, shard.number, pa.table(columns))
            return Checked(len(data), len(rows), tuple(reasons[:MOST_NAMED]))

        return check

    def read(self, shard: Shard) -> Checked:
        """Return what the check of a shard has found, from what it has written."""
        reasons = self.store.table(self.product, shard.number, ["reason"]).column(0).to_pylist()
        return Checked(shard.samples, len(reasons), tuple(reasons[:MOST_NAMED]))


class Executor(Protocol):
    """Carries out work on shards."""

    def run(self, work: Work[T], shards: Sequence[Shard]) -> Iterator[tuple[int, T]]:
        """Yield the number of each shard with its result, in any order.

        Raise the `UserError` or `RunError` of a shard, and `RunError` with the ids of the samples
        that failed for other reasons, once the other shards are done.
        """
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Carries out work in this process, shard after shard."""

    compute: Compute

    def run(self, work: Work[T], shards: Sequence[Shard]) -> Iterator[tuple[int, T]]:
        """Yield the number of each shard with its result, in order."""
        if not shards:
            return
        process = work.begin(self.compute)
        for shard in shards:
            yield shard.number, process(shard)


def in_order(results: Iterable[tuple[int, T]], shards: Iterable[Shard]) -> Iterator[T]:
    """Yield the results of shards in the order of the shards."""
    waiting: dict[int, T] = {}
    order = iter([shard.number for shard in shards])
    wanted = next(order, None)
    for number, found in results:
        waiting[number] = found
        while wanted in waiting:
            assert wanted is not None
            yield waiting.pop(wanted)
            wanted = next(order, None)
