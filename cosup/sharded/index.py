"""The digests of the files of shards, by which they are compared with what was written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from cosup.layout.schemas import SHARD_COLUMNS
from cosup.manifest import State
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, Record, ShardStore
from cosup.sharded.work import Executor, FunctionWork, in_order

__all__ = ["index_shards", "states_of_shards"]


@dataclass(frozen=True)
class IndexShard:
    """Reads the files of a shard, and tells their digests."""

    store: ShardStore
    products: tuple[Product, ...]

    def __call__(self, shard: Shard) -> list[Record]:
        """Return a record of each product; raise for a file that is missing or damaged."""
        return [self.store.find(product, shard.number) for product in self.products]


def index_shards(
    store: ShardStore, products: Sequence[Product], shards: Sequence[Shard], executor: Executor
) -> pd.DataFrame:
    """Return a row for each file of these products: path below the store, bytes, sha256.

    Raise `RunError` for a file that is missing or damaged.
    """
    work = FunctionWork("digests", IndexShard(store, tuple(dict.fromkeys(products))))
    found = [
        (record.path, record.bytes, record.sha256)
        for records in in_order(executor.run(work, shards), shards)
        for record in records
    ]
    return pd.DataFrame(found, columns=list(SHARD_COLUMNS)).sort_values("path")


def states_of_shards(store: ShardStore, index: pd.DataFrame) -> Iterator[tuple[str, State]]:
    """Yield the path of each file of an index, and its state."""
    for path, size, sha256 in index[list(SHARD_COLUMNS)].itertuples(index=False):
        yield path, store.state(Record(path, size, sha256))
