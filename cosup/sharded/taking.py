"""Take over what another run has computed of the same shards, such as that of another seed.

Each run keeps files of its own, so that it stays whole when the other is removed.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Executor, FunctionWork
from cosup.words import plural

__all__ = ["take_over"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TakeShard:
    """Takes a product of a shard over from the first of other stores that has it whole."""

    product: Product
    store: ShardStore
    others: tuple[ShardStore, ...]

    def __call__(self, shard: Shard) -> bool:
        """Return whether a store had it."""
        return any(self.store.take(self.product, shard.number, other) for other in self.others)


def take_over(
    product: Product,
    store: ShardStore,
    others: Sequence[ShardStore],
    shards: Sequence[Shard],
    executor: Executor,
) -> None:
    """Take a product of the shards of which it is missing over from other stores, as far as they
    have it whole."""
    missing = store.missing(product, shards)
    absent = [set(other.missing(product, missing)) for other in others]
    found = [shard for shard in missing if any(shard not in lacking for lacking in absent)]
    if not found:
        return
    work = FunctionWork(f"taking over {product.kind}", TakeShard(product, store, tuple(others)))
    taken = sum(whole for _, whole in executor.run(work, found))
    log.info("%s of %s: %s taken over", product.kind, product.name, plural(taken, "shard"))
