"""Trainings of networks that are under way, each a `TorchTrainer` in a task of its own."""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
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

from cosup import remote
from cosup.cluster.actor import Setup
from cosup.cluster.room import Allocation
from cosup.cluster.session import describe_nodes, find_nodes
from cosup.cluster.train_worker import RESULT, Training, work
from cosup.errors import RunError, UserError, in_short
from cosup.models.watch import OnStep
from cosup.words import plural

__all__ = ["RunningTrainings", "here"]

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
LOOK_SECONDS = 5.0
"""Time between two looks at the nodes, beside other runs."""
END_SECONDS = 30.0
"""Time for the processes of a training that is stopped to end."""


class RunningTrainings:
    """The trainings that are under way.

    allocation: the workers of each. inbox: where their messages arrive. on_step: reports the first
    training. tries: how often a training may fail. wait: seconds to wait for a place. results: URI
    of the trained network by the number of the training.
    """

    def __init__(
        self,
        setup: Setup,
        allocation: Allocation,
        inbox: Queue,
        on_step: OnStep | None,
        *,
        tries: int,
        wait: float,
    ) -> None:
        self.setup, self.allocation = setup, allocation
        self.inbox, self.on_step = inbox, on_step
        self.tries, self.wait = tries, wait
        self.tasks: dict[Any, Training] = {}
        self.results: dict[int, str] = {}
        self.furthest = 0
        self.looked = self.roomy = time.monotonic()

    def start(self, training: Training, workers: int) -> None:
        """Start Ray Train in a task on this node, which can be interrupted.

        In this process, Ray Train would handle Ctrl-C itself and exit with status 0.
        """
        task: Any = ray.remote(_fit)  # type: ignore[arg-type]
        reference = task.options(num_cpus=0, max_retries=0, scheduling_strategy=here()).remote(
            partial(work, training, self.setup, self.inbox),
            replace(self.allocation, count=workers),
            training,
            tries=self.tries,
            wait=math.inf if self.allocation.share.runs > 1 else self.wait,
            settings={name: os.environ.get(name, value) for name, value in SETTINGS.items()},
        )
        self.tasks[reference] = training

    def wait_until_fewer_than(self, count: int) -> None:
        """Pass on steps until fewer trainings are under way; raise the error of one that fails."""
        while len(self.tasks) >= count:
            ended, _ = ray.wait(list(self.tasks), timeout=POLL_SECONDS)
            self._read_messages()
            self._check_room()
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

    def _check_room(self) -> None:
        """Raise `RunError` beside other runs, whose places Ray Train waits for, if the nodes have
        had none for a training for so long that it does not wait for the nodes either."""
        now, wanted = time.monotonic(), self.allocation
        if wanted.share.runs == 1 or now - self.looked < LOOK_SECONDS:
            return
        self.looked = now
        if wanted.waits(find_nodes()):
            self.roomy = now
        elif now - self.roomy > self.wait:
            raise self._not_started()

    def _not_started(self, problem: str = "") -> RunError:
        wanted = self.allocation
        return RunError(
            f"the student's training: {plural(wanted.count, 'worker')} of {wanted} did not start "
            f"in {self.wait:g} s (execution.wait); the cluster has {describe_nodes(find_nodes())}"
            f"{problem}"
        )

    def _result(self, task: Any, training: Training) -> str:
        try:
            return remote.join(training.uri, training.attempt, ray.get(task), RESULT)
        except RayTaskError as error:
            raise self._explained(error.cause) from error

    def _explained(self, cause: BaseException) -> RunError | UserError:
        """Return the error for a training that Ray Train has given up."""
        if isinstance(cause, RunError | UserError):
            return cause
        if isinstance(cause, WorkerGroupError):
            last = next(iter(cause.worker_failures.values()), cause)
            return RunError(
                f"the student's training failed {plural(self.tries, 'time')} "
                f"(execution.tries); the last error: {in_short(last, named=True)}"
            )
        if isinstance(cause, ControllerError):
            return self._not_started(f" ({in_short(cause)})")
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

    Raises its `ControllerError` if no place is found for the workers in `wait` seconds (infinity:
    never), and its `WorkerGroupError` after `tries` failures. settings: environment variables.
    """
    os.environ.update(settings)
    seconds = float(settings["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"])
    gpus = workers.num_gpus
    resources = {"CPU": workers.num_cpus, **({"GPU": gpus} if gpus else {})}
    # Ranks that share a GPU cannot use NCCL; states and random numbers are on the CPU.
    backend = "cpu:gloo,cuda:nccl" if gpus >= 1 else "gloo"
    starts = -1 if wait == math.inf else max(0, math.ceil(wait / seconds) - 1)
    limits: Any = {  # Ray's types name an older class
        "max_failures": tries - 1,
        "controller_failure_limit": starts,
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


def here() -> NodeAffinitySchedulingStrategy:
    """Return the scheduling strategy of what runs on this node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
