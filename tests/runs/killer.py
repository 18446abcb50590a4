"""Run a config repeatedly; kill each run with SIGKILL after a new stage or a new training state.

    python killer.py CONFIG DIRECTORY KEY=VALUE ...

The runs are forks of this process. Prints the stages and the names of the states after which it
killed a run.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import cosup.runs.pipeline
from cosup.config import load_config
from cosup.runs.directory import RunDirectory


def run(config: str, directory: Path, overrides: list[str]) -> None:
    finish = RunDirectory.finish

    def killed(self: RunDirectory, stage: str, payload: dict[str, Any] | None = None) -> None:
        # Not by the parent, which might see the stage only after the next one is finished too.
        was_done = self.is_done(stage)
        finish(self, stage, payload)
        if not was_done:
            os.kill(os.getpid(), signal.SIGKILL)

    RunDirectory.finish = killed  # type: ignore[method-assign]
    cosup.runs.pipeline.run_one(load_config(config, *overrides), directory, resume=True)


def main(config: str, directory: Path, overrides: list[str]) -> None:
    killed: list[str] = []
    while True:
        before = finished(directory) | set(killed)
        child = os.fork()
        if child == 0:
            run(config, directory, overrides)
            os._exit(0)
        done = 0
        while not done:
            if states(finished(directory) - before):
                os.kill(child, signal.SIGKILL)
                done, status = os.waitpid(child, 0)
            else:
                done, status = os.waitpid(child, os.WNOHANG)
                time.sleep(0.002)
        if status == 0:
            sys.stdout.write(" ".join(killed))
            return
        assert status == signal.SIGKILL, f"the run failed with status {status} after {killed}"
        killed += sorted(finished(directory) - before)


def states(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith(".state")}


def finished(directory: Path) -> set[str]:
    stages = {path.stem for path in (directory / "stages").glob("*.json")}
    states = [*directory.glob("teachers/*.state"), *directory.glob("checkpoints/training/*.state")]
    # A control has the seed, and so the name of the state, of a round.
    names = {path.name for path in states if not path.name.startswith(".")}
    return stages | {f"{len(stages)}-{name}" for name in names}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
