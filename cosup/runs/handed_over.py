"""Files by which a process and those that it starts hand over what they read and compute."""

import json
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cosup.models.watch import recorded

__all__ = ["UNSENT", "Lines", "Reporting", "dump", "load"]

UNSENT = (pickle.PicklingError, AttributeError, TypeError)
"""The errors of `dump` for what cannot be sent to another process, such as a local function."""
REPORT_SECONDS = 5.0
"""Time after which a step is reported that is not recorded."""


def dump(content: Any, path: Path) -> None:
    """Pickle something to a file. Raises one of `UNSENT`."""
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=pickle.HIGHEST_PROTOCOL)


def load(path: Path) -> Any:
    """Return what `dump` wrote."""
    with path.open("rb") as file:
        return pickle.load(file)


class Reporting:
    """Writes the recorded steps of a training, and others from time to time, as lines of JSON."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write
        self.last = time.monotonic()

    def __call__(self, step: int, steps: int, *told: Any) -> None:
        """Write a step (from 1) of so many, and what is reported of it."""
        now = time.monotonic()
        if not recorded(step, steps) and now - self.last < REPORT_SECONDS:
            return
        self.last = now
        self.write(json.dumps([step, *told]) + "\n")


class Lines:
    """The lines of JSON that another process appends to a file, which may not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path, self.read = path, 0

    def new(self) -> Iterator[Any]:
        """Yield the content of each line that has been completed since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.read)
            whole, end, _ = file.read().rpartition(b"\n")
        self.read += len(whole) + len(end)
        yield from map(json.loads, whole.splitlines())
