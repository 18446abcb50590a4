"""Actors with a GPU reserve the CPUs that decode as many images as their card computes.

The last test starts Ray, without a GPU: it measures the CPU as the device.
"""

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cluster_helpers import TwoNodes
from helpers.student_jobs import DATA, DIGITS

from cosup.cluster import rates
from cosup.cluster.actor import Setup
from cosup.cluster.rates import Rates, is_measured, measure, rates_there, with_cpus_for
from cosup.cluster.room import Allocation, Share, allocate
from cosup.cluster.session import Node
from cosup.config.schema import ActorsSection, Config
from cosup.data.transforms import EvalTransform

NODES = [Node(16, 2)] * 3
NETWORK = {"name": "cifar_resnet8", "image_size": 16}


def config(**model: Any) -> Config:
    tree = {
        "data": DIGITS,
        "teachers": {"model": model or NETWORK},
        "student": {"backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 16}},
        "execution": {"batch_size": 16},
    }
    return Config.model_validate(tree)


def setup(device: str = "cpu") -> Setup:
    return Setup(config(), DATA.known(), os.getcwd(), device)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a measurement set the threads and the path of this process."""
    monkeypatch.setattr("sys.path", list(sys.path))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("decoded", "computed", "gpus", "share", "cpus"),
    [
        (100, 250, 1, 8, 3),
        (100, 300, 1, 8, 3),
        (100, 1000, 1, 8, 8),  # no more than the share of the node
        (100, 10, 1, 8, 1),
        (100, 1000, 0.25, 8, 3),  # a quarter of a card computes a quarter
        (100, 1000, 2, 16, 10),  # a process computes on one of its cards
        (100, 1000, 1, 1, 1),
    ],
)
def test_as_many_cpus_as_the_card_needs(
    decoded: float, computed: float, gpus: float, share: float, cpus: float
) -> None:
    assert Rates(decoded, computed).cpus(gpus, share) == cpus


def test_the_number_of_actors_and_the_share_of_the_cluster_stay() -> None:
    section, share = ActorsSection(), Share(0, 2, 2)
    before = allocate(section, NODES, 0.5, share)
    assert (before.count, before.num_cpus) == (6, 4)
    found = with_cpus_for(Rates(100, 350), section, before, NODES)
    assert (found.num_cpus, found.num_gpus) == (2, 0.5)
    assert (found.count, found.grows, found.share) == (before.count, before.grows, share)


def test_what_has_no_gpu_no_network_or_a_number_stays_as_it_is() -> None:
    auto, one = ActorsSection(), Allocation(1, 8, 1)
    assert is_measured(config(), "teachers", auto, one)
    assert is_measured(config(), "features", auto, one)
    assert not is_measured(config(), "features", auto, Allocation(1, 1, 0))
    assert not is_measured(config(), "features", ActorsSection(num_cpus=4), one)
    pixels = config(name="linear_pixels", size=4)
    assert not is_measured(pixels, "teachers", auto, one)
    assert is_measured(pixels, "features", auto, one)


class Clock:
    """Takes the place of `time`: at every look 10 ms have gone by."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 0.01
        return self.now


@pytest.mark.parametrize("name", ["teachers", "features"])
def test_images_of_the_run_are_decoded_and_computed(
    name: str, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """More time for an image is a lower rate of decoding, and of it alone."""
    clock = Clock()
    monkeypatch.setattr(rates, "SECONDS", 0.1)
    monkeypatch.setattr(rates, "time", clock)
    before = measure(setup(), name)
    transform = EvalTransform.__call__

    def slower(self: EvalTransform, image: Any) -> torch.Tensor:
        clock.now += 0.05
        return transform(self, image)

    monkeypatch.setattr(EvalTransform, "__call__", slower)
    after = measure(setup(), name)
    assert 10 < after.decoded < 20 < before.decoded
    assert after.computed == pytest.approx(before.computed)
    assert after.computed > before.decoded


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured(one_thread: None) -> None:
    assert measure(setup("cuda"), "features").computed > 0


@pytest.mark.ray
def test_they_are_measured_where_the_actors_run(
    nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be measured leaves the CPUs as they are."""
    found = rates_there(setup(), "features", Allocation(1, 1, 0), wait=60)
    assert found is not None
    assert found.computed > 0
    monkeypatch.setattr(rates, "START_SECONDS", 0.0)
    assert rates_there(setup(), "features", Allocation(1, 1, 0), wait=0.01) is None
