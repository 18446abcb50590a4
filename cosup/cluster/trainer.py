"""Trainings of students on a cluster: networks by Ray Train, heads by the driver.

Each network has a `TorchTrainer` of its own, and as many train side by side as the cluster has room
for. Ray Train places the workers, joins them in a process group, and replaces all of them when one
dies or its node is preempted. A replaced training continues from its latest checkpoint; so do the
trainings of a driver that was killed. Starting the workers takes some ten seconds, more than most
heads take to fit, and their features would have to be copied to them.
"""

import copy
import logging
import math
import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from cosup import remote
from cosup.cluster.actor import Setup
from cosup.cluster.room import Allocation
from cosup.cluster.session import describe_nodes, find_nodes
from cosup.cluster.storage import RunStorage
from cosup.cluster.train_worker import RESULT, Training, work
from cosup.data.loader import ImageRows
from cosup.data.table import ImageData
from cosup.errors import RunError, UserError, in_short
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.student.jobs import LocalLauncher, NetworkJob
from cosup.words import plural

__all__ = ["RayLauncher"]

log = logging.getLogger(__name__)

PLACE_SECONDS = 10.0
"""Time that Ray Train waits for a place before it starts anew."""
SETTINGS = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{PLACE_SECONDS:g}",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Environment variables of Ray Train, unless the user has set them."""
CHECKPOINTS = 2
"""Checkpoints of a training that are kept."""
POLL_SECONDS = 0.2
END_SECONDS = 30.0
"""Time for the processes of a training that is stopped to end."""


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

    def network(
        self, job: NetworkJob, data: ImageData, compute: Compute, on_step: OnStep | None
    ) -> Classifier:
        """Return the job's trained classifier; errors as of `networks`."""
        return self.networks([job], data, compute, on_step)[0]

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
        assert data.fingerprint == self.setup.known.fingerprint, "workers read the run's own data"
        assert compute.scratch is not None, "workers keep states in the storage of the run"
        if jobs:
            self._free()
        counts = [job.workers(self.allocation.count) for job in jobs]
        uris = [self.storage.uri_of(compute.scratch / job.state_name(data)) for job in jobs]
        trainings = [
            Training(number, (ray.put(_on_cpu(job)),), uri, uuid.uuid4().hex[:8], number == 0)
            for number, (job, uri) in enumerate(zip(jobs, uris, strict=True))
        ]
        with _inbox() as inbox:
            running = _Running(self, inbox, on_step)
            try:
                for training, count in zip(trainings, counts, strict=True):
                    running.wait_until_fewer_than(self.room())
                    running.start(training, count)
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

    def room(self) -> int:
        """Return how many trainings the nodes have room for at once, at least 1."""
        return max(1, self.allocation.room(find_nodes()) // self.allocation.count)


class _Running:
    """The trainings of a launcher that are under way.

    inbox: where their messages arrive. results: URI of the trained network by number.
    """

    def __init__(self, launcher: RayLauncher, inbox: Queue, on_step: OnStep | None) -> None:
        self.launcher, self.inbox, self.on_step = launcher, inbox, on_step
        self.tasks: dict[Any, Training] = {}
        self.results: dict[int, str] = {}
        self.furthest = 0

    def start(self, training: Training, workers: int) -> None:
        """Start Ray Train in a task on this node, which can be interrupted.

        In this process, Ray Train would handle Ctrl-C itself and exit with status 0.
        """
        launcher = self.launcher
        task: Any = ray.remote(_fit)  # type: ignore[arg-type]
        settings = {name: os.environ.get(name, value) for name, value in SETTINGS.items()}
        reference = task.options(num_cpus=0, max_retries=0, scheduling_strategy=_here()).remote(
            partial(work, training, launcher.setup, self.inbox),
            replace(launcher.allocation, count=workers),
            training,
            tries=launcher.tries,
            wait=launcher.wait,
            settings=settings,
        )
        self.tasks[reference] = training

    def wait_until_fewer_than(self, count: int) -> None:
        """Pass on steps until fewer trainings are under way; raise the error of one that fails."""
        while len(self.tasks) >= count:
            ended, _ = ray.wait(list(self.tasks), timeout=POLL_SECONDS)
            self._read_messages()
            for task in ended:
                training = self.tasks.pop(task)
                self.results[training.number] = self._result(task, training)

    def stop(self) -> None:
        """Interrupt the trainings that are under way, and wait until they have ended.

        Ray Train then removes its workers and their placement group; a kill would leave the group.
        """
        tasks, self.tasks = list(self.tasks), {}
        for force in (False, True):
            for task in tasks:
                ray.cancel(task, force=force)
            if tasks:
                _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=END_SECONDS)
        if tasks:
            log.warning("Ray Train does not end")

    def _read_messages(self) -> None:
        for number, *content in self.inbox.get_nowait_batch(self.inbox.qsize()):
            if len(content) == 1:
                raise content[0]
            step, loss, metrics = content
            assert number == 0, "only the first training reports its steps"
            if self.on_step is not None and step > self.furthest:  # a restart repeats earlier steps
                self.on_step(step, loss, {n: torch.tensor(v) for n, v in metrics.items()})
            self.furthest = max(step, self.furthest)

    def _result(self, task: Any, training: Training) -> str:
        try:
            return remote.join(training.uri, training.attempt, ray.get(task), RESULT)
        except RayTaskError as error:
            raise self._explained(error.cause) from error

    def _explained(self, cause: BaseException) -> RunError | UserError:
        """Return the error for a training that Ray Train has given up."""
        launcher, wanted = self.launcher, self.launcher.allocation
        if isinstance(cause, RunError | UserError):
            return cause
        if isinstance(cause, WorkerGroupError):
            last = next(iter(cause.worker_failures.values()), cause)
            return RunError(
                f"the student's training failed {plural(launcher.tries, 'time')} "
                f"(execution.tries); the last error: {in_short(last, named=True)}"
            )
        if isinstance(cause, ControllerError):
            return RunError(
                f"the student's training: {plural(wanted.count, 'worker')} of {wanted} did not "
                f"start in {launcher.wait:g} s (execution.wait); the cluster has "
                f"{describe_nodes(find_nodes())} ({in_short(cause)})"
            )
        return RunError(f"Ray Train: {in_short(cause, named=True)}")


def _fit(
    loop: Callable[[], None],
    workers: Allocation,
    training: Training,
    *,
    tries: int,
    wait: float,
    settings: Mapping[str, str],
) -> str:
    """Run Ray Train, and return the name of the last checkpoint, which has the trained network.

    Raises its `ControllerError` if no place is found for the workers in `wait` seconds, and its
    `WorkerGroupError` after `tries` failures. settings: environment variables.
    """
    os.environ.update(settings)
    seconds = float(settings["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"])
    gpus = workers.num_gpus
    resources = {"CPU": workers.num_cpus, **({"GPU": gpus} if gpus else {})}
    # Ranks that share a GPU cannot use NCCL; states and random numbers are on the CPU.
    backend = "cpu:gloo,cuda:nccl" if gpus >= 1 else "gloo"
    limits: Any = {  # Ray's types name an older class
        "max_failures": tries - 1,
        "controller_failure_limit": max(0, math.ceil(wait / seconds) - 1),
    }
    filesystem, path = remote.file_system(training.uri)
    trainer = TorchTrainer(
        loop,
        torch_config=TorchConfig(backend=backend),
        scaling_config=ScalingConfig(
            num_workers=workers.count, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=training.attempt,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(**limits),
            checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS),
        ),
    )
    handler = signal.getsignal(signal.SIGINT)
    try:
        checkpoint = trainer.fit().checkpoint
    finally:  # Ray Train's handler refers to its controller, which would stay with this process
        signal.signal(signal.SIGINT, handler)
    assert checkpoint is not None, "the network is reported as a checkpoint"
    return Path(checkpoint.path).name


@contextmanager
def _inbox() -> Iterator[Queue]:
    """Yield a queue of messages on this node."""
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": _here()})
    try:
        yield queue
    finally:
        queue.shutdown(force=True)


def _here() -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _fetch(uri: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a trained network."""
    with tempfile.TemporaryDirectory(prefix="cosup-network-") as folder:
        file = Path(folder, RESULT)
        if not remote.get(uri, file):
            raise RunError("the trained network is gone", where=str(remote.Place(uri)))
        return dict(torch.load(file, weights_only=True))


def _on_cpu(job: NetworkJob) -> NetworkJob:
    """Return the job with its teachers on the CPU, and without those that it does not ask."""
    guidance = job.lesson.guidance
    live = guidance.live if job.asks_live else None
    if isinstance(live, nn.Module):
        live = copy.deepcopy(live).cpu()
    return replace(job, lesson=replace(job.lesson, guidance=replace(guidance, live=live)))
