"""Bookkeeping of work that is done elsewhere: what waits, what was tried how often, what came back.

It knows no Ray; `cosup.cluster.pool` asks it what to hand out next.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cosup.errors import RunError
from cosup.words import plural

__all__ = ["Task", "Tasks", "Unit"]

log = logging.getLogger(__name__)

MOST_LOSSES = 10
"""How often a unit may be lost with nobody to blame (its node died) before it counts as failed."""
NAMED = 5
"""Sample ids in an error; all of them go to the log."""


@dataclass(frozen=True)
class Unit:
    """A piece of work, which may be done twice: only its first result counts.

    what: "annotations of test, samples 4096 to 8191". method, args: a worker's, and what it is
    given. samples: the ids it is about, asked for when it has failed for good. crew: a worker
    prefers units of the crew of its last one, whose models it holds. about: the caller's own.
    """

    what: str
    method: str
    args: tuple[Any, ...]
    samples: Callable[[], Sequence[str]] = tuple
    crew: Hashable = None
    about: Any = None


@dataclass(eq=False)
class Task:
    """A unit and what has become of it. number: its place in the order. avoid: the workers that it
    failed on."""

    unit: Unit
    number: int
    tries: int = 0
    losses: int = 0
    avoid: set[int] = field(default_factory=set)
    error: str = ""


class Tasks:
    """The units of one call of `Pool.run`, taken as they are needed.

    tries: how often a unit may fail. window: how many may be open at once (waiting, handed out, or
    done and not yet given back), so that memory stays bounded. ordered: results are given back in
    the units' order, and none after a unit that was set aside.
    """

    def __init__(self, units: Iterable[Unit], tries: int, window: int, ordered: bool) -> None:
        self._units = iter(units)
        self._tries = tries
        self._window = window
        self._ordered = ordered
        self._waiting: deque[Task] = deque()
        self._results: dict[int, tuple[Unit, Any]] = {}
        self._set_aside: list[Task] = []
        self._taken = 0  # from the units
        self._given = 0  # back, or set aside

    @property
    def open(self) -> int:
        """How many are waiting, handed out, or not yet given back; 0 if nothing is left to do."""
        self._refill()
        return self._taken - self._given

    def take(self, worker: int, crew: Hashable, workers: Collection[int]) -> Task | None:
        """The next task for a worker: one of its crew if there is one, and one that has not failed
        on it unless it has failed on all `workers`."""
        self._refill()
        fit = [t for t in self._waiting if worker not in t.avoid or t.avoid.issuperset(workers)]
        task = next((t for t in fit if t.unit.crew == crew), fit[0] if fit else None)
        if task is not None:
            self._waiting.remove(task)
        return task

    def done(self, task: Task, result: Any) -> None:
        """A task has come back with its result."""
        self._results[task.number] = (task.unit, result)

    def back(self, task: Task) -> None:
        """A task was handed out but not begun: it is the next."""
        self._waiting.appendleft(task)

    def lost(self, task: Task, why: str) -> None:
        """A task was lost with its node: nobody is to blame, so it counts no try."""
        task.losses += 1
        if task.losses > MOST_LOSSES:
            self.failed(task, None, why)
        else:
            self.back(task)

    def failed(self, task: Task, worker: int | None, why: str) -> None:
        """A task failed: it is tried again, on another worker if there is one, or set aside."""
        task.tries += 1
        task.error = why
        if worker is not None:
            task.avoid.add(worker)
        log.warning("%s: try %d of %d failed: %s", task.unit.what, task.tries, self._tries, why)
        if task.tries < self._tries:
            self.back(task)
        else:
            self._set_aside.append(task)
            self._given += not self._ordered

    def results(self) -> Iterator[tuple[Unit, Any]]:
        """Give back what is done and has its turn. Raises `RunError` where the turn is that of a
        unit that was set aside."""
        while self._results:
            number = self._given if self._ordered else next(iter(self._results))
            if number not in self._results:
                break
            found = self._results.pop(number)
            self._given += 1
            yield found
        if self._ordered and any(task.number == self._given for task in self._set_aside):
            raise self._failure()

    def check(self) -> None:
        """Raise `RunError` if a unit was set aside."""
        if self._set_aside:
            raise self._failure()

    def _refill(self) -> None:
        while self._taken - self._given < self._window:
            unit = next(self._units, None)
            if unit is None:
                return
            self._waiting.append(Task(unit, self._taken))
            self._taken += 1

    def _failure(self) -> RunError:
        """What was set aside, why, and which samples it is about."""
        for task in self._set_aside:
            ids = task.unit.samples()
            if ids:
                log.warning("%s: failed for good; its samples: %s", task.unit.what, ", ".join(ids))
        task = self._set_aside[0]
        ids = task.unit.samples()
        tries = plural(task.tries, "try")
        text = f"{task.unit.what}: given up after {tries}, the last error: {task.error}"
        if ids:
            rest = f" and {len(ids) - NAMED} more (all in the log)" if len(ids) > NAMED else ""
            text += f"; samples {', '.join(ids[:NAMED])}{rest}"
        if len(self._set_aside) > 1:
            text += f"; so did {len(self._set_aside) - 1} more: {self._set_aside[1].unit.what}"
            text += ", ..." if len(self._set_aside) > 2 else ""
        return RunError(text)
