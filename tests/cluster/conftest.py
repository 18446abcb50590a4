"""A real Ray cluster of two nodes on this machine, shared by all tests that need one.

Everything of it is private: home, folder of sessions, ports. A test that asks for `nodes` may kill
the second one, the next test finds a new one. After each such test no actor and no placement group
may be left. One that asks for `cluster` alone shares actors with others of its module.
"""

import shutil
import tempfile
from collections.abc import Iterator
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

from cosup.data.table import ImageData, load_data
from cosup.models.compute import Compute
from cosup.teachers.features import FeatureCache


@pytest.fixture(scope="session")
def cluster(forks: list[str]) -> Iterator[TwoNodes]:
    """Two nodes of two CPUs each; this process is connected to the first."""
    # Sockets' paths may have 107 characters at most, so not below pytest's own folder.
    folder = Path(tempfile.mkdtemp(prefix="cosup-ray-"))
    with pytest.MonkeyPatch.context() as patch:
        (folder / "home").mkdir()
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # or they wait for all that runs beside them
        patch.delenv("RAY_ADDRESS", raising=False)
        head = {"gcs_server_port": free_port(), "include_dashboard": False, **node_settings()}
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
    """The cluster with both its nodes; afterwards nothing may be left on it."""
    if cluster.second is None:
        cluster.add()
    assert_nothing_left()
    yield cluster
    assert_nothing_left()


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Digits in two rotations, 420 samples."""
    return load_data(config(NETWORKS).data, 0, 1, None)


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """Two: the last digits depend on it, so the actors must not have another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def features(tmp_path: Path) -> FeatureCache:
    """What this process computes with."""
    return FeatureCache(Compute(torch.device("cpu"), "float32", 1, 16, tmp_path / "cache"))
