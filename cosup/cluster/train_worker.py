"""The training loop of a Ray Train worker: it takes one training after another from the queue.

A worker runs the same job as a local run on its slice of every batch, and reads the images itself.
The first rank sends steps, the state of the unfinished training, and the result to the driver.
"""

import io
import os
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError
from torch import Tensor, nn

from cosup.cluster.actor import Setup
from cosup.cluster.training_queue import PIECE_BYTES
from cosup.data.table import ImageData
from cosup.errors import RunError, UserError, in_short
from cosup.models.compute import Compute
from cosup.models.ranks import Ranks, joined
from cosup.models.watch import recorded
from cosup.student.jobs import HeadJob, NetworkJob

__all__ = ["QueuedTraining", "work"]

REPORT_SECONDS = 5.0
"""Time after which a step is reported that is not recorded."""


@dataclass(frozen=True)
class QueuedTraining:
    """A training as it is sent to workers.

    result: file of the result on the driver's disk. features: object reference to the features of a
    head job, which are shared without copying. state: file of the unfinished training's state on
    the driver's disk, or "".
    """

    job: HeadJob | NetworkJob
    result: str
    features: Any = None
    state: str = ""


def work(queue: Any, setup: Setup) -> None:
    """Run trainings until the queue is stopped; raise errors that another try may fix."""
    from ray.train.torch import get_device

    setup.apply()
    device = get_device() if setup.device == "cuda" else torch.device("cpu")
    worker = TrainWorker(queue, setup, device, joined(device))
    number = 0
    while (found := ray.get(queue.next.remote(worker.ranks.rank, number))) is not None:
        if number == 0:  # not earlier: a process that finds the queue aborted has to return
            threading.Thread(target=_exit_on_abort, args=(queue,), daemon=True).start()
        number, (reference,) = found
        try:
            worker.run(number, ray.get(reference))
        except (UserError, RunError) as error:
            ray.get(queue.failed.remote(number, error))
            if worker.ranks.size > 1:
                raise  # the other workers may be waiting for this one
        except Exception as error:
            ray.get(queue.crashed.remote(number, in_short(error, named=True)))
            raise


def _exit_on_abort(queue: Any) -> None:
    """End this process when the queue is aborted, also within a training step.

    Ray Train then replaces it by one that finds the queue stopped, and returns.
    """
    with suppress(RayError):  # the queue is gone, and with it the driver
        ray.get(queue.wait_for_abort.remote())
        os._exit(1)


class TrainWorker:
    """One rank: runs trainings, and keeps the data that it has loaded."""

    def __init__(self, queue: Any, setup: Setup, device: torch.device, ranks: Ranks) -> None:
        self.queue, self.setup, self.device, self.ranks = queue, setup, device, ranks

    @cached_property
    def data(self) -> ImageData:
        return self.setup.load_data()

    def run(self, number: int, training: QueuedTraining) -> None:
        """Run a training, from its saved state if there is one, and send the result."""
        on_step = None
        if self.ranks.rank == 0:
            on_step = _StepReporter(self.queue, number, training.job.total_steps)
        if isinstance(training.job, HeadJob):
            job = replace(training.job, features=_read_only_tensor(ray.get(training.features)))
            compute = Compute(self.device, ranks=self.ranks)
            result: Mapping[str, Tensor] = job.run(compute, on_step).state_dict()
        else:
            result = self._train_network(number, training, training.job, on_step)
        if self.ranks.rank == 0:
            content = io.BytesIO()
            torch.save(dict(result), content)
            self._send(number, content, training.result)
            ray.get(self.queue.done.remote(number))

    def _train_network(
        self,
        number: int,
        training: QueuedTraining,
        job: NetworkJob,
        on_step: "_StepReporter | None",
    ) -> Mapping[str, Tensor]:
        live = job.lesson.guidance.live
        if isinstance(live, nn.Module):
            live.to(self.device)
        with TemporaryDirectory(prefix="cosup-state-") as folder:
            scratch = Path(folder) if training.state else None
            if scratch is not None and self.ranks.rank == 0:
                self._fetch(training.state, scratch / job.state)

            def send_state(state: Path) -> None:
                with state.open("rb") as file:
                    self._send(number, file, training.state)

            compute = replace(self.setup.compute(self.device, scratch), ranks=self.ranks)
            return job.run(self.data, compute, on_step, send_state).model.state_dict()

    def _send(self, number: int, file: io.BufferedIOBase, path: str) -> None:
        """Write a file to the driver's disk."""
        size, start = file.seek(0, os.SEEK_END), 0
        file.seek(0)
        while True:
            piece = file.read(PIECE_BYTES)
            last = start + len(piece) == size
            ray.get(self.queue.write.remote(number, path, start, piece, last))
            start += len(piece)
            if last:
                return

    def _fetch(self, path: str, to: Path) -> None:
        """Copy a file from the driver's disk, if it exists."""
        with to.open("wb") as file:
            while piece := ray.get(self.queue.read.remote(path, file.tell())):
                file.write(piece)
            empty = not file.tell()
        if empty:
            to.unlink()


class _StepReporter:
    """Reports the recorded steps to the queue, and others from time to time."""

    def __init__(self, queue: Any, number: int, steps: int) -> None:
        self.queue, self.number, self.steps = queue, number, steps
        self.last = time.monotonic()

    def __call__(self, step: int, loss: float, metrics: Mapping[str, Tensor]) -> None:
        now = time.monotonic()
        if not recorded(step, self.steps) and now - self.last < REPORT_SECONDS:
            return
        self.last = now
        means = {name: float(value.float().mean()) for name, value in metrics.items()}
        self.queue.step.remote(self.number, step, loss, means)


def _read_only_tensor(array: NDArray[np.generic]) -> Tensor:
    """Return the array as a tensor without copying; it must not be written to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of read-only arrays
        return torch.from_numpy(array)
