"""Students trained under Ray Train: one TorchTrainer, whose workers do one training after another.

To start its processes takes Ray Train many seconds, more than most heads take to fit; so they stay
from the first training to the last. Ray Train places the workers, joins them (DDP) and replaces
them all when one dies. What it restores is our own: the state that `train_network` saves, which
lies on the driver's disk, so that a killed worker, a lost node and a restarted driver go on alike.
"""

import copy
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from cosup.cluster.actor import Setup
from cosup.cluster.controller import Announcer, Fixed
from cosup.cluster.session import Closing, Places, described, find_nodes
from cosup.cluster.train_worker import Sent, work
from cosup.cluster.training_queue import Desk
from cosup.data.table import ImageData
from cosup.errors import RunError, UserError
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.fit import OnStep
from cosup.models.heads import HeadBank, head_bank
from cosup.student.jobs import HeadJob, NetworkJob

__all__ = ["RayLauncher"]

log = logging.getLogger(__name__)

SETTINGS = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # An actor of its own, for checkpoints that we don't report.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # For so long the controller can't be stopped while it waits for a place.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Of Ray Train, unless the user has set them."""
UNUSED = ("PlacementGroupCleanerCallback", "DatasetsCallback")
"""Callbacks of Ray Train's."""
STARTING = 60.0
"""Seconds that workers may take to start once they have a place."""
LEAVING = 30.0


class RayLauncher(Closing):
    """A student's trainings on a cluster that this process is connected to.

    places: the workers and what each reserves. tries: of a training as long as it gets no further.
    wait: seconds to wait for a place. The workers start with the first training and are gone when
    it is left or closed; a further training starts new ones.
    """

    def __init__(self, setup: Setup, places: Places, *, tries: int, wait: float) -> None:
        self.setup = replace(setup, device=places.device)
        self.places = places
        self.tries, self.wait = tries, wait
        self._desk: Any = None
        self._thread = threading.Thread()
        self._folder = Path()
        self._error: BaseException | None = None
        self._features: tuple[torch.Tensor, Any] | None = None

    def heads(self, job: HeadJob, compute: Compute, on_step: OnStep | None) -> HeadBank:
        """The fitted heads. Raises as the fit does, and `RunError` for what befalls the cluster."""
        job.check(self.places.count)
        if self._features is None or self._features[0] is not job.features:
            self._features = (job.features, ray.put(job.features.numpy()))
        sent = replace(job, features=torch.empty(0))
        bank = head_bank(self._run(sent, on_step, features=self._features[1]))
        return bank.requires_grad_(False)

    def network(
        self, job: NetworkJob, data: ImageData, compute: Compute, on_step: OnStep | None
    ) -> Classifier:
        """The job's classifier, trained. Raises as the training does, and `RunError` for what
        befalls the cluster."""
        assert data.fingerprint == self.setup.known.fingerprint, "workers read the run's own data"
        job.check(self.places.count)
        state = "" if compute.scratch is None else str((compute.scratch / job.state).absolute())
        job.classifier.model.load_state_dict(self._run(_light(job), on_step, state=state))
        return job.classifier.eval().requires_grad_(False)

    def close(self, abort: bool = False) -> None:
        """Send the workers home (abort: whatever they are at), and wait until they are gone."""
        if self._desk is None:
            return
        desk, self._desk, self._features = self._desk, None, None
        end = time.monotonic() + LEAVING
        try:
            controller = ray.get(desk.stop.remote())
            while self._thread.is_alive() and time.monotonic() < end:
                if abort and controller is not None:
                    with suppress(RayError):  # it ends with its own end
                        ray.get(controller.abort.remote(), timeout=LEAVING)
                self._thread.join(0.5)
                controller = ray.get(desk.stop.remote())
            if self._thread.is_alive() and controller is not None:
                log.warning("Ray Train does not end; killing its controller")
                ray.kill(controller)
            ray.kill(desk)
        except RayError as error:
            log.warning("ending Ray Train: %s", str(error).splitlines()[0])
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(
        self,
        job: HeadJob | NetworkJob,
        on_step: OnStep | None,
        features: Any = None,
        state: str = "",
    ) -> dict[str, torch.Tensor]:
        """What a training comes to."""
        try:
            if self._desk is None:
                self._start()
            result = self._folder / "result.pt"
            reference = ray.put(Sent(job, str(result), features, state))
            ray.get(self._desk.post.remote([reference]))
            self._follow(on_step)
            content = torch.load(result, weights_only=True)
            result.unlink()
            return dict(content)
        except RayError as error:
            self.close(abort=True)
            raise RunError(f"Ray Train: {str(error).splitlines()[0]}") from error
        except BaseException:
            self.close(abort=True)
            raise

    def _start(self) -> None:
        """The desk, and Ray Train's controller, which runs until the desk is closed."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray.train").setLevel(logging.WARNING)
        self._folder = Path(tempfile.mkdtemp(prefix="cosup-ray-train-"))
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Desk)
        self._desk = actor.options(num_cpus=0, scheduling_strategy=here).remote(self.tries)
        self._error = None
        trainer = _trainer(self._desk, self.setup, self.places, self._folder)

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:
                self._error = error

        # Not in the main thread: there it would take Ctrl-C for itself, and leave with status 0.
        self._thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        self._thread.start()

    def _follow(self, on_step: OnStep | None) -> None:
        """Until the training is done. Raises what it failed with."""
        furthest = 0
        while True:
            ended = not self._thread.is_alive()
            events, silent = ray.get(self._desk.take.remote(1.0))
            for what, about in events:
                if what == "done":
                    return
                if what == "failed":
                    raise self._failure(about)
                step, loss, metrics = about
                if on_step is not None and step > furthest:  # others were told before a restart
                    on_step(step, loss, {n: torch.tensor(v) for n, v in metrics.items()})
                furthest = max(step, furthest)
            if ended:
                reason = (str(self._error).splitlines() or [""])[0]
                raise RunError(f"Ray Train has ended: {reason or 'no reason is given'}")
            if silent > self.wait + STARTING:
                raise RunError(self._missing())

    def _failure(self, about: tuple[str, str]) -> Exception:
        kind, text = about
        if kind:
            return {"UserError": UserError}.get(kind, RunError)(text)
        how = "once" if self.tries == 1 else f"{self.tries} times"
        return RunError(
            f"the student's training failed {how} without getting further; the last time: "
            f"{text or 'a worker died'}"
        )

    def _missing(self) -> str:
        wanted = self.places
        return (
            f"the student's training: no place was found for {wanted.count} workers of "
            f"{wanted.num_cpus:g} CPUs and {wanted.num_gpus:g} GPUs in {self.wait:g} s "
            f"(execution.wait); the cluster has {described(find_nodes())}"
        )


_TorchTrainer: Any = TorchTrainer  # there are two, and its types name the old one


class _Trainer(_TorchTrainer):  # type: ignore[misc]
    """Without what it has no use for, each an actor more. One is detached and looks after placement
    groups by asking the dashboard, which need not be there: then it stays for ever. Ray removes
    them itself when the driver is gone."""

    def __init__(self, desk: Any, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.desk = desk

    def _create_default_callbacks(self) -> list[Any]:
        made: list[Any] = super()._create_default_callbacks()
        return [one for one in made if type(one).__name__ not in UNUSED]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        policy = Fixed(self.scaling_config, self.desk)
        return super()._initialize_and_run_controller(**{**settings, "scaling_policy": policy})


def _trainer(desk: Any, setup: Setup, places: Places, folder: Path) -> Any:
    gpus = places.num_gpus
    callbacks: Any = [Announcer(desk)]
    resources = {"CPU": places.num_cpus, **({"GPU": gpus} if gpus else {})}
    # Ranks that share a GPU can't talk through NCCL; states and random numbers are the CPU's.
    backend = "cpu:gloo,cuda:nccl" if gpus >= 1 else "gloo"
    return _Trainer(
        desk,
        partial(work, desk, setup),
        torch_config=TorchConfig(backend=backend),
        scaling_config=ScalingConfig(
            num_workers=places.count, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"cosup-{uuid.uuid4().hex}",
            storage_path=str(folder),
            # The desk counts: a training that gets further is tried on.
            failure_config=FailureConfig(max_failures=-1),
            callbacks=callbacks,
        ),
    )


def _light(job: NetworkJob) -> NetworkJob:
    """The job with what it needs of the teachers, on the CPU."""
    guidance = job.lesson.guidance
    live = guidance.live if job.asks_live else None
    if isinstance(live, nn.Module):
        live = copy.deepcopy(live).cpu()
    return replace(job, lesson=replace(job.lesson, guidance=replace(guidance, live=live)))
