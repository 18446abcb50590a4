"""Images that tasks of Ray Data decode on any CPU of the cluster, for actors that compute.

An actor with a GPU computes on more images than the CPUs beside it decode. So tasks decode a shard
each, and send it as one block; actors load a model once and write what they compute to the run's
storage. Ray Data does not say which shards a lost block held: those that did not come back are left
to the caller.
"""

import logging
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.exceptions import ActorDiedError, RayError

from cosup.cluster.actor import Setup
from cosup.cluster.room import Allocation
from cosup.cluster.running import here
from cosup.cluster.session import Node, find_nodes
from cosup.errors import RunError, UserError, in_short
from cosup.sharded.shards import Shard
from cosup.sharded.work import ImageWork

__all__ = ["DecodedApart"]

log = logging.getLogger(__name__)

WAVE = 1024
"""Shards of one execution of Ray Data, whose driver keeps some kilobytes of each."""
START_SECONDS = 120.0
"""Time for Ray Data and its actors to start, beyond that of a shard."""
LOOK_SECONDS = 10.0
"""Time without a finished shard after which it is looked whether the actors live."""
REPLACE_SECONDS = 30.0
"""Time that Ray Data has to replace its actors when all are dead."""
TABLES = "pyarrow"

Sent = tuple[Any]
"""A reference to an object of Ray's, which is not resolved on the way."""


@dataclass(frozen=True)
class DecodedApart:
    """Carries out work on images that other processes decode.

    setup, allocation: of the actors that compute. seconds: without a finished shard after which it
    gives up.
    """

    setup: Setup
    allocation: Allocation
    seconds: float

    def run(self, work: ImageWork, shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        """Yield the number of each shard that was done with its result, as they are finished.

        Shards that failed are left out, and logged. Raise the `UserError` of a shard at once.
        """
        sent = (ray.put(work),), (ray.put(work.images),)
        wanted = _beside_decoding(self.allocation, find_nodes())
        for start in range(0, len(shards), WAVE):
            yield from self._wave(sent, wanted, shards[start : start + WAVE])

    def _wave(
        self, sent: tuple[Sent, Sent], wanted: Allocation, shards: Sequence[Shard]
    ) -> Iterator[tuple[int, Any]]:
        # In a process of its own it can be ended, and its bookkeeping is not in this one.
        runner: Any = ray.remote(_Runner)
        actor = runner.options(
            num_cpus=0, max_restarts=0, max_concurrency=2, scheduling_strategy=here()
        ).remote()
        try:
            stream = actor.run.options(num_returns="streaming").remote(
                *sent, self.setup, wanted, shards
            )
            limit = self.seconds + START_SECONDS
            for reference in _within(stream, limit, actor):
                number, content = ray.get(reference)
                found = pickle.loads(content)
                if isinstance(found, UserError):
                    raise found
                if isinstance(found, RunError):
                    log.warning("shard %d: %s", number, found)
                else:
                    yield number, found
        except RayError as error:
            log.warning("Ray Data: %s", in_short(error, named=True))
        finally:
            ray.kill(actor)


def _within(stream: Any, seconds: float, runner: Any) -> Iterator[Any]:
    """Yield the references of a stream, until none comes for so many seconds, or until all actors
    are dead: Ray Data may then wait for them for ever."""
    last, lost = time.monotonic(), None
    while time.monotonic() - last < seconds:
        if ray.wait([stream], timeout=min(LOOK_SECONDS, seconds))[0]:
            reference = next(stream, None)
            if reference is None:
                return
            yield reference
            last, lost = time.monotonic(), None
        elif not ray.get(runner.lost.remote()):
            lost = None
        elif lost is None:
            lost = time.monotonic()
        elif time.monotonic() - lost >= REPLACE_SECONDS:
            log.warning("Ray Data: all actors died, and none took their place")
            return
    log.warning("Ray Data: no shard was finished in %g s", seconds)


def _is_alive(actor: Any) -> bool:
    """Return whether an actor is not dead; one that is busy does not answer at once."""
    asked = actor.__ray_ready__.remote()
    if not ray.wait([asked], timeout=1.0)[0]:
        return True
    try:
        ray.get(asked)
    except ActorDiedError:
        return False
    except RayError:  # for a moment out of reach
        return True
    return True


def _beside_decoding(allocation: Allocation, nodes: Sequence[Node]) -> Allocation:
    """Return an allocation that leaves at least one CPU of the cluster to decoding, together with
    those of the other shares."""
    cpus = min(1.0, allocation.num_cpus)
    wanted = replace(allocation, num_cpus=cpus)
    most = wanted.share.part(int((sum(node.cpus for node in nodes) - wanted.share.of) // cpus))
    count = max(1, min(wanted.count, wanted.room(nodes), most))
    return replace(wanted, count=count, least=min(wanted.needed, count))


class _Runner:
    """Drives Ray Data, and knows its actors."""

    def __init__(self) -> None:
        self._actors: list[Any] = []

    def register(self, actor: Any) -> None:
        """Remember an actor that has started."""
        self._actors.append(actor)

    def lost(self) -> bool:
        """Return whether actors have started, and all of them are dead."""
        return bool(self._actors) and not any(map(_is_alive, list(self._actors)))

    def run(
        self, work: Sent, images: Sent, setup: Setup, wanted: Allocation, shards: Sequence[Shard]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the pickled result, or error, of each shard that comes back."""
        from ray import data

        decode: Any = _decode  # Ray's types know no arguments
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # the shards of lost blocks are done later
        rows = [shard._asdict() for shard in shards]
        decoded = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            decode,
            batch_size=1,
            batch_format=TABLES,
            fn_args=(images, setup),
            num_cpus=1,
        )
        done = decoded.map_batches(
            _Compute,
            batch_size=1,
            batch_format=TABLES,
            fn_constructor_args=(work, images, setup, ray.get_runtime_context().current_actor),
            compute=data.ActorPoolStrategy(min_size=wanted.needed, max_size=wanted.count),
            num_cpus=wanted.num_cpus,
            num_gpus=wanted.num_gpus,
            max_restarts=0,  # a restart without room waits for ever
        )
        tables: Any = done.iter_batches(batch_size=None, batch_format=TABLES, prefetch_batches=0)
        for table in tables:
            for row in table.to_pylist():
                yield row["number"], row["found"]


def _decode(table: pa.Table, images: Sent, setup: Setup) -> pa.Table:
    """Decode the images of the one shard that a table names, or return the error."""
    (row,) = table.to_pylist()
    found, error = np.empty(0, np.uint8), b""
    setup.apply()
    try:
        found = np.ascontiguousarray(_object(images).decode(Shard(**row), 1))
    except Exception as problem:
        error = _pickled(problem)
    return pa.table(
        {
            "number": [row["number"]],
            "images": _one_value(found),
            "shape": pa.array([found.shape], pa.list_(pa.int64())),
            "error": pa.array([error], pa.binary()),
        }
    )


class _Compute:
    """Computes on decoded shards, and writes what it computes."""

    def __init__(self, work: Sent, images: Sent, setup: Setup, runner: Any) -> None:
        ray.get(runner.register.remote(ray.get_runtime_context().current_actor))
        setup.apply()
        self.images = _object(images)
        self.compute = setup.compute()
        self.process = _object(work).begin_images(self.compute)

    def __call__(self, table: pa.Table) -> pa.Table:
        number, found = table["number"][0].as_py(), table["error"][0].as_py()
        if not found:
            shape = table["shape"][0].as_py()
            content = np.frombuffer(table["images"][0].as_buffer(), np.uint8).reshape(shape)
            batches = self.images.split(content, self.compute.pins)
            try:
                found = pickle.dumps(self.process(number, batches))
            except Exception as problem:
                found = _pickled(problem)
        return pa.table({"number": [number], "found": pa.array([found], pa.binary())})


def _one_value(array: NDArray[np.uint8]) -> pa.LargeBinaryArray:
    """Return a column whose one value is the bytes of an array, which are not copied."""
    ends = np.asarray([0, array.nbytes], np.int64)
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(array)]
    )


def _object(sent: Sent) -> Any:
    return ray.get(sent[0])


def _pickled(error: Exception) -> bytes:
    known = isinstance(error, UserError | RunError)
    return pickle.dumps(error if known else RunError(in_short(error, named=True)))
