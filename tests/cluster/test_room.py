"""The number of processes follows the cluster: all that fit, a range, or a number; what has no room
is waited for, and then refused by the setting's name. Only the last tests start Ray."""

import logging
import sys
import time
from itertools import count, takewhile
from typing import Any, Literal

import pytest
import ray
import torch
from cluster_helpers import CPUS, TwoNodes, node_settings, wait_until

from cosup.cluster import actor, room
from cosup.cluster.actor import Setup, resolve_there
from cosup.cluster.pool import Limits, Pool
from cosup.cluster.room import (
    Allocation,
    allocate,
    cpus_per_process,
    gpus_per_process,
    wait_for_room,
)
from cosup.cluster.session import Node
from cosup.cluster.work_queue import WorkItem
from cosup.config.schema import ActorsSection, ExecutionSection
from cosup.errors import RunError, UserError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

NODES = [Node(64, 0), *[Node(16, 2)] * 20]


def section(**settings: Any) -> ActorsSection:
    return ActorsSection.model_validate(settings)


def test_auto_is_as_many_actors_as_fit_and_grows() -> None:
    found = allocate(section(num_cpus=4), NODES, 0.5)
    assert (found.count, found.needed, found.grows) == (80, 1, True)
    assert allocate(section(num_cpus=1), NODES, 0).count == 64 + 20 * 16
    assert allocate(section(), [], 0).count == 1


def test_a_number_and_a_range_are_taken_as_given() -> None:
    assert allocate(section(actors=3), NODES, 0) == Allocation(3, 1, 0)
    found = allocate(section(actors={"min": 2, "max": 500}), NODES, 1)
    assert (found.count, found.needed, found.grows) == (500, 2, False)


@pytest.mark.parametrize("actors", [{"min": 5, "max": 2}, {"max": 5000}, {"min": 1}, 0, {}])
def test_an_impossible_range_is_refused(actors: object) -> None:
    with pytest.raises(ValueError, match="actors"):
        section(actors=actors)


@pytest.mark.parametrize(
    ("asked", "gpus", "nodes", "cpus"),
    [
        ("auto", 0, NODES, 1),
        ("auto", 1, NODES, 8),
        ("auto", 0.25, NODES, 2),
        ("auto", 2, [Node(64, 1), Node(16, 2), Node(96, 4)], 16),  # the node that has least
        ("auto", 2, [Node(8, 1)], 1),  # no node yet on which it fits
        ("auto", 0.25, [Node(2, 1)], 1),
        ("auto", 0.3, [Node(7, 1)], 2),
        (3, 0.25, NODES, 3),
        (0.5, 0, NODES, 0.5),
    ],
)
def test_a_process_decodes_with_its_share_of_the_cpus(
    asked: float | Literal["auto"], gpus: float, nodes: list[Node], cpus: float
) -> None:
    assert cpus_per_process(asked, gpus, nodes) == cpus
    found = allocate(section(num_cpus=asked, actors=2), nodes, gpus)
    assert (found.num_cpus, found.decoding_threads) == (cpus, max(1, int(cpus)))


def test_the_share_leaves_no_gpu_without_cpus() -> None:
    for fraction in (0.25, 0.5, 1):
        found = allocate(section(), [Node(13, 2)] * 3, fraction)
        assert found.count == 3 * 2 / fraction


@pytest.mark.parametrize(
    ("asked", "device", "nodes", "gpus"),
    [
        ("auto", "auto", NODES, 0.25),
        ("auto", "auto", [Node(8, 0)], 0),
        ("auto", "cpu", NODES, 0),
        ("auto", "cuda", [Node(8, 0)], 0.25),  # asked for of the autoscaler
        (2, "auto", [Node(8, 0)], 2),
        (0, "auto", NODES, 0),
    ],
)
def test_gpus_follow_the_device_and_the_cluster(
    asked: Any, device: str, nodes: list[Node], gpus: float
) -> None:
    assert gpus_per_process(asked, device, nodes, 0.25) == gpus


@pytest.mark.parametrize(("asked", "device"), [(1, "cpu"), (0, "cuda")])
def test_gpus_that_the_device_contradicts_are_refused(asked: float, device: str) -> None:
    with pytest.raises(UserError) as caught:
        gpus_per_process(asked, device, NODES, 0.25)
    assert caught.value.key == ("num_gpus",)


def test_nodes_that_join_in_time_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait is reported at once, and the autoscaler asked once."""
    wishes: list[Any] = []
    monkeypatch.setattr(room, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(room, "_ask_autoscaler", wishes.append)
    looks = iter([[], [Node(4, 0)], [Node(4, 0), Node(4, 0)]])
    with caplog.at_level(logging.INFO, "cosup"):
        assert wait_for_room({"execution.student": Allocation(2, 4, 0)}, 60, lambda: next(looks))
    assert len(wishes) == len(caplog.records) == 1
    assert not wait_for_room({"execution.student": Allocation(1, 4, 0)}, 0, lambda: NODES)


def test_what_has_no_room_in_time_is_refused_by_its_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(room, "_ask_autoscaler", lambda wanted: None)
    wanted = {
        "execution.teachers": Allocation(50, 1, 0, least=2),
        "execution.student": Allocation(2, 4, 1),
    }
    for seconds in (0, 0.05):
        started = time.monotonic()
        with pytest.raises(UserError) as caught:
            wait_for_room(wanted, seconds, lambda: [Node(4, 0)])
        assert caught.value.key == ("execution", "student")
        assert time.monotonic() - started >= seconds


@pytest.mark.parametrize(("threads", "cpus", "used"), [("auto", 6, 6), ("auto", 0.5, 1), (3, 6, 3)])
def test_threads_are_the_reserved_cpus_whatever_this_process_has(
    threads: Any, cpus: float, used: int
) -> None:
    execution = ExecutionSection(backend="ray", threads=threads)
    found = resolve_there(execution, Allocation(1, cpus, 0))
    assert (found.device, found.precision, found.threads) == ("cpu", "float32", used)


class Threads:
    """An actor that tells its node and its threads."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def node_id(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def prepare(self) -> int:
        torch.set_num_threads(self.setup.threads)
        return torch.get_num_threads()

    def work(self, seconds: float) -> str:
        time.sleep(seconds)
        return self.node_id()


@pytest.mark.ray
def test_a_pool_uses_a_node_that_joins(nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its actors tell what they computed on when they are ready."""
    monkeypatch.setattr("cosup.cluster.pool.LOOK_SECONDS", 0.2)
    nodes.kill()
    wait_until(lambda: ray.cluster_resources().get("CPU") == CPUS, "the node is still there")
    setup: Any = Setup(None, None, "", threads=1)  # type: ignore[arg-type]
    told: list[int] = []
    one = Allocation(1, CPUS, 0, least=1, grows=True)
    limits = Limits(tries=2, timeout=60, wait=60)
    end = time.monotonic() + 180
    numbers = takewhile(lambda _: time.monotonic() < end, count())
    items = (WorkItem(f"{number}", "work", (0.5,)) for number in numbers)
    used: list[str] = []
    with Pool(setup, one, limits, "threads", Threads, ready=told.append) as pool:
        for _, node in pool.run(items):
            if not used:
                nodes.add()
            used.append(node)
            if len(set(used)) == 2:
                break
    assert len(set(used)) == 2
    assert told == [1, 1]


@pytest.mark.ray
def test_a_gpu_that_others_hold_is_waited_for_and_then_told(
    nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(actor, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(actor, "TELL_SECONDS", 0.1)
    execution = ExecutionSection(backend="ray", wait=0.1)
    with caplog.at_level(logging.INFO, "cosup"), pytest.raises(RunError, match="no process found"):
        resolve_there(execution, Allocation(1, 1, 1))
    assert "waiting for a GPU: 1 CPUs and 1 GPUs are asked for" in caplog.text


@pytest.mark.ray
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU")
def test_a_gpu_that_torch_cannot_use_is_told_in_one_line(nodes: TwoNodes) -> None:
    """Ray counts it, but the driver is missing or too old, or torch is built without CUDA."""
    third = nodes.cluster.add_node(num_cpus=1, num_gpus=1, **node_settings())
    try:
        with pytest.raises(UserError, match="cannot use the GPU that Ray has there") as caught:
            resolve_there(ExecutionSection(backend="ray", wait=60), Allocation(1, 1, 1))
    finally:
        nodes.cluster.remove_node(third)
    assert caught.value.key == ("execution", "device")
    assert torch.__version__ in str(caught.value)
