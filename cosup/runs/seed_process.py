"""The process of one seed or training, started by `cosup.runs.side_by_side`.

It gets a `Task` on its standard input, and tells its log and its end on its standard output, a
line of JSON each. The files of the run are written as by any run.
"""

import json
import logging
import os
import pickle
import signal
import sys
import threading
import time
from base64 import b64encode
from contextlib import suppress
from typing import IO, Any

from cosup.runs.console import console_level
from cosup.stopping import stopped_by_signals

__all__ = ["Parent", "end_with_parent", "main"]

END_SECONDS = 30.0
"""Time for this process to end when its parent is gone."""


def main() -> int:
    """Compute the task; return the exit status."""
    parent = Parent(os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1))
    os.dup2(2, 1)  # what others print is no message to the parent
    run = pickle.load(sys.stdin.buffer)
    threading.Thread(target=end_with_parent, daemon=True).start()
    root = logging.getLogger("cosup")
    root.addHandler(_ToParent(parent, console_level()))
    root.setLevel(min(logging.INFO, console_level()))
    from cosup.runs.bars import progress_shown

    try:
        with stopped_by_signals(run.stop_signal), progress_shown():
            run.compute()
    except BaseException as error:
        parent.tell({"error": b64encode(pickle.dumps(_plain(error))).decode("ascii")})
        return 1
    parent.tell({"finished": True})
    return 0


def _plain(error: BaseException) -> BaseException:
    """Return the error, or one with its text where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class Parent:
    """The process that started this one. stream: what it reads."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def tell(self, told: dict[str, Any]) -> None:
        """Send a message; nobody reads it when the parent is gone, and this process still has to
        clean up."""
        with suppress(BrokenPipeError):
            self.stream.write(json.dumps(told) + "\n")


class _ToParent(logging.Handler):
    """Sends log records to the parent process."""

    def __init__(self, parent: Parent, level: int) -> None:
        super().__init__(level)
        self.parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        extra = {name: True for name in ("quiet", "progress") if getattr(record, name, False)}
        told: dict[str, Any] = {
            "name": record.name,
            "level": record.levelno,
            "text": record.getMessage(),
            "extra": extra,
        }
        self.parent.tell(told)


def end_with_parent() -> None:
    """Stop this process, where it can be resumed, when the parent is gone; kill it if it takes
    longer, as the parent would."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
