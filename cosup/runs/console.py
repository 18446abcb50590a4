"""The console: which lines are shown on it, and whether it is a terminal or a notebook."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from cosup.errors import unknown_name

__all__ = ["CONSOLE", "LEVELS", "LOG_LEVEL", "console_at", "console_level", "shows_bars"]

CONSOLE = Console(stderr=True)
LOG_LEVEL = "COSUP_LOG_LEVEL"
"""The environment variable with the level from which on lines are shown."""
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""The values of `COSUP_LOG_LEVEL`."""


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


def shows_bars() -> bool:
    """Return whether progress is shown by bars: on a terminal and in a notebook."""
    return CONSOLE.is_terminal or CONSOLE.is_jupyter
