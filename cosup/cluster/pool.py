"""A pool of Ray actors that process work items, and survive the death of actors and nodes.

An actor has at most two items at a time, so that it never waits for the next one, and processes
them in order. The pool therefore only waits for the oldest call of each actor:

    returned        the result is used
    raised          the item is tried again, on another actor if possible
    actor died      the try of its oldest item has failed, unless the node died; the other items are
                    put back
    took too long   the actor is killed, and the try of the item has failed

Dead actors are replaced. An item that failed `tries` times is given up; the others are finished,
and then an error is raised. Each result is used once, even if the work was done twice.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from cosup import words
from cosup.cluster.actor import PoolActor, Setup
from cosup.cluster.room import Allocation
from cosup.cluster.session import (
    Closeable,
    describe_nodes,
    find_nodes,
    free_resources,
    is_alive,
)
from cosup.cluster.work_queue import ItemState, WorkItem, WorkQueue
from cosup.config.schema import MOST_ACTORS
from cosup.errors import RunError, UserError, in_short

__all__ = ["Limits", "Pool"]

log = logging.getLogger(__name__)

WINDOW = 4
"""Open items per actor, so that none waits while the driver writes or waits for a slow one."""
POLL_SECONDS = 0.5
LOOK_SECONDS = 5.0
"""Time between two looks for nodes that have joined."""
ACTOR_START_SECONDS = 60.0
"""Time for an actor to respond once it has a place, beyond `wait`; it imports torch."""
RESTART_SECONDS = 10.0
"""Time until another actor is started after failed starts, if others work: a node whose death has
not been noticed yet accepts actors that cannot start."""
KILL_SECONDS = 10.0
"""Time for killed actors to disappear."""


@dataclass(frozen=True)
class Limits:
    """Limits of a pool.

    tries: of an item, and of starting an actor. timeout: seconds for an item. wait: seconds to wait
    for a place while no actor has one.
    """

    tries: int
    timeout: float
    wait: float


@dataclass(eq=False)
class Call:
    """A call of an actor. state: its item; None for `node_id` and `prepare`. limit: seconds."""

    ref: Any
    state: ItemState | None = None
    limit: float | None = None


@dataclass(eq=False)
class Member:
    """An actor of the pool.

    calls: oldest first. since: when it started the oldest call. node: id of its node; None until it
    has a place. ready: whether it is prepared. affinity: of its last item.
    """

    number: int
    handle: Any
    calls: deque[Call] = field(default_factory=deque)
    since: float = 0.0
    node: str | None = None
    ready: bool = False
    affinity: Hashable = None


class Pool(Closeable):
    """Up to `allocation.count` actors, started when there is work and killed on closing.

    One that grows starts more where nodes with room have joined the cluster. name: for messages.
    actor: class of the actors. ready: called with what the `prepare` of each actor returned.
    """

    def __init__(
        self,
        setup: Setup,
        allocation: Allocation,
        limits: Limits,
        name: str,
        actor: type = PoolActor,
        ready: Callable[[Any], None] | None = None,
    ) -> None:
        remote: Any = ray.remote(actor)
        self._actor = remote.options(
            num_cpus=allocation.num_cpus,
            num_gpus=allocation.num_gpus,
            # Ray's own restarts would use up the tries before it notices that a node died.
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._setup = setup
        self._allocation = allocation
        self._limits = limits
        self._name = name
        self._ready = ready
        self._count, self._looked = allocation.count, time.monotonic()
        self._members: list[Member] = []
        self._killed: list[Any] = []
        self._started = 0
        self._failed_starts: list[Exception] = []  # in a row
        self._failed_start_at = 0.0
        self._without_place_since = time.monotonic()  # while no actor has a place

    def run(
        self, items: Iterable[WorkItem], ordered: bool = False, unlimited: bool = False
    ) -> Iterator[tuple[WorkItem, Any]]:
        """Yield each item with its result, as they are finished, or in the items' order.

        Only a few items are open at once, and none is started while the caller processes a result.
        unlimited: items have no time limit, and an actor gets one at a time.

        Raise `RunError` for items that failed for good, once the others are done, and for missing
        resources. A `UserError` of an item is raised at once.
        """
        limits = self._limits
        queue = WorkQueue(items, limits.tries, WINDOW * self._count, ordered)
        self._without_place_since = time.monotonic()
        try:
            while queue.open:
                self._grow()
                queue.window = WINDOW * self._count
                self._start_missing(min(self._count, queue.open))
                self._assign(queue, 1 if unlimited else 2, None if unlimited else limits.timeout)
                self._poll(queue)
                yield from queue.results()
            queue.check()
        finally:  # actors that are still busy work on items that nobody waits for
            for member in [m for m in self._members if any(call.state for call in m.calls)]:
                self._kill(member)

    def close(self) -> None:
        """Kill the actors and wait until they are gone."""
        for member in list(self._members):
            self._kill(member)
        end = time.monotonic() + KILL_SECONDS
        remaining = [handle for handle in self._killed if not _is_gone(handle, end)]
        self._killed = []
        if remaining:
            log.warning("%s: %d killed actors are still running", self._name, len(remaining))

    def _grow(self) -> None:
        """Look from time to time for nodes that have joined, and count the actors that fit."""
        now = time.monotonic()
        if not self._allocation.grows or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        room = min(MOST_ACTORS, self._allocation.room(find_nodes()))
        if room > self._count:
            log.info("%s: the cluster has room for %d actors now", self._name, room)
            self._count = room

    def _start_missing(self, wanted: int) -> None:
        """Start missing actors; raise an error if that failed too often or no place is found."""
        others_work = bool(self._members)
        retry = others_work and time.monotonic() - self._failed_start_at > RESTART_SECONDS
        if len(self._failed_starts) < self._limits.tries or retry:
            while len(self._members) < wanted:
                self._members.append(self._start())
        elif not self._members:
            raise self._failed_starts[-1]
        if any(member.node for member in self._members):
            self._without_place_since = time.monotonic()
            return
        limit = self._limits.wait + ACTOR_START_SECONDS
        if time.monotonic() - self._without_place_since > limit:
            if self._allocation.waits(find_nodes()):
                log.info("%s: waiting for a place that another seed holds", self._name)
                self._without_place_since = time.monotonic()
                return
            raise RunError(
                f"{self._name}: no actor found a place within {limit:g} s; each needs "
                f"{self._allocation}; the cluster has {describe_nodes(find_nodes())}, of which "
                f"{free_resources()} are free"
            )

    def _start(self) -> Member:
        handle = self._actor.remote(self._setup)
        self._started += 1
        limit = max(self._limits.timeout, self._limits.wait)
        calls = [Call(handle.node_id.remote()), Call(handle.prepare.remote(), limit=limit)]
        return Member(self._started, handle, deque(calls), time.monotonic())

    def _assign(self, queue: WorkQueue, depth: int, limit: float | None) -> None:
        """Assign up to `depth` items to every ready actor; all get a first one before a second."""
        ready = [member for member in self._members if member.ready]
        numbers = [member.number for member in ready]
        for level in range(depth):
            for member in ready:
                if len(member.calls) > level:
                    continue
                state = queue.take(member.number, member.affinity, numbers)
                if state is None:
                    continue
                member.affinity = state.item.affinity
                if not member.calls:
                    member.since = time.monotonic()
                ref = getattr(member.handle, state.item.method).remote(*state.item.args)
                member.calls.append(Call(ref, state, limit))

    def _poll(self, queue: WorkQueue) -> None:
        """Wait briefly for the oldest call of any actor; process finished and overdue calls."""
        waiting = {m.calls[0].ref: m for m in self._members if m.calls}
        if waiting:
            refs = list(waiting)
            ray.wait(refs, num_returns=1, timeout=POLL_SECONDS)
            finished, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            for ref in finished:
                self._finish_call(waiting[ref], queue)
        for member in list(self._members):
            call = member.calls[0] if member.calls else None
            if call is None or call.limit is None:
                continue
            if time.monotonic() - member.since > call.limit:
                self._replace(member, queue, f"not finished after {call.limit:g} s")

    def _finish_call(self, member: Member, queue: WorkQueue) -> None:
        """Process the end of an actor's oldest call."""
        call = member.calls[0]
        try:
            result = ray.get(call.ref)
        except RayActorError as error:
            log.debug("%s: %s", self._name, error)
            # A node's death is noticed late; until then its actors are only unavailable.
            node_died = isinstance(error, ActorUnavailableError) or not is_alive(member.node)
            self._replace(member, queue, _death_reason(error, node_died), node_died)
            return
        except ObjectLostError as error:
            log.debug("%s: %s", self._name, error)
            if call.state is not None:
                queue.lost(call.state, "its result was lost with its node")
        except RayError as error:
            self._handle_error(member, queue, error)
            if call.state is None:
                return
        else:
            self._handle_result(member, queue, result)
        member.calls.popleft()
        member.since = time.monotonic()

    def _handle_result(self, member: Member, queue: WorkQueue, result: Any) -> None:
        state = member.calls[0].state
        if state is not None:
            queue.done(state, result)
        elif member.node is None:
            member.node = result
        else:
            member.ready = True
            self._failed_starts = []
            if self._ready is not None:
                self._ready(result)

    def _handle_error(self, member: Member, queue: WorkQueue, error: RayError) -> None:
        """Count a failed try or start; raise a `UserError` of an item, which would fail again."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        log.debug("%s: %s", self._name, error)
        state = member.calls[0].state
        known = isinstance(cause, UserError | RunError)
        if state is None:
            self._count_failed_start(member, cause if known else RunError(_error_text(cause)))
        elif isinstance(cause, UserError):
            raise cause from None
        else:
            queue.failed(state, member.number, str(cause) if known else _error_text(cause))

    def _replace(
        self, member: Member, queue: WorkQueue, reason: str, node_died: bool = False
    ) -> None:
        """Remove an actor that is dead or overdue, and put its items back."""
        calls = list(member.calls)
        if calls[0].state is None:
            if is_alive(member.node):
                error = RunError(f"{self._name}: no actor starts: {reason}")
                self._count_failed_start(member, error)
            else:
                self._kill(member)
            return
        log.warning("%s: %s; starting another actor", self._name, reason)
        self._kill(member)
        oldest, *others = [call.state for call in calls if call.state is not None]
        for state in reversed(others):
            queue.put_back(state)
        if node_died:
            queue.lost(oldest, reason)
        else:
            queue.failed(oldest, member.number, reason)

    def _count_failed_start(self, member: Member, error: Exception) -> None:
        log.warning("%s: an actor did not start (%s)", self._name, error)
        self._failed_starts.append(error)
        self._failed_start_at = time.monotonic()
        self._kill(member)

    def _kill(self, member: Member) -> None:
        self._members.remove(member)
        if ray.is_initialized():  # otherwise all actors are gone already
            ray.kill(member.handle, no_restart=True)
            self._killed.append(member.handle)


def _is_gone(handle: Any, end: float) -> bool:
    """Wait until `end` for a killed actor to be dead; return whether it is."""
    while True:
        try:
            ray.get(handle.node_id.remote(), timeout=max(0.1, end - time.monotonic()))
        except RayActorError:
            return True
        except RayError:  # no answer in time
            return False
        if time.monotonic() > end:
            return False
        time.sleep(0.05)


def _death_reason(error: RayActorError, node_died: bool) -> str:
    if error.actor_init_failed:  # an import failed on the node
        return words.brief(str(error).strip().splitlines()[-1])
    if node_died:
        return "its node died"
    return "its process died (killed, out of memory, or a crash)"


def _error_text(error: BaseException) -> str:
    return in_short(error, named=True)
