"""Trainings of students on a cluster: networks by Ray Train, heads by the driver.

Each network has a `TorchTrainer` of its own, and as many train side by side as the cluster has room
for. Ray Train places the workers, joins them in a process group, and replaces all of them when one
dies or its node is preempted. A replaced training continues from its latest checkpoint; so do the
trainings of a driver that was killed. Starting the workers takes some ten seconds, more than most
heads take to fit, and their features would have to be copied to them.
"""

import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
import torch
from ray.exceptions import RayError
from ray.util.queue import Queue

from cosup import remote
from cosup.cluster.actor import Setup
from cosup.cluster.room import Allocation
from cosup.cluster.running import RunningTrainings, here
from cosup.cluster.session import find_nodes
from cosup.cluster.storage import RunStorage
from cosup.cluster.train_worker import RESULT, Training
from cosup.data.loader import ImageRows
from cosup.data.table import ImageData
from cosup.errors import RunError, in_short
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.student.jobs import NetworkJob
from cosup.student.launcher import LocalLauncher

__all__ = ["RayLauncher"]


class RayLauncher(LocalLauncher):
    """Trains networks on the cluster that this process is connected to, and heads in this process.

    allocation: the workers of each training. predict: predicts images by other processes, or
    returns None to leave them to this one. free: frees the resources that trainings need. tries:
    how often a training may fail. wait: seconds to wait for a place. kept_bytes: memory for heads
    that later jobs may ask for again.
    """

    def __init__(
        self,
        setup: Setup,
        allocation: Allocation,
        storage: RunStorage,
        *,
        predict: Callable[[Classifier, ImageRows], ProbTable | None] = lambda *_: None,
        free: Callable[[], None] = lambda: None,
        tries: int,
        wait: float,
        kept_bytes: int = 0,
    ) -> None:
        super().__init__(kept_bytes)
        self.setup = setup
        self.allocation = allocation
        self.storage = storage
        self._predict, self._free = predict, free
        self.tries, self.wait = tries, wait
        self._kept: dict[Path, str] = {}

    def networks(
        self,
        jobs: Sequence[NetworkJob],
        data: ImageData,
        compute: Compute,
        on_step: OnStep | None,
    ) -> list[Classifier]:
        """Return the classifiers, trained side by side.

        Raises the error of a training after all have ended, and `RunError` for the cluster's.
        """
        if not jobs:
            return []
        assert data.fingerprint == self.setup.known.fingerprint, "workers read the run's own data"
        assert compute.scratch is not None, "workers keep states in the storage of the run"
        self._free()
        counts = [job.workers(self.allocation.count) for job in jobs]
        uris = [self._folder(compute.scratch / job.state_name(data)) for job in jobs]
        with _inbox() as inbox:
            running = RunningTrainings(
                self.setup, self.allocation, inbox, on_step, tries=self.tries, wait=self.wait
            )
            try:
                for number, (job, uri) in enumerate(zip(jobs, uris, strict=True)):
                    running.wait_until_fewer_than(self.room())
                    sent, attempt = ray.put(job.on_cpu()), uuid.uuid4().hex[:8]
                    training = Training(number, (sent,), uri, attempt, number == 0)
                    running.start(training, counts[number])
                running.wait_until_fewer_than(1)
            except RayError as error:
                raise RunError(f"Ray Train: {in_short(error)}") from error
            finally:
                running.stop()
        for number, job in enumerate(jobs):
            job.classifier.model.load_state_dict(_fetch(running.results[number]))
        return [job.classifier.eval().requires_grad_(False) for job in jobs]

    def predict(self, network: Classifier, inputs: ImageRows, compute: Compute) -> ProbTable:
        """Return a network's class probabilities of images."""
        found = self._predict(network, inputs)
        return super().predict(network, inputs, compute) if found is None else found

    def _folder(self, path: Path) -> str:
        """Return the URI of a training whose state a local run keeps at a path.

        With the path, the run removes what is kept of the training. At the URI of a run, a folder
        of this machine stands for it.
        """
        self.forget_ended()
        uri = self.storage.uri_of(path)
        if self.storage.uri:
            path.mkdir(parents=True, exist_ok=True)
            self._kept[path] = uri
        return uri

    def forget_ended(self) -> None:
        """Remove at the run's URI what is kept of the trainings that the run no longer needs."""
        for folder, uri in list(self._kept.items()):
            if not folder.exists():
                remote.remove(uri)
                del self._kept[folder]

    def room(self) -> int:
        """Return how many trainings the nodes have room for at once, at least 1."""
        return max(1, self.allocation.room(find_nodes()) // self.allocation.count)


@contextmanager
def _inbox() -> Iterator[Queue]:
    """Yield a queue of messages on this node."""
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here()})
    try:
        yield queue
    finally:
        queue.shutdown(force=True)


def _fetch(uri: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a trained network."""
    with tempfile.TemporaryDirectory(prefix="cosup-network-") as folder:
        file = Path(folder, RESULT)
        if not remote.get(uri, file):
            raise RunError("the trained network is gone", where=str(remote.Place(uri)))
        return dict(torch.load(file, weights_only=True))
