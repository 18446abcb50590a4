"""Training of students by Ray Train: one TorchTrainer, whose workers run many trainings.

Starting its processes takes Ray Train many seconds, longer than most heads take to fit, so they
stay from the first training to the last. Ray Train places the workers, joins them in a process
group, and replaces all of them when one dies. A replaced training resumes from its own state, which
is saved to the driver's disk; so do trainings of a driver that was killed.
"""

import copy
import logging
import math
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from cosup.cluster.actor import Setup
from cosup.cluster.session import Allocation, Closeable, describe_nodes, find_nodes
from cosup.cluster.train_worker import QueuedTraining, work
from cosup.cluster.training_queue import TrainingQueue
from cosup.data.table import ImageData
from cosup.errors import RunError, in_short
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.heads import HeadBank, head_bank
from cosup.models.watch import OnStep
from cosup.student.jobs import HeadJob, NetworkJob
from cosup.words import plural

__all__ = ["RayLauncher"]

log = logging.getLogger(__name__)

PLACE_SECONDS = 10.0
"""Time that Ray Train waits for a place before it starts anew."""
SETTINGS = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # The watcher is an actor of its own, for checkpoints that are not reported here.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{PLACE_SECONDS:g}",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Environment variables of Ray Train, unless the user has set them."""
END_SECONDS = 30.0
"""Time for Ray Train to end by itself before it is killed."""


class RayLauncher(Closeable):
    """Trains students on the cluster that this process is connected to.

    allocation: the workers. tries: how often a training may fail without progress. wait: seconds to
    wait for a place. The workers start with the first training, and end when the launcher is
    closed; a later training starts new ones.
    """

    def __init__(self, setup: Setup, allocation: Allocation, *, tries: int, wait: float) -> None:
        self.setup = replace(setup, device=allocation.device)
        self.allocation = allocation
        self.tries, self.wait = tries, wait
        self._queue: Any = None
        self._fit: Any = None  # the result of the task that runs Ray Train
        self._folder = Path()
        self._features: tuple[torch.Tensor, Any] | None = None

    def heads(self, job: HeadJob, compute: Compute, on_step: OnStep | None) -> HeadBank:
        """Return the fitted heads; raise the errors of the fit, and `RunError` for the cluster's.

        compute: not used, the workers have their own.
        """
        job.check(self.allocation.count)
        if self._features is None or self._features[0] is not job.features:
            self._features = (job.features, ray.put(job.features.numpy()))
        sent = replace(job, features=torch.empty(0))
        bank = head_bank(self._run(sent, on_step, features=self._features[1]))
        return bank.requires_grad_(False)

    def heads_together(
        self, jobs: Sequence[HeadJob], compute: Compute, on_step: OnStep | None
    ) -> list[HeadBank]:
        """Return the fitted heads of each job, fitted one after the other; errors as `heads`."""
        return [
            self.heads(job, compute, None if number else on_step) for number, job in enumerate(jobs)
        ]

    def network(
        self, job: NetworkJob, data: ImageData, compute: Compute, on_step: OnStep | None
    ) -> Classifier:
        """Return the job's trained classifier; raise the errors of the training, and `RunError` for
        the cluster's."""
        assert data.fingerprint == self.setup.known.fingerprint, "workers read the run's own data"
        job.check(self.allocation.count)
        state = "" if compute.scratch is None else str((compute.scratch / job.state).absolute())
        job.classifier.model.load_state_dict(self._run(_on_cpu(job), on_step, state=state))
        return job.classifier.eval().requires_grad_(False)

    def close(self, abort: bool = False) -> None:
        """End the workers (abort: within a training step) and wait until they are gone."""
        if self._queue is None:
            return
        queue, self._queue, self._features = self._queue, None, None
        try:
            ray.get(queue.stop.remote(abort))
            if not ray.wait([self._fit], timeout=END_SECONDS)[0]:
                log.warning("Ray Train does not end; killing it")
                ray.cancel(self._fit, force=True)
                ray.wait([self._fit], timeout=END_SECONDS)
            ray.kill(queue)
        except RayError as error:
            log.warning("ending Ray Train: %s", in_short(error))
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(
        self,
        job: HeadJob | NetworkJob,
        on_step: OnStep | None,
        features: Any = None,
        state: str = "",
    ) -> dict[str, torch.Tensor]:
        """Have the workers run a training; return the tensors of its result."""
        try:
            if self._queue is None:
                self._start()
            result = self._folder / "result.pt"
            reference = ray.put(QueuedTraining(job, str(result), features, state))
            ray.get(self._queue.submit.remote([reference]))
            self._wait_for_end(on_step)
            content = torch.load(result, weights_only=True)
            result.unlink()
            return dict(content)
        except RayError as error:
            self.close(abort=True)
            raise RunError(f"Ray Train: {in_short(error)}") from error
        except BaseException:
            self.close(abort=True)
            raise

    def _start(self) -> None:
        """Start the queue, and Ray Train, which runs until the queue is stopped."""
        self._folder = Path(tempfile.mkdtemp(prefix="cosup-ray-train-"))
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        queue: Any = ray.remote(TrainingQueue)
        self._queue = queue.options(num_cpus=0, scheduling_strategy=here).remote(self.tries)
        # In a task, which can be cancelled: its end is the end of all processes of Ray Train. In
        # this process, Ray Train would handle Ctrl-C itself and exit with status 0.
        task: Any = ray.remote(_fit)
        task = task.options(num_cpus=0, max_retries=0, scheduling_strategy=here)
        settings = {name: os.environ.get(name, value) for name, value in SETTINGS.items()}
        run = {"queue": self._queue, "setup": self.setup, "allocation": self.allocation}
        self._fit = task.remote(**run, wait=self.wait, folder=str(self._folder), settings=settings)

    def _wait_for_end(self, on_step: OnStep | None) -> None:
        """Report steps until the training has ended; raise the error that it failed with."""
        furthest = 0
        while True:
            ended, _ = ray.wait([self._fit], timeout=0)
            for kind, content in ray.get(self._queue.take_events.remote(1.0)):
                if kind == "done":
                    return
                if kind == "failed":
                    raise content
                if kind == "exhausted":
                    raise RunError(
                        f"the student's training failed {plural(self.tries, 'time')} without "
                        f"progress; the last error: {content or 'a worker died'}"
                    )
                step, loss, metrics = content
                if on_step is not None and step > furthest:  # a restart repeats earlier steps
                    on_step(step, loss, {n: torch.tensor(v) for n, v in metrics.items()})
                furthest = max(step, furthest)
            if ended:
                raise self._end_of_ray_train()

    def _end_of_ray_train(self) -> RunError:
        """Return the error for Ray Train ending before the training."""
        wanted, reason = self.allocation, "no reason given"
        try:
            ray.get(self._fit)
        except RayTaskError as error:
            reason = in_short(error.cause)
            if isinstance(error.cause, ControllerError):
                return RunError(
                    f"the student's training: {plural(wanted.count, 'worker')} of {wanted} did not "
                    f"start in {self.wait:g} s (execution.wait); the cluster has "
                    f"{describe_nodes(find_nodes())} ({reason})"
                )
        return RunError(f"Ray Train has ended: {reason}")


def _fit(
    queue: Any,
    setup: Setup,
    allocation: Allocation,
    wait: float,
    folder: str,
    settings: dict[str, str],
) -> None:
    """Run Ray Train until the queue is stopped; raise its `ControllerError` if no place is found
    for the workers in `wait` seconds.

    settings: environment variables.
    """
    os.environ.update(settings)
    seconds = float(settings["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"])
    gpus = allocation.num_gpus
    resources = {"CPU": allocation.num_cpus, **({"GPU": gpus} if gpus else {})}
    # Ranks that share a GPU cannot use NCCL; states and random numbers are on the CPU.
    backend = "cpu:gloo,cuda:nccl" if gpus >= 1 else "gloo"
    limits: Any = {  # Ray's types name an older class
        "max_failures": -1,  # the queue counts: a training with progress is tried again
        "controller_failure_limit": max(0, math.ceil(wait / seconds) - 1),
    }
    trainer = TorchTrainer(
        partial(work, queue, setup),
        torch_config=TorchConfig(backend=backend),
        scaling_config=ScalingConfig(
            num_workers=allocation.count, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"cosup-{uuid.uuid4().hex}",
            storage_path=folder,
            failure_config=FailureConfig(**limits),
        ),
    )
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    finally:  # Ray Train's handler refers to its controller, which would stay with this process
        signal.signal(signal.SIGINT, handler)


def _on_cpu(job: NetworkJob) -> NetworkJob:
    """Return the job with its teachers on the CPU, and without those that it does not ask."""
    guidance = job.lesson.guidance
    live = guidance.live if job.asks_live else None
    if isinstance(live, nn.Module):
        live = copy.deepcopy(live).cpu()
    return replace(job, lesson=replace(job.lesson, guidance=replace(guidance, live=live)))
