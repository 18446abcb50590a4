"""A worker of Ray Train: one rank of the training of a network.

It runs the same job as a local run on its slice of every batch, and reads the images itself. The
first rank reports the states of the unfinished training and the trained network as checkpoints, and
sends steps to the driver.
"""

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from torch import Tensor

from cosup import remote
from cosup.cluster.actor import Setup
from cosup.errors import RunError, UserError
from cosup.models.loop_state import States, Write
from cosup.models.ranks import joined
from cosup.models.watch import recorded
from cosup.student.jobs import NetworkJob

__all__ = ["RESULT", "Message", "Training", "work"]

STATE, RESULT = "state", "network"
"""Files of a checkpoint: the state of an unfinished training, the trained network's tensors."""
REPORT_SECONDS = 5.0
"""Time after which a step is reported that is not recorded."""

Message = tuple[int, int, float, dict[str, float]] | tuple[int, UserError | RunError]
"""What a training tells the driver, after its number: a step, its loss and metrics, or an error
that another try cannot fix."""


@dataclass(frozen=True)
class Training:
    """The training of a network as it is sent to workers.

    number: its place among those of one call. job: holds a reference to the job. uri: its folder in
    the run's storage. attempt: name of the folder, in that one, of this run of Ray Train. reported:
    whether steps are sent to the driver.
    """

    number: int
    job: tuple[Any]
    uri: str
    attempt: str
    reported: bool


def work(training: Training, setup: Setup, inbox: Any) -> None:
    """Run the training, from its latest state if there is one, and report the network.

    inbox: a `ray.util.queue.Queue` of messages to the driver, which ends Ray Train after an error.
    """
    from ray.train.torch import get_device

    setup.apply()
    device = get_device() if setup.device == "cuda" else torch.device("cpu")
    ranks = joined(device)
    job: NetworkJob = ray.get(training.job[0])
    job.teachers_to(device)
    compute = replace(setup.compute(device), ranks=ranks)
    reports = training.reported and ranks.rank == 0
    on_step = _StepReporter(inbox, training.number, job.total_steps) if reports else None
    states = StoredStates(training.uri, training.attempt)
    try:
        network = job.run(setup.load_data(), compute, on_step, states)
    except (UserError, RunError) as error:
        inbox.put((training.number, error))
        raise
    _report_network(network.model.state_dict() if ranks.rank == 0 else None)


class StoredStates(States):
    """Keeps the states of a training as checkpoints in the run's storage, where a thread of Ray
    Train writes them.

    All states that are there are read, not only those that Ray Train has recorded: it records them
    a while later, or not at all if the driver is killed.
    """

    def __init__(self, uri: str, attempt: str) -> None:
        self.uri, self.attempt = uri, attempt
        self._uploading: Future[None] | None = None

    def saved(self) -> Iterator[Path]:
        """Yield copies of the states, that of the most steps first."""
        names = [name for name in remote.listing(self.uri) if name.endswith(f"/{STATE}")]
        for name in sorted(names, key=_step_of, reverse=True):
            folder = tempfile.mkdtemp(prefix="cosup-state-")
            try:
                if remote.get(remote.join(self.uri, name), Path(folder, STATE)):
                    yield Path(folder, STATE)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def save(self, step: int, write: Write | None) -> None:
        """Report a checkpoint."""
        if write is None:
            ray.train.report({"step": step}, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
            return
        self._uploading = Future()
        ray.train.report(
            {"step": step},
            checkpoint=Checkpoint.from_directory(tempfile.mkdtemp(prefix="cosup-state-")),
            checkpoint_dir_name=f"{step:09d}-{uuid.uuid4().hex[:8]}",
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self._uploader(write, self._uploading),
        )

    def wait(self) -> None:
        """Wait for the thread."""
        uploading, self._uploading = self._uploading, None
        if uploading is not None:
            uploading.result()

    def _uploader(
        self, write: Write, uploading: "Future[None]"
    ) -> Callable[[Checkpoint, str], Checkpoint]:
        """Return a function that writes a state to the folder of a new checkpoint, and from there
        to a checkpoint of this name in the storage."""

        def upload(local: Checkpoint, name: str) -> Checkpoint:
            uri = remote.join(self.uri, self.attempt, name)
            try:
                write(Path(local.path, STATE))
                remote.put(Path(local.path, STATE), remote.join(uri, STATE))
            except BaseException as error:
                uploading.set_exception(error)
                raise
            uploading.set_result(None)
            filesystem, path = remote.file_system(uri)
            return Checkpoint(path, filesystem)

        return upload


def _step_of(name: str) -> str:
    """Return the digits of the step in the name of a state: ATTEMPT/STEP-UNIQUE/state."""
    return name.split("/")[-2].partition("-")[0]


def _report_network(tensors: Mapping[str, Tensor] | None) -> None:
    """Report the trained network as the last checkpoint; every rank calls it."""
    if tensors is None:
        ray.train.report({})
        return
    folder = tempfile.mkdtemp(prefix="cosup-network-")
    try:
        torch.save(dict(tensors), Path(folder, RESULT))
        ray.train.report({}, checkpoint=Checkpoint.from_directory(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _StepReporter:
    """Sends the recorded steps to the driver, and others from time to time."""

    def __init__(self, inbox: Any, number: int, steps: int) -> None:
        self.inbox, self.number, self.steps = inbox, number, steps
        self.last = time.monotonic()

    def __call__(self, step: int, loss: float, metrics: Mapping[str, Tensor]) -> None:
        now = time.monotonic()
        if not recorded(step, self.steps) and now - self.last < REPORT_SECONDS:
            return
        self.last = now
        means = {name: float(value.float().mean()) for name, value in metrics.items()}
        self.inbox.put((self.number, step, loss, means))
