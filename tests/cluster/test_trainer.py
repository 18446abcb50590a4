"""Tests of students trained by Ray Train: weights of the local run, also after kills."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster_helpers import CPUS, TwoNodes, actor_pids, assert_nothing_left, wait_until
from helpers.student_jobs import (
    CPU,
    DATA,
    DIGITS,
    EVERYTHING,
    head_job,
    live_job,
    meta_job,
    network_job,
    same,
    state,
)

from cosup.cluster.actor import Setup
from cosup.cluster.session import Allocation
from cosup.cluster.trainer import RayLauncher
from cosup.config.schema import Config
from cosup.errors import RunError
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.fit import predict_heads
from cosup.student.jobs import NetworkJob

pytestmark = pytest.mark.ray

WORKER = "RayTrainWorker"


@pytest.fixture(scope="module")
def setup(two_threads: None) -> Setup:
    content = {
        "data": DIGITS,
        "teachers": {"model": {"name": "linear_pixels"}, "training": {"steps": 1}},
        "student": {"backbone": {"name": "cifar_resnet8", "weights": None}},
    }
    config = Config.model_validate(content)
    return Setup(config, DATA.known(), os.getcwd(), torch.get_num_threads(), "cpu", "float32")


@pytest.fixture(scope="module")
def one(cluster: TwoNodes, setup: Setup) -> Iterator[RayLauncher]:
    """Return one worker, which the tests of this module share until one of them ends it."""
    with RayLauncher(setup, Allocation(1, 1, 0), tries=3, wait=60) as launcher:
        yield launcher


def trained(
    launcher: RayLauncher, job: NetworkJob, scratch: Path, on_step: Any = None
) -> Classifier:
    return launcher.network(job, DATA, Compute(CPU, scratch=scratch), on_step)


def here(job: NetworkJob) -> Classifier:
    return job.run(DATA, Compute(CPU))


def long() -> NetworkJob:
    return network_job(steps=60, save_every=10)


def at(step: int, do: Callable[[], object], seen: list[int]) -> Callable[..., None]:
    """Return a callback that records the steps, and calls `do` once at a step."""

    def on_step(now: int, loss: float, metrics: Any) -> None:
        if now >= step and max(seen, default=0) < step:
            seen.append(now)
            do()
        else:
            seen.append(now)

    return on_step


def test_one_worker_equals_the_local_run(one: RayLauncher, tmp_path: Path) -> None:
    """Bit by bit: heads, networks with all randomness, live teachers and the meta stage."""
    losses: dict[int, float] = {}
    local: dict[int, float] = {}
    heads = one.heads(head_job(), Compute(), lambda step, loss, _: losses.update({step: loss}))
    expected = head_job().run(Compute(), on_step=lambda step, loss, _: local.update({step: loss}))
    assert same(state(heads), state(expected))
    assert 1 in losses
    assert losses.items() <= local.items()
    assert not any(parameter.requires_grad for parameter in heads.parameters())
    network = trained(one, network_job(**EVERYTHING), tmp_path)
    assert same(state(network), state(here(network_job(**EVERYTHING))))
    assert not network.training
    assert (tmp_path / "net.state").exists()
    for job in (meta_job, live_job):
        assert same(state(trained(one, job(), tmp_path)), state(here(job())))


def test_a_killed_worker_is_replaced_and_resumes(one: RayLauncher, tmp_path: Path) -> None:
    def kill() -> None:
        (pid,) = actor_pids(WORKER)
        os.kill(pid, signal.SIGKILL)

    seen: list[int] = []
    network = trained(one, long(), tmp_path, at(50, kill, seen))
    assert seen[0] == 1
    assert seen == sorted(set(seen))  # no step is reported twice
    assert same(state(network), state(here(long())))


def test_an_interrupt_leaves_a_state_and_no_actor(one: RayLauncher, tmp_path: Path) -> None:
    """See `test_cluster_run.py` for resuming from such a state."""

    def interrupt() -> None:
        wait_until((tmp_path / "net.state").exists, "no state is saved")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(one, long(), tmp_path, at(1, interrupt, []))
    assert_nothing_left()
    assert (tmp_path / "net.state").exists()


def test_two_workers_and_a_lost_node(nodes: TwoNodes, setup: Setup, tmp_path: Path) -> None:
    """One worker per node: a lost node changes nothing, and heads predict the same class as one
    worker's for nearly all images. (For networks see `test_ranks.py`, without Ray.)"""

    def job() -> NetworkJob:
        return network_job(steps=24, save_every=4)

    def lose() -> None:
        wait_until((tmp_path / "lost" / "net.state").exists, "no state is saved")
        nodes.kill()
        nodes.add()

    with RayLauncher(setup, Allocation(2, CPUS, 0), tries=3, wait=60) as two:
        whole = trained(two, job(), tmp_path / "whole")
        heads = two.heads(head_job(), Compute(), None)
        workers = actor_pids(WORKER)
        assert len(set(workers.values())) == 2
        lost = trained(two, job(), tmp_path / "lost", at(1, lose, []))
        assert not workers.keys() & actor_pids(WORKER)  # all were replaced during the training
        assert_the_error_arrives(two)
    assert_nothing_left()
    assert same(state(lost), state(whole))
    features = head_job().features
    tables = [predict_heads(bank, features)[0] for bank in (heads, head_job().run(Compute()))]
    assert float((tables[0].top()[0] == tables[1].top()[0]).float().mean()) > 0.995


def assert_the_error_arrives(launcher: RayLauncher) -> None:
    """The error is the training's own, although the other worker waits for the failed one."""
    diverging = {"lr": 1e38, "schedule": "constant"}
    with pytest.raises(RunError) as caught:
        launcher.heads(head_job(**diverging), Compute(), None)
    with pytest.raises(RunError) as expected:
        head_job(**diverging).run(Compute())
    assert str(caught.value) == str(expected.value)


def test_workers_without_a_place(
    nodes: TwoNodes, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    with (
        RayLauncher(setup, Allocation(3, 1.5, 0), tries=3, wait=2) as launcher,
        pytest.raises(RunError, match=r"3 workers of 1.5 CPUs .* in 2 s .*2 nodes of 2 CPUs"),
    ):
        launcher.heads(head_job(), Compute(), None)
