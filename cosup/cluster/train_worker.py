"""A worker of Ray Train: it takes one training after another from the desk, together with others.

It runs the very job that a local run would, on its slice of every batch, and reads the images
itself. The first rank sends what comes of it: steps, the state of what isn't finished, the result.
"""

import io
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosup.cluster.actor import Setup
from cosup.cluster.training_queue import CHUNK
from cosup.data.table import ImageData
from cosup.errors import RunError, UserError
from cosup.models.compute import Compute
from cosup.models.fit import recorded
from cosup.models.ranks import Ranks, joined
from cosup.student.jobs import HeadJob, NetworkJob

__all__ = ["Sent", "work"]

SECONDS = 5.0
"""Steps that aren't recorded are told only so that somebody sees it go on."""
BEAT = 2.0


@dataclass(frozen=True)
class Sent:
    """A training as it travels. features: a reference to a head's, which go without copying.
    state: the file on the driver's disk that keeps it unfinished, or ""; result: that of its end.
    """

    job: HeadJob | NetworkJob
    result: str
    features: Any = None
    state: str = ""


def work(desk: Any, setup: Setup) -> None:
    """Work until there are no more trainings. Raises what another try may mend."""
    from ray.train.torch import get_device

    setup.enter()
    device = get_device() if setup.device == "cuda" else torch.device("cpu")
    worker = Worker(desk, setup, device, joined(device))
    number = 0
    with _heartbeat(desk):
        while (found := ray.get(desk.next.remote(worker.ranks.rank, number))) is not None:
            number, (reference,) = found
            try:
                worker.carry_out(number, ray.get(reference))
            except (UserError, RunError) as error:
                ray.get(desk.failed.remote(number, type(error).__name__, str(error)))
                if worker.ranks.size > 1:
                    raise  # the others may wait for this one
            except Exception as error:
                ray.get(desk.crashed.remote(number, f"{type(error).__name__}: {error}"))
                raise


class Worker:
    """What one process holds while it works."""

    def __init__(self, desk: Any, setup: Setup, device: torch.device, ranks: Ranks) -> None:
        self.desk, self.setup, self.device, self.ranks = desk, setup, device, ranks

    @cached_property
    def data(self) -> ImageData:
        return self.setup.load()

    def carry_out(self, number: int, sent: Sent) -> None:
        """A training, from where it was left."""
        tell = _Reporter(self.desk, number) if self.ranks.rank == 0 else None
        if isinstance(sent.job, HeadJob):
            job = replace(sent.job, features=_tensor(ray.get(sent.features)))
            result: Mapping[str, Tensor] = job.run(
                Compute(self.device, ranks=self.ranks), tell
            ).state_dict()
        else:
            result = self._network(number, sent, sent.job, tell)
        if self.ranks.rank == 0:
            content = io.BytesIO()
            torch.save(dict(result), content)
            self._send(number, content, sent.result)
            ray.get(self.desk.done.remote(number))

    def _network(
        self, number: int, sent: Sent, job: NetworkJob, tell: "_Reporter | None"
    ) -> Mapping[str, Tensor]:
        live = job.lesson.guidance.live
        if isinstance(live, nn.Module):
            live.to(self.device)
        with TemporaryDirectory(prefix="cosup-state-") as folder:
            scratch = Path(folder) if sent.state else None
            if scratch is not None and self.ranks.rank == 0:
                self._fetch(sent.state, scratch / job.state)

            def send(state: Path) -> None:
                with state.open("rb") as file:
                    self._send(number, file, sent.state)

            compute = Compute(
                self.device,
                self.setup.precision,
                self.setup.decoders(),
                self.setup.config.execution.batch_size,
                scratch=scratch,
                ranks=self.ranks,
            )
            return job.run(self.data, compute, tell, send).model.state_dict()

    def _send(self, number: int, file: io.BufferedIOBase, path: str) -> None:
        """Write a file on the driver's disk."""
        size, start = file.seek(0, os.SEEK_END), 0
        file.seek(0)
        while True:
            piece = file.read(CHUNK)
            last = start + len(piece) == size
            ray.get(self.desk.write.remote(number, path, start, piece, last))
            start += len(piece)
            if last:
                return

    def _fetch(self, path: str, to: Path) -> None:
        """Copy a file from the driver's disk, if it is there."""
        with to.open("wb") as file:
            while piece := ray.get(self.desk.read.remote(path, file.tell())):
                file.write(piece)
            empty = not file.tell()
        if empty:
            to.unlink()


class _Reporter:
    """Tells the desk of steps: of those that are recorded, and now and then of others."""

    def __init__(self, desk: Any, number: int) -> None:
        self.desk, self.number = desk, number
        self.last = time.monotonic()

    def __call__(self, step: int, loss: float, metrics: Mapping[str, Tensor]) -> None:
        now = time.monotonic()
        if not recorded(step) and now - self.last < SECONDS:
            return
        self.last = now
        means = {name: float(value.float().mean()) for name, value in metrics.items()}
        self.desk.step.remote(self.number, step, loss, means)


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """The array as a tensor, which nobody may write to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


@contextmanager
def _heartbeat(desk: Any) -> Iterator[None]:
    """Let the desk hear of this process."""
    end = threading.Event()

    def beat() -> None:
        while not end.wait(BEAT):
            desk.alive.remote()

    desk.alive.remote()
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        end.set()
