"""Log to the console and to `log.txt`."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cosup.runs.bars import PROGRESS, progress_shown
from cosup.runs.console import CONSOLE, console_level, shows_bars
from cosup.secrets import mask
from cosup.words import visible

__all__ = ["log_to_console", "log_to_file"]


class _ConsoleHandler(logging.Handler):
    """Writes log lines to stderr, above a progress bar if there is one.

    A record with `extra={"quiet": True}` is for the file alone: the command line prints it itself.
    Where there are bars, so are lines about progress.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "quiet", False) or (getattr(record, PROGRESS, False) and shows_bars()):
            return
        text = self.format(record)
        if CONSOLE.is_terminal:
            style = "yellow" if record.levelno >= logging.WARNING else None
            CONSOLE.print(text, style=style, markup=False, highlight=False)
        else:
            # A notebook shows stderr as if it were an error.
            stream = sys.stdout if CONSOLE.is_jupyter else sys.stderr
            stream.write(text + "\n")
            stream.flush()


class _ConsoleFormat(logging.Formatter):
    """Text with the level of warnings and errors and, where it is no terminal, the time."""

    def format(self, record: logging.LogRecord) -> str:
        when = "" if CONSOLE.is_terminal else f"{self.formatTime(record, '%H:%M:%S')} "
        is_plain = record.levelno == logging.INFO
        level = "" if is_plain else record.levelname.lower() + ": "
        return visible(mask(f"{when}{level}{record.getMessage()}"))


class _FileFormat(logging.Formatter):
    """Lines with time, level and logger, and tracebacks; without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(mask(super().format(record)))


@contextmanager
def log_to_console() -> Iterator[None]:
    """Show cosup's log lines and progress on stderr, in a notebook below the cell, while this is
    open.

    The lines are those from `console_level` on.
    """
    handler = _ConsoleHandler(console_level())
    handler.setFormatter(_ConsoleFormat())
    with _attached(handler), progress_shown():
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
