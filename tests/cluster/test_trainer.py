"""Tests of networks trained by Ray Train: weights of the local run, also after kills."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import train_rank
from cluster_helpers import CPUS, TwoNodes, actor_pids, assert_nothing_left, wait_until
from helpers.student_jobs import (
    CPU,
    DATA,
    DIGITS,
    live_job,
    meta_job,
    network_job,
    same,
    state,
)
from torch import Tensor
from train_rank import LONG

from cosup.cluster.actor import Setup
from cosup.cluster.room import Allocation
from cosup.cluster.storage import RunStorage
from cosup.cluster.trainer import RayLauncher
from cosup.config.schema import Config
from cosup.errors import RunError
from cosup.losses import CrossEntropy, Objective
from cosup.losses.base import Metrics
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.student.jobs import NetworkJob

pytestmark = pytest.mark.ray

WORKER = "RayTrainWorker"

ONE = Allocation(1, 1, 0)

Train = Callable[..., list[Classifier]]

# Workers cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Held(CrossEntropy):
    """Cross entropy that waits in the middle of a training until a file is there."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        while progress > 0.5 and not self.file.exists():
            time.sleep(0.02)
        return super().__call__(logits, targets, progress)


def held(job: NetworkJob, file: Path) -> NetworkJob:
    return replace(job, objective=Objective(Held(file)))


@pytest.fixture
def train(nodes: TwoNodes, two_threads: None, tmp_path: Path) -> Train:
    """Return a function that trains jobs on the cluster, with their states below `tmp_path`."""
    content = {
        "data": DIGITS,
        "teachers": {"model": {"name": "linear_pixels"}, "training": {"steps": 1}},
        "student": {"backbone": {"name": "cifar_resnet8", "weights": None}},
    }
    config = Config.model_validate(content)
    setup = Setup(config, DATA.known(), os.getcwd(), "cpu", "float32", torch.get_num_threads())

    def train(
        *jobs: NetworkJob,
        on_step: Any = None,
        workers: Allocation = ONE,
        tries: int = 3,
        wait: float = 60,
    ) -> list[Classifier]:
        launcher = RayLauncher(setup, workers, RunStorage(tmp_path), tries=tries, wait=wait)
        return launcher.networks(jobs, DATA, Compute(CPU, scratch=tmp_path / "training"), on_step)

    return train


def here(job: NetworkJob, on_step: Any = None) -> Classifier:
    return job.run(DATA, Compute(CPU), on_step)


def states(folder: Path) -> list[Path]:
    return list(folder.glob("training/net-*.state/*/*/state"))


def test_trainings_side_by_side_equal_local_ones(train: Train) -> None:
    """Bit by bit: with live teachers, and in the meta stage. The first reports its steps."""

    def jobs() -> list[NetworkJob]:
        return [live_job(), meta_job()]

    found: dict[int, float] = {}
    expected: dict[int, float] = {}
    networks = train(*jobs(), on_step=lambda step, loss, _: found.update({step: loss}))
    local = [here(jobs()[0], lambda step, loss, _: expected.update({step: loss}))]
    local += [here(job) for job in jobs()[1:]]
    for network, other in zip(networks, local, strict=True):
        assert same(state(network), state(other))
        assert not network.training
    assert {1, 8} <= found.keys()
    assert found.items() <= expected.items()


def test_a_lost_node_changes_nothing(
    train: Train, nodes: TwoNodes, tmp_path: Path, forks: list[str]
) -> None:
    """Of two workers, one per node, one is lost. Both are replaced and resume together, with all
    randomness and the numbers of two local processes that go on to the end."""
    first: set[int] = set()

    def lose(step: int, *_: Any) -> None:
        if not first:
            wait_until(lambda: bool(states(tmp_path)), "no state is saved")
            first.update(actor_pids(WORKER))
            assert len(set(actor_pids(WORKER).values())) == 2
            nodes.kill()
            nodes.add()
            (tmp_path / "go").touch()
        seen.append(step)

    seen: list[int] = []
    job = held(network_job(**LONG), tmp_path / "go")
    (lost,) = train(job, on_step=lose, workers=Allocation(2, CPUS, 0))
    assert all(same(state(lost), whole) for whole in on_two_ranks(tmp_path, forks))
    assert (seen[0], seen[-1]) == (1, 24)
    assert seen == sorted(set(seen))  # no step is reported twice


def on_two_ranks(folder: Path, forks: list[str]) -> list[dict[str, Tensor]]:
    """Return the tensors that two processes of this machine train together."""
    script = Path(train_rank.__file__)
    path = os.pathsep.join([str(script.parents[2]), str(script.parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    ranks = [
        subprocess.Popen([*forks, str(script), str(rank), "2", str(folder)], env=environment)
        for rank in range(2)
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_an_error_and_an_interrupt_end_all_trainings(train: Train, tmp_path: Path) -> None:
    """The error is the training's own, although the other worker waits for the failed one. For the
    state that an interrupt leaves see `test_cluster_run.py`."""
    diverging = {"lr": 1e38, "schedule": "constant"}
    long = {"steps": 60, "save_every": 10}
    other = replace(network_job(**long), name="other")
    with pytest.raises(RunError) as caught:
        train(other, network_job(**diverging), workers=Allocation(2, 1, 0))
    assert_nothing_left()
    with pytest.raises(RunError) as expected:
        here(network_job(**diverging))
    assert str(caught.value) == str(expected.value)

    def interrupt(*_: Any) -> None:
        wait_until(lambda: bool(states(tmp_path)), "no state is saved")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(held(network_job(**long), tmp_path / "never"), on_step=interrupt)
    assert_nothing_left()
    assert states(tmp_path)


def test_what_ray_train_gives_up(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    job = network_job()
    job = replace(job, rows=torch.full((64,), 10**6))  # an error in every try
    with pytest.raises(RunError, match=r"failed 1 time .*the last error: IndexError"):
        train(job, tries=1)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    with pytest.raises(RunError, match=r"3 workers of 1.5 CPUs .* in 2 s .*2 nodes of 2 CPUs"):
        train(network_job(), workers=Allocation(3, 1.5, 0), wait=2)
