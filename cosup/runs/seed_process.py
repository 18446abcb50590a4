"""The process of one seed, started by `cosup.runs.side_by_side`.

It gets a `SeedRun` on its standard input, and tells its log and its end on its standard output, a
line of JSON each. The files of the run are written as by any run.
"""

import json
import logging
import os
import pickle
import signal
import sys
import threading
from base64 import b64encode
from typing import IO, Any

from cosup.runs.console import console_level
from cosup.stopping import stopped_by_signals

__all__ = ["end_with_parent", "main"]


def main() -> int:
    """Run the seed; return the exit status."""
    parent = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what others print is no message to the parent
    run = pickle.load(sys.stdin.buffer)
    threading.Thread(target=end_with_parent, daemon=True).start()
    root = logging.getLogger("cosup")
    root.addHandler(_ToParent(parent, console_level()))
    root.setLevel(min(logging.INFO, console_level()))
    from cosup.runs.bars import progress_shown

    try:
        with stopped_by_signals(run.config.execution.stop_signal), progress_shown():
            run.compute()
    except BaseException as error:
        told = {"error": b64encode(pickle.dumps(_plain(error))).decode("ascii")}
        parent.write(json.dumps(told) + "\n")
        return 1
    parent.write(json.dumps({"finished": True}) + "\n")
    return 0


def _plain(error: BaseException) -> BaseException:
    """Return the error, or one with its text where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _ToParent(logging.Handler):
    """Sends log records to the parent process."""

    def __init__(self, parent: IO[str], level: int) -> None:
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
        self.parent.write(json.dumps(told) + "\n")


def end_with_parent() -> None:
    """Stop this process, where it can be resumed, when the parent is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
