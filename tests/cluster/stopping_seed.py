"""`cosup.runs.seed_process` that stops (SIGSTOP) once it is under way: the first seed when its
shards are written, any other one when it has its samples."""

import os
import signal
import sys
from typing import Any

from cosup.layout import SHARDS
from cosup.runs.directory import RunDirectory
from cosup.runs.seed_process import main

finish = RunDirectory.finish


def finish_and_stop(self: RunDirectory, stage: str, payload: dict[str, Any] | None = None) -> None:
    finish(self, stage, payload)
    if stage == (SHARDS if self.path.name == "seed-0" else "data"):
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    RunDirectory.finish = finish_and_stop  # type: ignore[method-assign]
    sys.exit(main())
