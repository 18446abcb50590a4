"""Work on shards by actors of a cluster."""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import ray

from cosup.cluster.decoded_apart import DecodedApart
from cosup.cluster.pool import Pool
from cosup.cluster.work_queue import WorkItem
from cosup.errors import RunError, UserError
from cosup.sharded.shards import Shard, ShardReader
from cosup.sharded.work import ImageWork, Processes, Work

__all__ = ["ShardPool"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class ShardPool:
    """Carries out work on shards by a pool of actors, which read and write the run's storage.

    This process gets a small result of each shard. pool: returns the pool of a kind of processes.
    apart: returns what does work on images that are decoded by other processes; None if the actors
    of the pool decode them.
    """

    def __init__(
        self,
        pool: Callable[[Processes], Pool],
        apart: Callable[[Processes], DecodedApart | None],
        reader: ShardReader,
    ) -> None:
        self.pool = pool
        self.apart = apart
        self.reader = reader

    def run(self, work: Work[T], shards: Sequence[Shard]) -> Iterator[tuple[int, T]]:
        """Yield the number of each shard with its result, as they are finished.

        Raise as `Pool.run`: a shard that fails `execution.tries` times is reported with the ids of
        its samples, once the others are done.
        """
        left = {shard.number: shard for shard in shards}
        if isinstance(work, ImageWork) and left and (apart := self.apart(work.processes)):
            for number, found in apart.run(work, shards):
                del left[number]
                yield number, found
            if left:
                log.warning("%s: %d of %d shards are left", work.name, len(left), len(shards))
        if left:
            yield from self._by_pool(work, left.values())

    def _by_pool(self, work: Work[T], shards: Iterable[Shard]) -> Iterator[tuple[int, T]]:
        sent, key = (ray.put(work),), uuid.uuid4().hex
        items = (
            WorkItem(
                f"{work.name}, shard {shard.number}",
                "work_on",
                (key, sent, shard),
                samples=partial(self._ids, shard),
                affinity=key,
                context=shard.number,
            )
            for shard in shards
        )
        for item, found in self.pool(work.processes).run(items):
            yield item.context, found

    def _ids(self, shard: Shard) -> Sequence[str]:
        try:
            return self.reader.read(shard).sample_ids(np.arange(shard.samples))
        except (RunError, UserError) as error:  # what failed is reported, and not this
            log.warning("shard %d: its samples cannot be listed: %s", shard.number, error)
            return ()
