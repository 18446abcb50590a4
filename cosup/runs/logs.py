"""Log to the console and to `log.txt`, and show progress."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cosup.errors import unknown_name
from cosup.runs.notebook import notebook_progress
from cosup.secrets import mask

log = logging.getLogger(__name__)

LOG_LEVEL = "COSUP_LOG_LEVEL"
"""The environment variable with the level from which on lines are shown."""
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""The values of `COSUP_LOG_LEVEL`."""

PLAIN_EVERY = 20.0
"""Seconds between the lines that replace a progress bar where there is no terminal."""

_console = Console(stderr=True)


class _ConsoleHandler(logging.Handler):
    """Writes log lines to stderr, above a progress bar if there is one.

    A record with `extra={"quiet": True}` is for the file alone: the command line prints it itself.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "quiet", False):
            return
        text = self.format(record)
        if _console.is_terminal:
            style = "yellow" if record.levelno >= logging.WARNING else None
            _console.print(text, style=style, markup=False, highlight=False)
        else:
            # A notebook shows stderr as if it were an error.
            stream = sys.stdout if _console.is_jupyter else sys.stderr
            stream.write(text + "\n")
            stream.flush()


class _ConsoleFormat(logging.Formatter):
    """Text with the level of warnings and errors and, where it is no terminal, the time."""

    def format(self, record: logging.LogRecord) -> str:
        when = "" if _console.is_terminal else f"{self.formatTime(record, '%H:%M:%S')} "
        is_plain = record.levelno == logging.INFO
        level = "" if is_plain else record.levelname.lower() + ": "
        return mask(f"{when}{level}{record.getMessage()}")


class _FileFormat(logging.Formatter):
    """Lines with time, level and logger, and tracebacks; without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def console_level() -> int:
    """Return the level of `COSUP_LOG_LEVEL` (default: info). Raises `UserError` for another value.

    The command line's `--quiet` and `--verbose` set it, and `quiet` in Python.
    """
    name = os.environ.get(LOG_LEVEL) or "info"
    if name.lower() not in LEVELS:
        raise unknown_name(LOG_LEVEL, name, LEVELS)
    return LEVELS[name.lower()]


@contextmanager
def console_at(level: str) -> Iterator[None]:
    """Set `COSUP_LOG_LEVEL` while this is open, for this process and those that it starts."""
    before = os.environ.get(LOG_LEVEL)
    os.environ[LOG_LEVEL] = level
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(LOG_LEVEL, None)
        else:
            os.environ[LOG_LEVEL] = before


@contextmanager
def log_to_console() -> Iterator[None]:
    """Show cosup's log lines on stderr, in a notebook below the cell, while this is open.

    They are those from `console_level` on.
    """
    handler = _ConsoleHandler(console_level())
    handler.setFormatter(_ConsoleFormat())
    with _attached(handler):
        yield


class _FileHandler(logging.FileHandler):
    """Writes a log file, and ignores failures to write it.

    On a full disk the run itself ends with the reason; the log adds no traceback to that.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append cosup's log lines, and Python's warnings, to a file while this is open."""
    handler = _FileHandler(path, encoding="utf-8")
    handler.setFormatter(_FileFormat("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with _attached(handler):
        yield


@contextmanager
def _attached(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger("cosup")
    before = root.level
    root.addHandler(handler)
    root.setLevel(min(before or logging.INFO, handler.level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress: a bar on a terminal and in a notebook (unless `console_level` is above info),
    a plain line at intervals elsewhere.

    Yields a function to call with the number of the `total` items that are newly done.
    """
    is_shown = console_level() <= logging.INFO
    if _console.is_jupyter and is_shown:
        with notebook_progress(what, total) as advance:
            yield advance
        return
    if not (_console.is_terminal and is_shown):
        yield _plain_progress(what, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console, transient=True) as bars:
        task = bars.add_task(what, total=total)
        yield lambda count: bars.advance(task, count)


class Pace:
    """Logs the step and loss of a training at intervals. total: number of steps, if known."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self._last = time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        """Log after a step (from 1), if the last line is old enough."""
        if time.monotonic() - self._last < PLAIN_EVERY:
            return
        self._last = time.monotonic()
        of = "" if self.total is None else f" of {self.total}"
        log.info("%s: step %d%s, loss %.3f", self.what, step, of, loss)


def _plain_progress(what: str, total: int) -> Callable[[int], None]:
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= PLAIN_EVERY:
            last = time.monotonic()
            log.info("%s: %d of %d", what, done, total)

    return advance
