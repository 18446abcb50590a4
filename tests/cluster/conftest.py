"""Fixtures with a real Ray cluster of two nodes on this machine, shared by all tests.

It has its own home, session folder and ports. A test with the fixture `nodes` may kill the second
node; the next test gets a new one. After each such test no actor and no placement group may exist.
Tests with `cluster` share actors with others of their module.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import ray
import torch
from actor_helpers import NETWORKS, config
from cluster_helpers import (
    CPUS,
    HEALTH,
    TwoNodes,
    assert_nothing_left,
    free_port,
    node_settings,
)
from ray.cluster_utils import Cluster

from cosup.data.load import load_data
from cosup.data.shifted_sets import with_shifted
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.teachers.features import FeatureCache

ENDING = pytest.StashKey[ExitStack]()
NODES = pytest.StashKey[TwoNodes]()


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, forks: list[str]) -> TwoNodes:
    """Return two nodes of two CPUs each, of which this process is connected to the first.

    They are started once, and ended after the last test here: idle, their processes take an eighth
    of a core.
    """
    stash = request.config.stash
    if ENDING not in stash:
        with ExitStack() as stack:
            stash[NODES] = stack.enter_context(_two_nodes())
            stash[ENDING] = stack.pop_all()
        request.config.add_cleanup(stash[ENDING].close)
    return stash[NODES]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """End the cluster unless the next test may use it."""
    yield
    stash = item.config.stash
    if ENDING in stash and (nextitem is None or nextitem.path.parent != item.path.parent):
        stash[ENDING].close()
        del stash[ENDING]


@contextmanager
def _two_nodes() -> Iterator[TwoNodes]:
    # Not below pytest's folder: paths of sockets may have 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="cosup-ray-"))
    with pytest.MonkeyPatch.context() as patch:
        (folder / "home").mkdir()
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # how soon an end is noticed
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # an actor per training
        patch.setenv("RAY_worker_niceness", "0")  # otherwise all other processes have priority
        patch.delenv("RAY_ADDRESS", raising=False)
        head = {"gcs_server_port": free_port(), "include_dashboard": False, **node_settings()}
        head["no_monitor"] = True  # no node is started by an autoscaler
        nodes = TwoNodes(Cluster(shutdown_at_exit=True), None)
        try:
            nodes.cluster.add_node(num_cpus=CPUS, _system_config=HEALTH, **head)
            ray.init(nodes.address, log_to_driver=False, logging_level="warning")
            nodes.add()
            yield nodes
        finally:
            ray.shutdown()
            nodes.cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nodes(cluster: TwoNodes) -> Iterator[TwoNodes]:
    """Return the cluster with both nodes; afterwards no actor may exist on it."""
    if cluster.second is None:
        cluster.add()
    assert_nothing_left()
    yield cluster
    assert_nothing_left()


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Digits in two rotations, 420 samples, and two shifted sets."""
    section = config(NETWORKS).data
    return with_shifted(load_data(section, 0, 1, None), section, 0, 1, None)


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """Set two torch threads, which actors must use as well: the last digits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def features(tmp_path: Path) -> FeatureCache:
    """Return the backbones and compute context of this process."""
    return FeatureCache(Compute(torch.device("cpu"), "float32", 1, 16, tmp_path / "cache"))
