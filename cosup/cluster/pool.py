"""Work on a Ray cluster: units go out to actors, results come back, whatever dies meanwhile.

An actor gets at most two units at a time, so that it never waits for the next one, and works them
off in their order. So it is enough to wait for every actor's oldest call:

    it returned    its result is given back
    it raised      the unit is tried again, on another actor if there is one
    actor died     its oldest unit is to blame, unless the node died; the others go back, untried
    it takes long  the actor is killed, and the unit is to blame

Actors that are gone are replaced. A unit that failed `tries` times is set aside; the others are
finished, and then it is an error. A result is used once, whatever was done twice.
"""

import logging
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
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

from cosup.cluster.actor import Setup, Worker
from cosup.cluster.session import Closing, described, find_nodes
from cosup.cluster.tasks import Task, Tasks, Unit
from cosup.errors import RunError, UserError

__all__ = ["Pool", "Setup", "Unit"]

log = logging.getLogger(__name__)

WINDOW = 4
"""Open units per actor: enough that none waits while the driver writes or waits for a slow one."""
LOOK_EVERY = 0.5
STARTING = 60.0
"""Seconds that an actor which has a place may need to say so, beyond `wait`: it imports torch."""
AGAIN = 10.0
"""Seconds until another start is tried where others work but the last starts failed: a node that
died, and is not known to have, takes actors that can't start."""
GOING = 10.0
"""Seconds that actors which were killed have to be gone."""


@dataclass(eq=False)
class Call:
    """What an actor was asked. task: None for `hello` and `ready`. limit: seconds it may take."""

    ref: Any
    task: Task | None = None
    limit: float | None = None


@dataclass(eq=False)
class Member:
    """An actor. calls: oldest first. since: when it began the oldest one. node: None until it has
    a place. at_work: whether it is ready."""

    number: int
    handle: Any
    calls: deque[Call] = field(default_factory=deque)
    since: float = 0.0
    node: str | None = None
    at_work: bool = False
    crew: Hashable = None


class Pool(Closing):
    """Up to `count` actors, started when there is something to do, gone when the pool is left.

    num_cpus, num_gpus: what each reserves. tries: of a unit, and of starting an actor. timeout:
    seconds that a unit may take. wait: seconds to wait for a place where no actor has one. name:
    for messages.
    """

    def __init__(
        self,
        setup: Setup,
        count: int,
        num_cpus: float,
        num_gpus: float,
        *,
        tries: int,
        timeout: float,
        wait: float,
        name: str,
        worker: type = Worker,
    ) -> None:
        # Ray's own restarts would burn the tries before it notices that a node died.
        options = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        actor: Any = ray.remote(worker)
        self._actor = actor.options(num_cpus=num_cpus, num_gpus=num_gpus, **options)
        self._setup = setup
        self._count = count
        self._asked = f"{num_cpus:g} CPUs and {num_gpus:g} GPUs"
        self._tries, self._timeout, self._wait = tries, timeout, wait
        self._name = name
        self._members: list[Member] = []
        self._killed: list[Any] = []
        self._started = 0
        self._false_starts: list[Exception] = []  # in a row
        self._false_start_at = 0.0
        self._placeless = time.monotonic()  # since when no actor has a place

    def run(
        self, units: Iterable[Unit], ordered: bool = False, long: bool = False
    ) -> Iterator[tuple[Unit, Any]]:
        """Each unit with its result, as they are finished, or in the units' order.

        Units are taken as they are needed, and only so many are open at once; nothing more is begun
        while the caller is not asking. long: they may take as long as they like, and an actor gets
        one at a time.

        Raises `RunError` for units that failed for good, once the others are done, and for missing
        resources; `UserError` as soon as a unit raises it.
        """
        tasks = Tasks(units, self._tries, WINDOW * self._count, ordered)
        self._placeless = time.monotonic()
        try:
            while tasks.open:
                self._staff(min(self._count, tasks.open))
                self._hand_out(tasks, 1 if long else 2, None if long else self._timeout)
                self._look(tasks)
                yield from tasks.results()
            tasks.check()
        finally:  # whoever is still busy with units that nobody waits for
            for member in [m for m in self._members if any(call.task for call in m.calls)]:
                self._kill(member)

    def close(self) -> None:
        """Kill the actors, and see that they are gone."""
        for member in list(self._members):
            self._kill(member)
        end = time.monotonic() + GOING
        there = [handle for handle in self._killed if not _gone(handle, end)]
        self._killed = []
        if there:
            log.warning("%s: %d actors are still there after their end", self._name, len(there))

    def _staff(self, wanted: int) -> None:
        """Start actors in place of those that are missing; `RunError` if there is no use in it."""
        again = bool(self._members) and time.monotonic() - self._false_start_at > AGAIN
        if len(self._false_starts) < self._tries or again:
            while len(self._members) < wanted:
                self._members.append(self._start())
        elif not self._members:
            raise self._false_starts[-1]
        if any(member.node for member in self._members):
            self._placeless = time.monotonic()
        elif time.monotonic() - self._placeless > (limit := self._wait + STARTING):
            raise RunError(
                f"{self._name}: no actor found a place within {limit:g} s; each asks for "
                f"{self._asked}; the cluster has {described(find_nodes())}, of which "
                f"{_free()} are free"
            )

    def _start(self) -> Member:
        handle = self._actor.remote(self._setup)
        self._started += 1
        limit = max(self._timeout, self._wait)
        calls = [Call(handle.hello.remote()), Call(handle.ready.remote(), limit=limit)]
        return Member(self._started, handle, deque(calls), time.monotonic())

    def _hand_out(self, tasks: Tasks, depth: int, limit: float | None) -> None:
        """Give every actor that is ready its units: each a first one, before any a second one."""
        ready = [member for member in self._members if member.at_work]
        numbers = [member.number for member in ready]
        for deep in range(depth):
            for member in ready:
                if len(member.calls) > deep:
                    continue
                task = tasks.take(member.number, member.crew, numbers)
                if task is None:
                    continue
                member.crew = task.unit.crew
                if not member.calls:
                    member.since = time.monotonic()
                ref = getattr(member.handle, task.unit.method).remote(*task.unit.args)
                member.calls.append(Call(ref, task, limit))

    def _look(self, tasks: Tasks) -> None:
        """Wait a little for the oldest call of any actor, and see to those that are over."""
        waiting = {m.calls[0].ref: m for m in self._members if m.calls}
        if waiting:
            refs = list(waiting)
            ray.wait(refs, num_returns=1, timeout=LOOK_EVERY)
            returned, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            for ref in returned:
                self._settle(waiting[ref], tasks)
        for member in list(self._members):
            call = member.calls[0] if member.calls else None
            if call is None or call.limit is None:
                continue
            if time.monotonic() - member.since > call.limit:
                self._bury(member, tasks, f"not finished after {call.limit:g} s")

    def _settle(self, member: Member, tasks: Tasks) -> None:
        """An actor's oldest call is over."""
        call = member.calls[0]
        try:
            result = ray.get(call.ref)
        except RayActorError as error:
            log.debug("%s: %s", self._name, error)
            # A node's death is noticed late; until then its actors are but out of reach.
            innocent = isinstance(error, ActorUnavailableError) or not _lives(member.node)
            self._bury(member, tasks, _died(error, innocent), innocent)
            return
        except ObjectLostError as error:
            log.debug("%s: %s", self._name, error)
            if call.task is not None:
                tasks.lost(call.task, "its result was lost with its node")
        except RayError as error:
            self._raised(member, tasks, error)
            if call.task is None:
                return
        else:
            self._returned(member, tasks, result)
        member.calls.popleft()
        member.since = time.monotonic()

    def _returned(self, member: Member, tasks: Tasks, result: Any) -> None:
        task = member.calls[0].task
        if task is not None:
            tasks.done(task, result)
        elif member.node is None:
            member.node = result
        else:
            member.at_work = True
            self._false_starts = []

    def _raised(self, member: Member, tasks: Tasks, error: RayError) -> None:
        """A call raised. Raises `UserError` as it is: trying again doesn't mend it."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        log.debug("%s: %s", self._name, error)
        task = member.calls[0].task
        if task is None:
            known = isinstance(cause, UserError | RunError)
            self._false_start(member, type(cause)(str(cause)) if known else RunError(_text(cause)))
        elif isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        else:
            tasks.failed(task, member.number, _text(cause))

    def _bury(self, member: Member, tasks: Tasks, why: str, innocent: bool = False) -> None:
        """An actor is dead, or has to be: its units go back."""
        calls = list(member.calls)
        if calls[0].task is None:
            if _lives(member.node):
                self._false_start(member, RunError(f"{self._name}: no actor starts: {why}"))
            else:
                self._kill(member)
            return
        log.warning("%s: %s; starting another actor", self._name, why)
        self._kill(member)
        oldest, *others = [call.task for call in calls if call.task is not None]
        for task in reversed(others):
            tasks.back(task)
        if innocent:
            tasks.lost(oldest, why)
        else:
            tasks.failed(oldest, member.number, why)

    def _false_start(self, member: Member, error: Exception) -> None:
        log.warning("%s: an actor didn't start (%s)", self._name, error)
        self._false_starts.append(error)
        self._false_start_at = time.monotonic()
        self._kill(member)

    def _kill(self, member: Member) -> None:
        self._members.remove(member)
        if ray.is_initialized():  # else all is gone already
            ray.kill(member.handle, no_restart=True)
            self._killed.append(member.handle)


def _free() -> str:
    found: Any = ray.available_resources()  # type: ignore[no-untyped-call]
    return f"{found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs"


def _lives(node: str | None) -> bool:
    """Whether a node is there, as far as the cluster knows."""
    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    return node is None or any(n["NodeID"] == node and n["Alive"] for n in nodes)


def _gone(handle: Any, end: float) -> bool:
    """Whether an actor that was killed is dead, or is so before `end`."""
    while True:
        try:
            ray.get(handle.hello.remote(), timeout=max(0.1, end - time.monotonic()))
        except RayActorError:
            return True
        except RayError:  # it didn't answer in time
            return False
        if time.monotonic() > end:
            return False
        time.sleep(0.05)


def _died(error: RayActorError, innocent: bool) -> str:
    if error.actor_init_failed:  # something can't be imported there
        return str(error).strip().splitlines()[-1]
    return "its node died" if innocent else "its process died (killed, out of memory, or a crash)"


def _text(error: BaseException) -> str:
    """An error in one line; the words alone of those that are written for users."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {text}"
