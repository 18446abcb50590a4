"""What tests on the cluster need: its nodes, who is on it, and waiting for what must come."""

import itertools
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import state as gcs
from ray.util import placement_group_table

CPUS = 2
"""Of each node: Ray's bookkeeping, whatever the machine has."""
SERVICES = ("node_manager_port", "object_manager_port", "runtime_env_agent_port")
AGENTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
HEALTH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
"""A dead node is noticed within 4 s, not 15; one that is slow to answer still has its 10 s."""


@dataclass
class TwoNodes:
    """The cluster that this process is connected to. second: the node that is not the driver's."""

    cluster: Any
    second: Any

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> None:
        """Another second node, with its CPUs ready to be used."""
        self.second = self.cluster.add_node(num_cpus=CPUS, **node_settings())
        wait_until(lambda: ray.cluster_resources().get("CPU") == 2 * CPUS, "the node is there")

    def kill(self) -> None:
        """Kill the second node, with all its processes and without a word."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


def assert_nothing_left(within: float = 15) -> None:
    """No actor lives or waits for a place, no placement group holds any, all CPUs are free."""
    wait_until(lambda: not left(), lambda: f"still there: {left()}", within)


def left() -> list[str]:
    """The actors and placement groups that aren't gone."""
    actors = gcs.actor_table(None)
    groups = placement_group_table()
    found = [
        f"actor {a['Name']} {a['ActorClassName']} {a['State']} (pid {a['Pid']})"
        for a in actors.values()
        if a["State"] != "DEAD" or _runs(a["Pid"])
    ]
    found += [f"group {g['name']} {g['state']}" for g in groups.values() if g["state"] != "REMOVED"]
    return found


def actor_pids(class_name: str | None = None) -> dict[int, str]:
    """The processes of actors that live: their ids, and the nodes (ids) that they are on."""
    return {
        a["Pid"]: a["Address"]["NodeID"]
        for a in gcs.actor_table(None).values()
        if a["State"] == "ALIVE" and class_name in (None, a["ActorClassName"])
    }


def wait_until(
    true: Callable[[], bool], what: str | Callable[[], str], within: float = 30, every: float = 0.05
) -> None:
    """Look again and again; fail with `what` it is that didn't come about."""
    end = time.monotonic() + within
    while not true():
        if time.monotonic() > end:
            pytest.fail(what if isinstance(what, str) else what())
        time.sleep(every)


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Workers' ports are the kernel's choice, far above these; processes that test side by side look
# in different places.
_candidates = itertools.count(6400 + os.getpid() % 36 * 100)


def free_port() -> int:
    """A free port below 10000."""
    for port in _candidates:
        with socket.socket() as probe:
            if port < 10000 and probe.connect_ex(("127.0.0.1", port)):
                return port
        assert port < 10000, "no port is free"
    raise AssertionError


def node_settings() -> dict[str, Any]:
    """Of every node: ports of its own, workers that are up at once, nobody who reads logs."""
    ports = {name: free_port() for name in (*SERVICES, *AGENTS)}
    setup = Path(__file__).with_name("forked_worker.py")
    return {**ports, "setup_worker_path": str(setup), "include_log_monitor": False}
