"""The actor that passes trainings from the driver to the workers of Ray Train, and results back.

It runs on the driver's node and writes the files that workers send, in pieces, to the driver's
disk, so no shared file system is needed. It imports little, so it starts quickly.
"""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["PIECE_BYTES", "Event", "TrainingQueue"]

PIECE_BYTES = 64 * 2**20
"""Bytes of a file that are sent at a time."""

PARTIAL_SUFFIX = ".cosup-tmp"
"""Equal to `cosup.files.TEMPORARY`, which would import torch."""

Event = tuple[str, Any]
"""("step", (step, loss, metrics)), ("failed", exception), ("exhausted", last error) or
("done", None)."""


class TrainingQueue:
    """Holds one training at a time; trainings are numbered from 1.

    tries: how often a training may fail without progress (a saved state).
    """

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self.number = 0
        self.job: Any = None
        self.attempts = 0
        self.error = ""
        self.events: list[Event] = []
        self.stopped = False
        self.aborted = False
        self.changed = asyncio.Condition()

    # Called by the driver.

    async def submit(self, job: Any) -> int:
        """Offer a training to the workers; return its number."""
        self.number += 1
        self.job, self.attempts, self.error, self.events = job, 0, "", []
        await self._notify()
        return self.number

    async def take_events(self, seconds: float) -> list[Event]:
        """Return the events since the last call; wait up to `seconds` for one."""
        async with self.changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: self.events), seconds)
        events, self.events = self.events, []
        return events

    async def stop(self, abort: bool = False) -> None:
        """Let the workers return (abort: exit at once) instead of waiting for trainings."""
        self.stopped, self.aborted, self.job = True, abort, None
        await self._notify()

    # Called by the workers.

    async def wait_for_abort(self) -> None:
        """Return when the workers are to exit."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.aborted)

    async def next(self, rank: int, after: int) -> tuple[int, Any] | None:
        """Wait for the next training; return its number and job, or None if there are no more.

        after: the number of the last training of this process, or 0. An unfinished training is
        returned again to processes that replace a dead one.
        """
        async with self.changed:
            await self.changed.wait_for(lambda: self.stopped or self._is_waiting(after))
        if self.stopped:
            return None
        if rank == 0:
            self.attempts += 1
        if self.attempts > self.tries:
            await self._end("exhausted", self.error)
            return await self.next(rank, after)
        return self.number, self.job

    async def step(self, number: int, step: int, loss: float, metrics: dict[str, float]) -> None:
        """Report a step of a training."""
        if self._is_current(number):
            self.events.append(("step", (step, loss, metrics)))
            await self._notify()

    async def done(self, number: int) -> None:
        """Report the end of a training; its result was written before."""
        if self._is_current(number):
            await self._end("done", None)

    async def failed(self, number: int, error: Exception) -> None:
        """Report an error that another try cannot fix."""
        if self._is_current(number):
            await self._end("failed", error)

    async def crashed(self, number: int, text: str) -> None:
        """Report any other error; the first one reported is the cause of the others."""
        if self._is_current(number):
            self.error = self.error or text

    async def read(self, path: str, start: int) -> bytes:
        """Return a piece of a file; empty at its end, or if there is no such file."""
        try:
            with open(path, "rb") as file:
                file.seek(start)
                return file.read(PIECE_BYTES)
        except FileNotFoundError:
            return b""

    async def write(self, number: int, path: str, start: int, piece: bytes, last: bool) -> None:
        """Write a piece of a file, which replaces the file of that name after the last piece."""
        if not self._is_current(number):
            return
        temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}{PARTIAL_SUFFIX}")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "r+b" if start else "wb") as file:
            file.seek(start)
            file.write(piece)
            if last:
                file.flush()
                os.fsync(file.fileno())
        if last:
            temporary.replace(path)
            self.attempts, self.error = 1, ""  # a saved state is progress

    def _is_waiting(self, after: int) -> bool:
        return self.job is not None and self.number > after

    def _is_current(self, number: int) -> bool:
        """Return whether a report is about the current training; late ones are ignored."""
        return number == self.number and self.job is not None

    async def _end(self, kind: str, content: Any) -> None:
        self.job = None
        self.events.append((kind, content))
        await self._notify()

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()
