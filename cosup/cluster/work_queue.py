"""Bookkeeping of work items: what is waiting, how often each was tried, and which results exist.

Independent of Ray; `cosup.cluster.pool` asks it for the next item.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cosup.errors import RunError
from cosup.words import plural

__all__ = ["ItemState", "WorkItem", "WorkQueue"]

log = logging.getLogger(__name__)

MOST_LOSSES = 10
"""How often an item may be lost with its node before that counts as a failed try."""
MOST_IDS = 5
"""Sample ids in an error; the log has all of them."""


@dataclass(frozen=True)
class WorkItem:
    """A piece of work; it may be done twice, but only the first result is used.

    description: for messages, such as "annotations of test, samples 4096 to 8191". method, args: of
    the actor. samples: returns the ids of its samples, for error messages. affinity: an actor gets
    items with the affinity of its last one first, because it keeps their models. context: anything
    that the caller needs with the result.
    """

    description: str
    method: str
    args: tuple[Any, ...]
    samples: Callable[[], Sequence[str]] = tuple
    affinity: Hashable = None
    context: Any = None


@dataclass(eq=False)
class ItemState:
    """An item and its history. number: its position in the order. failed_on: actors it failed on.

    tries: failed tries. losses: how often it was lost with its node.
    """

    item: WorkItem
    number: int
    tries: int = 0
    losses: int = 0
    failed_on: set[int] = field(default_factory=set)
    error: str = ""


class WorkQueue:
    """The items of one call of `Pool.run`, taken from an iterable as they are needed.

    tries: how often an item may fail. window: the largest number of open items (waiting, assigned,
    or done and not yet returned), which bounds the memory. ordered: return results in the order of
    the items, and none after an item that has failed for good.
    """

    def __init__(self, items: Iterable[WorkItem], tries: int, window: int, ordered: bool) -> None:
        self._items = iter(items)
        self._tries = tries
        self.window = window
        self._ordered = ordered
        self._waiting: deque[ItemState] = deque()
        self._results: dict[int, tuple[WorkItem, Any]] = {}
        self._given_up: list[ItemState] = []
        self._taken = 0  # from the iterable
        self._finished = 0  # returned or given up

    @property
    def open(self) -> int:
        """Number of items waiting, assigned, or not yet returned; 0 if there is nothing to do."""
        self._refill()
        return self._taken - self._finished

    def take(self, actor: int, affinity: Hashable, actors: Collection[int]) -> ItemState | None:
        """Return the next item for an actor; None if there is none.

        Items of its affinity come first. An item that has failed on the actor is only returned if
        it has failed on all `actors`.
        """
        self._refill()
        fit = [
            state
            for state in self._waiting
            if actor not in state.failed_on or state.failed_on.issuperset(actors)
        ]
        preferred = (state for state in fit if state.item.affinity == affinity)
        state = next(preferred, fit[0] if fit else None)
        if state is not None:
            self._waiting.remove(state)
        return state

    def done(self, state: ItemState, result: Any) -> None:
        """Store the result of an item."""
        self._results[state.number] = (state.item, result)

    def put_back(self, state: ItemState) -> None:
        """Make an item that was assigned but not started the next one."""
        self._waiting.appendleft(state)

    def lost(self, state: ItemState, reason: str) -> None:
        """Put an item back that was lost with its node, which is not counted as a try."""
        state.losses += 1
        if state.losses > MOST_LOSSES:
            self.failed(state, None, reason)
        else:
            self.put_back(state)

    def failed(self, state: ItemState, actor: int | None, reason: str) -> None:
        """Count a failed try; put the item back, or give it up after the last try."""
        state.tries += 1
        state.error = reason
        if actor is not None:
            state.failed_on.add(actor)
        name = state.item.description
        log.warning("%s: try %d of %d failed: %s", name, state.tries, self._tries, reason)
        if state.tries < self._tries:
            self.put_back(state)
        else:
            self._given_up.append(state)
            self._finished += not self._ordered

    def results(self) -> Iterator[tuple[WorkItem, Any]]:
        """Yield the results that can be returned now.

        Raise `RunError` if the next item in the order was given up.
        """
        while self._results:
            number = self._finished if self._ordered else next(iter(self._results))
            if number not in self._results:
                break
            found = self._results.pop(number)
            self._finished += 1
            yield found
        if self._ordered and any(state.number == self._finished for state in self._given_up):
            raise self._failure()

    def check(self) -> None:
        """Raise `RunError` if an item was given up."""
        if self._given_up:
            raise self._failure()

    def _refill(self) -> None:
        while self._taken - self._finished < self.window:
            item = next(self._items, None)
            if item is None:
                return
            self._waiting.append(ItemState(item, self._taken))
            self._taken += 1

    def _failure(self) -> RunError:
        """Return the error for the items that were given up, with their samples."""
        for state in self._given_up:
            ids = state.item.samples()
            if ids:
                log.warning("%s: failed; its samples: %s", state.item.description, ", ".join(ids))
        state = self._given_up[0]
        ids = state.item.samples()
        tries = plural(state.tries, "try")
        text = f"{state.item.description}: failed after {tries}; the last error: {state.error}"
        if ids:
            rest = f" and {len(ids) - MOST_IDS} more (see the log)" if len(ids) > MOST_IDS else ""
            text += f"; samples {', '.join(ids[:MOST_IDS])}{rest}"
        if others := self._given_up[1:]:
            text += f"; {len(others)} more failed: {others[0].item.description}"
            text += ", ..." if len(others) > 1 else ""
        return RunError(text)
