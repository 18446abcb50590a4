"""Helpers of the cluster tests: the nodes, the actors that are alive, and waiting."""

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
from ray._private.state import state as gcs  # the public list of actors needs the dashboard
from ray.util import placement_group_table

CPUS = 2
"""CPUs per node, as Ray counts them, whatever the machine has."""
SERVICES = ("node_manager_port", "object_manager_port", "runtime_env_agent_port")
AGENTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
HEALTH = {"health_check_period_ms": 300, "health_check_failure_threshold": 3}
"""A dead node is noticed within 2 s instead of 15; a slow one still has 10 s to answer."""
RAY_SERVICES = (
    "_AutoscalingCoordinatorActor",
    "PlacementGroupCleaner",
    "_StatsActor",
    "ActorLocationTracker",
)
"""Detached actors of Ray Train's and Ray Data's, without resources. They stay for others; the
cleaner of a killed training ends itself where the dashboard runs, which these tests leave out."""


@dataclass
class TwoNodes:
    """The cluster of this process. second: the node without the driver; None if it was killed."""

    cluster: Any
    second: Any

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> None:
        """Add a second node, and wait for its CPUs."""
        self.second = self.cluster.add_node(num_cpus=CPUS, **node_settings())
        wait_until(lambda: ray.cluster_resources().get("CPU") == 2 * CPUS, "the node is not there")

    def kill(self) -> None:
        """Kill the second node with all its processes, not gracefully."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


def assert_nothing_left(within: float = 30) -> None:
    """Wait until no actor of cosup's or Ray Train's exists, and no placement group."""
    wait_until(lambda: not left(), lambda: f"still there: {left()}", within)


def left() -> list[str]:
    """Return the actors and placement groups that still exist."""
    actors = gcs.actor_table(None)
    groups = placement_group_table()
    found = [
        f"actor {a['Name']} {a['ActorClassName']} {a['State']} (pid {a['Pid']})"
        for a in actors.values()
        if a["ActorClassName"] not in RAY_SERVICES and (a["State"] != "DEAD" or runs(a["Pid"]))
    ]
    found += [f"group {g['name']} {g['state']}" for g in groups.values() if g["state"] != "REMOVED"]
    return found


def actor_pids(class_name: str | None = None) -> dict[int, str]:
    """Return {process id: node id} of the actors that are alive."""
    return {
        a["Pid"]: a["Address"]["NodeID"]
        for a in gcs.actor_table(None).values()
        if a["State"] == "ALIVE" and class_name in (None, a["ActorClassName"])
    }


def wait_until(
    true: Callable[[], bool],
    what: str | Callable[[], str],
    within: float = 120,
    every: float = 0.05,
) -> None:
    """Poll until it is true; fail with `what` after `within` seconds."""
    end = time.monotonic() + within
    while not true():
        if time.monotonic() > end:
            pytest.fail(what if isinstance(what, str) else what())
        time.sleep(every)


def runs(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    return state_of(pid) not in ("", "Z")


def state_of(pid: int) -> str:
    """Return the state of the process as Linux names it (T: stopped); empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


# The kernel chooses workers' ports, far above these. Parallel test processes use different ranges.
_candidates = itertools.count(6400 + os.getpid() % 36 * 100)


def free_port() -> int:
    """Return a free port below 10000."""
    for port in _candidates:
        with socket.socket() as probe:
            if port < 10000 and probe.connect_ex(("127.0.0.1", port)):
                return port
        assert port < 10000, "no port is free"
    raise AssertionError


def node_settings() -> dict[str, Any]:
    """Return settings of a node: its own ports, forked workers, no log monitor."""
    ports = {name: free_port() for name in (*SERVICES, *AGENTS)}
    setup = Path(__file__).with_name("forked_worker.py")
    return {**ports, "setup_worker_path": str(setup), "include_log_monitor": False}
