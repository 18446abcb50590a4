"""Run a config repeatedly; kill each run with SIGKILL after a new stage, or a new training state.

    python killer.py stages|states CONFIG DIRECTORY KEY=VALUE ...

The runs are forks of this process. Each kills itself, for a process that watches it might see the
end of a stage only after the next one has ended too. Prints the stages or the names of the states
after which a run was killed, one a line.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import cosup.runs.pipeline
from cosup.config import load_config
from cosup.models.loop_state import StateFile, Write
from cosup.runs.directory import RunDirectory


def kill(after: str) -> None:
    os.write(1, f"{after}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after_stages() -> None:
    finish = RunDirectory.finish

    def killed(self: RunDirectory, stage: str, payload: dict[str, Any] | None = None) -> None:
        was_done = self.is_done(stage)
        finish(self, stage, payload)
        if not was_done:
            kill(stage)

    RunDirectory.finish = killed  # type: ignore[method-assign]


def kill_after_states() -> None:
    save = StateFile.save

    def killed(self: StateFile, step: int, write: Write | None) -> None:
        save(self, step, write)
        self.wait()
        kill(f"{self.path.name} {step}")

    StateFile.save = killed  # type: ignore[method-assign]


KILL_AFTER = {"stages": kill_after_stages, "states": kill_after_states}


def main(kind: str, config: str, directory: Path, overrides: list[str]) -> None:
    status = signal.SIGKILL.value
    while status == signal.SIGKILL:
        child = os.fork()
        if child == 0:
            KILL_AFTER[kind]()
            cosup.runs.pipeline.run_one(load_config(config, *overrides), directory, resume=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert status == 0, f"the run failed with status {status}"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
