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

import cosup.runs.pipeline
from cosup.config import load_config


def run(config: str, directory: Path, overrides: list[str]) -> None:
    cosup.runs.pipeline.run_one(load_config(config, *overrides), directory, resume=True)


def main(config: str, directory: Path, overrides: list[str]) -> None:
    killed: list[str] = []
    while True:
        child = os.fork()
        if child == 0:
            run(config, directory, overrides)
            os._exit(0)
        before = finished(directory)
        while not (new := finished(directory) - before - set(killed)):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0, f"the run failed with status {status} after {killed}"
                sys.stdout.write(" ".join(killed))
                return
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += sorted(new)


def finished(directory: Path) -> set[str]:
    stages = {path.stem for path in (directory / "stages").glob("*.json")}
    states = [*directory.glob("teachers/*.state"), *directory.glob("checkpoints/training/*.state")]
    # A control has the seed, and so the name of the state, of a round.
    names = {path.name for path in states if not path.name.startswith(".")}
    return stages | {f"{len(stages)}-{name}" for name in names}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
