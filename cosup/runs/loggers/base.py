"""The interface of loggers, which show the records of a run elsewhere."""

import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from cosup.errors import UserError, in_short
from cosup.layout import Layout
from cosup.layout.kinds import JsonFile

__all__ = ["Ended", "HParam", "LoggedRun", "Logger", "Scalar", "check_server"]

HParam = bool | int | float | str
"""The value of a setting; a list is written as `a, b, c`."""
SECONDS = 5.0
"""Time in which a server must answer before a run."""


@dataclass(frozen=True)
class Scalar:
    """A number with its tag, step and time (Unix seconds)."""

    tag: str
    value: float
    step: int
    time: float


@dataclass(frozen=True)
class LoggedRun:
    """A run as loggers see it.

    name: `NAME-seed-K`. group: `run.name`, which the runs of several seeds share. settings: those
    that decide results, by their dotted keys. folder: a folder in the run directory that is the
    logger's own. It remembers there what it needs to continue, but nothing secret.
    """

    name: str
    group: str
    settings: Mapping[str, HParam]
    folder: Path

    def recall(self) -> dict[str, Any]:
        """Return what was remembered; nothing at first."""
        return self._memory.read() if self._memory.exists() else {}

    def remember(self, content: Mapping[str, Any]) -> None:
        """Remember plain values for a later process that resumes the run."""
        self._memory.write(content)

    @property
    def _memory(self) -> JsonFile:
        return Layout(self.folder.parent.parent).memory(self.folder.name)


@dataclass(frozen=True)
class Ended:
    """How a run ended. files: its config, and what there is of its summary and report."""

    status: Literal["finished", "failed", "interrupted"]
    files: tuple[Path, ...] = ()


class Logger(ABC):
    """Shows the records of a run elsewhere. A subclass is a dataclass whose fields are settings.

    All methods but `check` are called by one thread of its own (`Sender`), so they may take long.
    An exception is a warning to the user; later everything is tried again, from `start`. The run
    continues, and its records are complete anyway.
    """

    @abstractmethod
    def check(self) -> None:
        """Raise `UserError` if the logger cannot be used here. Called before a run; writes none."""

    @abstractmethod
    def start(self, run: LoggedRun) -> None:
        """Begin to log a run, or continue with one that an earlier process has begun."""

    @abstractmethod
    def log(self, scalars: Sequence[Scalar], first: int) -> None:
        """Log numbers, each once.

        After `start` come all of the run, in the same order in every process, those of earlier
        processes too. first: the place of the first of them in this order.
        """

    @abstractmethod
    def end(self, ended: Ended) -> None:
        """End the run, with its files."""


def check_server(url: str, key: str) -> None:
    """Raise `UserError` about a setting if no server answers at this URL, whatever it answers."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])  # urllib takes no login
    try:
        with urllib.request.urlopen(bare.geturl(), timeout=SECONDS):
            return
    except urllib.error.HTTPError:  # it needs a password, or a page
        return
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(f"no server answers at {url}: {in_short(error)}", key=key) from None
