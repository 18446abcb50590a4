"""The context of a run, handed down whole: its config, directory, recorder and backend."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cosup.config.schema import Config
from cosup.layout import Layout
from cosup.runs.backend import Backend
from cosup.runs.directory import RunDirectory
from cosup.runs.recorder import Recorder


@dataclass(frozen=True)
class RunContext:
    """Everything that the stages of one run share."""

    config: Config
    run: RunDirectory
    recorder: Recorder
    backend: Backend

    @property
    def seed(self) -> int:
        """Return the seed of the run."""
        return self.config.run.seed

    @property
    def files(self) -> Layout:
        """Return the files of the run."""
        return self.run.files

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Record the seconds of a part, added to those spent before a resumption."""
        started = time.monotonic()
        before = self.run.load(part)["seconds"] if self.run.is_done(part) else 0.0
        yield
        self.run.finish(part, {"seconds": before + time.monotonic() - started})

    def discard_training_states(self) -> None:
        """Remove the saved states of the student's trainings; call it when a stage is finished."""
        shutil.rmtree(self.files.training, ignore_errors=True)
