"""Runs a config again and again, each time killed with SIGKILL once one more stage is finished, or
the state of one more training is saved.

    python killer.py CONFIG DIRECTORY KEY=VALUE ...

Prints the stages, and the names of the states, after which it killed. The runs are this process's
forks.
"""

import os
import signal
import sys
import time
from pathlib import Path

import cosup.runs.pipeline
from cosup.config import load_config


def run(config: str, directory: Path, overrides: list[str]) -> None:
    cosup.runs.pipeline.run_one(load_config(config, overrides), directory, resume=True)


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
    return stages | {path.name for path in states if not path.name.startswith(".")}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
