"""Show how far the work is: by bars on a terminal and in a notebook, by lines in every log.

A piece of work gets a line after a few seconds, and then at intervals. Work within work shares
them: a line tells of the outer work how much is done, and of the inner one also how fast it goes
and how long it will take.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cosup.progress import Advance, shown_by
from cosup.runs.console import CONSOLE, console_level, shows_bars
from cosup.runs.notebook import notebook_progress
from cosup.words import count as thousands
from cosup.words import duration

__all__ = ["PROGRESS", "Pace", "progress_shown", "show_progress"]

log = logging.getLogger("cosup.progress")
# Of its own: the checks of a run silence the log, as the run repeats what they say, but not this.
log.setLevel(logging.INFO)

PROGRESS = "progress"
"""Attribute of the records of progress, which are not shown where there are bars."""
FIRST_AFTER = 5.0
"""Seconds before the first line about a piece of work."""
EVERY = 30.0
"""Seconds between two lines about it."""
REDRAW = 0.1
"""The least seconds between two states of a bar."""


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show the progress of all work while this is open."""
    with shown_by(show_progress):
        yield


@contextmanager
def show_progress(what: str, total: int | None) -> Iterator[Advance]:
    """Show a piece of work while it is open (`cosup.progress.Show`)."""
    work = _Work(what, total)
    _works.append(work)
    try:
        with _bar(what, total) as move:

            def advance(count: int) -> None:
                work.done += count
                move(count)
                if work.pacer.is_due():
                    outer = [one.state() for one in _works[: _works.index(work)] if one.done]
                    log.info("%s", ": ".join([*outer, work.line()]), extra={PROGRESS: True})

            yield advance
    finally:
        _works.remove(work)


class Pace:
    """Logs the step and loss of a training at intervals, instead of lines of the loop that it goes
    through. total: number of steps, if known."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self._work = _Work(f"{what}: step", total)

    def __call__(self, step: int, loss: float) -> None:
        """Log after a step (from 1), if the last line is old enough."""
        if self._work.done == 0:
            self._work.begin(step)
        self._work.done = step
        if self._work.pacer.is_due():
            log.info("%s, loss %.3f", self._work.line(), loss, extra={PROGRESS: True})


class _Pacer:
    """Tells when a line about a piece of work is due. The time of the last line is that of all
    work, so that work within work is not reported twice."""

    last = -math.inf

    def __init__(self) -> None:
        self.started = time.monotonic()

    def is_due(self) -> bool:
        """Return whether a line is due; then it counts as logged."""
        now, told = time.monotonic(), _Pacer.last > self.started
        since, wait = (_Pacer.last, EVERY) if told else (self.started, FIRST_AFTER)
        if now - since < wait:
            return False
        _Pacer.last = now
        return True


class _Work:
    """A piece of work: what is done, and how much of it."""

    def __init__(self, what: str, total: int | None) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self.pacer = _Pacer()
        self._seen = (0, self.pacer.started)

    def begin(self, done: int) -> None:
        """Start to measure the speed, with so much done."""
        self._seen = (done, time.monotonic())

    def state(self) -> str:
        """Return how much is done, in words."""
        if self.total is None:
            return f"{self.what} {thousands(self.done)}"
        return f"{self.what} {thousands(self.done)} of {thousands(self.total)}"

    def line(self) -> str:
        """Return how much is done, how fast since the line before, and how long the rest takes."""
        before, then = self._seen
        now = time.monotonic()
        self._seen = (self.done, now)
        rate = (self.done - before) / max(now - then, 1e-6)
        if rate <= 0:
            return self.state()
        left = "" if self.total is None else f", {duration((self.total - self.done) / rate)} left"
        return f"{self.state()}, {_speed(rate)}{left}"


_works: list[_Work] = []
"""The work that is open, the outer first."""


def _speed(rate: float) -> str:
    """Return items per second in words, or the seconds of an item."""
    if rate < 1:
        return f"{duration(1 / rate)} each"
    return f"{thousands(round(rate))}/s" if rate >= 10 else f"{rate:.1f}/s"


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Advance]:
    """Show a bar where there are bars, unless only warnings are shown."""
    if not shows_bars() or console_level() > logging.INFO:
        yield lambda count: None
    elif CONSOLE.is_jupyter:
        with notebook_progress(what, total) as advance:
            yield advance
    else:
        with _terminal_bar(what, total) as advance:
            yield advance


_bars: Progress | None = None
"""The bars on the terminal, if there are any: it has one display."""


@contextmanager
def _terminal_bar(what: str, total: int | None) -> Iterator[Advance]:
    """Show a bar below those of the work around it."""
    global _bars
    if _bars is not None:
        with _added(_bars, what, total) as advance:
            yield advance
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Count(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, TimeRemainingColumn(), console=CONSOLE, transient=True) as _bars:
        try:
            with _added(_bars, what, total) as advance:
                yield advance
        finally:
            _bars = None


@contextmanager
def _added(bars: Progress, what: str, total: int | None) -> Iterator[Advance]:
    """Add a bar, and remove it at the end. A bar is drawn now and then: drawing takes longer than
    many an item."""
    task, waiting, drawn = bars.add_task(what, total=total), 0, 0.0

    def advance(count: int) -> None:
        nonlocal waiting, drawn
        waiting += count
        now = time.monotonic()
        if now - drawn >= REDRAW:
            bars.advance(task, waiting)
            waiting, drawn = 0, now

    try:
        yield advance
    finally:
        bars.remove_task(task)


class _Count(ProgressColumn):
    """How many items are done, and how many in a second."""

    def render(self, task: Task) -> Text:
        """Return the text of a bar."""
        if not task.completed and task.total is None:
            return Text("")
        of = "" if task.total is None else f" of {thousands(task.total)}"
        speed = f", {_speed(task.speed)}" if task.speed else ""
        return Text(f"{thousands(task.completed)}{of}{speed}", style="progress.download")
