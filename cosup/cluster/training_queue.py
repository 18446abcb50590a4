"""Where trainings lie that the driver gives out and its workers carry out, an actor beside the
driver.

What workers make reaches the driver's disk through it, in pieces: no file system is shared. It
imports nothing heavy, so it is up at once.
"""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["CHUNK", "Desk", "Event"]

CHUNK = 64 * 2**20
"""Bytes of a file that travel at a time."""

TEMPORARY = ".cosup-tmp"
"""As of `cosup.files`, which imports more."""

Event = tuple[str, Any]
"""`step`: (step, loss, metrics); `failed`: (kind of error, text); `done`: None."""


class Desk:
    """One training at a time, numbered from 1. tries: of one, as long as it gets no further."""

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self.number = 0
        self.job: Any = None
        self.begun = 0
        self.error = ""
        self.events: list[Event] = []
        self.heard = time.monotonic()
        self.stopped = False
        self.head: Any = None
        self.changed = asyncio.Condition()

    # The driver's side.

    async def post(self, job: Any) -> int:
        """Give out a training; its number."""
        self.number += 1
        self.job, self.begun, self.error, self.events = job, 0, "", []
        self.heard = time.monotonic()
        await self._tell()
        return self.number

    async def take(self, seconds: float) -> tuple[list[Event], float]:
        """What has happened since (waits so long for something to), and the seconds since a worker
        was heard of."""
        async with self.changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: self.events), seconds)
        events, self.events = self.events, []
        return events, time.monotonic() - self.heard

    async def stop(self) -> Any:
        """Send the workers home; the controller of Ray Train, if it has started."""
        self.stopped, self.job = True, None
        await self._tell()
        return self.head

    async def controller(self, handle: Any) -> None:
        """The controller says who it is."""
        self.head = handle

    async def closed(self) -> bool:
        """Whether the workers are sent home."""
        return self.stopped

    # The workers' side.

    async def next(self, rank: int, after: int) -> tuple[int, Any] | None:
        """The training that follows (waits for one), with its number; None: there are no more.

        after: the last one that this process has worked on, or 0. A training that isn't done is
        given out again, to processes that take a dead one's place.
        """
        async with self.changed:
            await self.changed.wait_for(lambda: self.stopped or self._waits(after))
        if self.stopped:
            return None
        if rank == 0:
            self.begun += 1
        if self.begun > self.tries:
            await self._close("failed", ("", self.error))
            return await self.next(rank, after)
        return self.number, self.job

    async def alive(self) -> None:
        """A worker is at work."""
        self.heard = time.monotonic()

    async def step(self, number: int, step: int, loss: float, metrics: dict[str, float]) -> None:
        """How far a training is."""
        if self._current(number):
            self.events.append(("step", (step, loss, metrics)))
            await self._tell()

    async def done(self, number: int) -> None:
        """A training is finished; its file was sent before."""
        if self._current(number):
            await self._close("done", None)

    async def failed(self, number: int, kind: str, text: str) -> None:
        """A training failed in a way that trying again won't mend."""
        if self._current(number):
            await self._close("failed", (kind, text))

    async def crashed(self, number: int, text: str) -> None:
        """A training failed; the first process to say so knows why."""
        if self._current(number):
            self.error = self.error or text

    async def read(self, path: str, start: int) -> bytes:
        """A piece of a file; nothing at its end, or if there is none."""
        try:
            with open(path, "rb") as file:
                file.seek(start)
                return file.read(CHUNK)
        except FileNotFoundError:
            return b""

    async def write(self, number: int, path: str, start: int, piece: bytes, last: bool) -> None:
        """Write a piece of a file; after the last one it takes the name's place as a whole."""
        if not self._current(number):
            return
        temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}{TEMPORARY}")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "r+b" if start else "wb") as file:
            file.seek(start)
            file.write(piece)
            if last:
                file.flush()
                os.fsync(file.fileno())
        if last:
            temporary.replace(path)
            self.begun, self.error = 1, ""  # it got further

    def _waits(self, after: int) -> bool:
        return self.job is not None and self.number > after

    def _current(self, number: int) -> bool:
        """Whether it is the one being worked on: what a straggler says of others is stale."""
        return number == self.number and self.job is not None

    async def _close(self, what: str, about: Any) -> None:
        self.job = None
        self.events.append((what, about))
        await self._tell()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()
