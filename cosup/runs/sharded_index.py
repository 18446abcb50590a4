"""The files of shards of a finished run: their index, their states, and their repair."""

import logging
from pathlib import Path

from cosup.layout import Layout
from cosup.layout.makers import LAST
from cosup.manifest import Damaged, State
from cosup.remote import Place
from cosup.runs.context import RunContext
from cosup.runs.directory import RunDirectory
from cosup.runs.labels import STAGE as LABELS
from cosup.runs.sharded_task import ShardWorld
from cosup.sharded.index import index_shards, states_of_shards
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Executor

__all__ = ["LABELLED", "NEIGHBOURS", "remove_damaged", "shard_states", "write_index"]

log = logging.getLogger(__name__)

LABELLED = "product"
"""The product of the labels in the record of their stage."""
NEIGHBOURS = "neighbours"
"""First part of the names of neighbours among the products of a round's record."""


def write_index(context: RunContext, world: ShardWorld, rounds: int, executor: Executor) -> None:
    """Write the digests of all files of shards of a run whose rounds are finished."""
    run, task = context.run, world.task
    products = list(world.products)
    for number in range(1, rounds + 1):
        found = run.load(f"round-{number}")["products"]
        products += round_products(found)
    products.append(Product(**run.load(LABELS)[LABELLED]))
    products = list(dict.fromkeys(products))  # rounds share neighbours
    store = task.levels[0].samples.store
    run.files.shard_index.write(index_shards(store, products, task.shards, executor))


def round_products(found: dict[str, dict[str, str]]) -> list[Product]:
    """Return what a round has written, or read, of the shards alone. found: `products` of its
    record."""
    decisions = Product(**found["decisions"])
    kinds = ("decisions", "targets", "weights", "counts")
    own = [Product(kind, decisions.name, decisions.key) for kind in kinds]
    own += [Product(**one) for name, one in found.items() if name.startswith(NEIGHBOURS)]
    return [*own, Product(**found["predictions"])]


def shard_states(files: Layout, place: Path | Place) -> dict[str, State]:
    """Return the states of the files of shards that the index of a run names, by path in the run.

    place: of the run; shards of one at a URI are read there. {} without an index: of a run that is
    not finished, or that lists its samples.
    """
    if not files.shard_index.exists():
        return {}
    try:
        index = files.shard_index.read()
    except Damaged:  # told beside the other files
        return {}
    folder = place / files.shards.name
    store = ShardStore(folder.uri if isinstance(folder, Place) else str(folder))
    below = files.shards.name
    return {f"{below}/{path}": state for path, state in states_of_shards(store, index)}


def remove_damaged(run: RunDirectory, root: str) -> None:
    """Remove files of shards that are not what the index of a finished run says, and its summary:
    the run goes on as if they had not been made. root: of the shards, a path or a URI."""
    files = run.files
    if not files.shard_index.exists():
        return
    store = ShardStore(root)
    wrong = [
        (path, state)
        for path, state in states_of_shards(store, files.shard_index.read())
        if state is not State.WHOLE
    ]
    for path, state in wrong:
        log.warning("%s/%s is %s: making it again", files.shards.name, path, state)
        store.discard(path)
    if wrong:
        files.shard_index.remove()
        files.stage(LAST).remove()
        files.summary.remove()
