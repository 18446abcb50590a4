"""A run's connection to a Ray cluster, and whether the cluster has what the run asks for.

Things on a cluster that are ended when they are left, however they are left.
"""

import logging
import os
import signal
import socket
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cosup.config.schema import ActorsSection, ExecutionSection, GPUs
from cosup.errors import UserError
from cosup.words import plural

__all__ = [
    "Closing",
    "Node",
    "Places",
    "check_room",
    "connected",
    "find_nodes",
    "places",
]


log = logging.getLogger(__name__)

MOST_ACTORS = 16
PATIENCE = 10.0
"""Seconds that a cluster's server may take to accept a connection."""


@dataclass(frozen=True)
class Node:
    """What a node of the cluster has in all."""

    cpus: float
    gpus: float

    def holds(self, cpus: float, gpus: float) -> int:
        """How many actors that reserve this fit."""
        counts = [
            (has + 1e-6) // wants
            for has, wants in ((self.cpus, cpus), (self.gpus, gpus))
            if wants > 0
        ]
        return int(min(counts, default=0))


@dataclass(frozen=True)
class Places:
    """How many processes of one kind there will be, and what each reserves."""

    count: int
    num_cpus: float
    num_gpus: float

    @property
    def device(self) -> str:
        """What they compute on: a GPU if they reserve one."""
        return "cuda" if self.num_gpus > 0 else "cpu"


@contextmanager
def connected(execution: ExecutionSection) -> Iterator[list[Node]]:
    """Be connected to the cluster that the section names; the nodes that it has.

    A cluster that this process is connected to already is used, and stays so. One that is started
    here ends with this. Raises `UserError` where no cluster answers at the address.
    """
    import ray

    if ray.is_initialized():
        yield find_nodes()
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _connect(execution.address)
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, handler)  # Ray's own would leave without a clean-up
        nodes = find_nodes()
        log.info("Ray: %s", described(nodes))
        yield nodes
    finally:
        ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    for name in ("ray", "ray.train", "ray.tune", "ray.data", "ray._private"):
        logging.getLogger(name).setLevel(logging.WARNING)
    quiet: Any = {"log_to_driver": False, "logging_level": "warning"}
    wanted = address or os.environ.get("RAY_ADDRESS")
    if wanted is None:
        log.info("Ray: starting a cluster on this machine for this run (see execution.address)")
        ray.init("local", include_dashboard=False, **quiet)
        with suppress(OSError):  # Ray lets everybody read the token that it makes
            (Path.home() / ".ray" / "auth_token").chmod(0o600)
        return
    setting = f"{'execution.address' if address else 'RAY_ADDRESS'}: '{wanted}'"
    _check_listens(setting, wanted)
    try:
        ray.init(wanted, **quiet)
    except Exception as error:  # Ray raises many kinds for an address that is none
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{setting}: no Ray cluster answers there ({text})") from error


def _check_listens(setting: str, address: str) -> None:
    """Raise `UserError` if nothing listens at host:port: Ray itself would try for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # auto, local
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"{setting}: nothing answers there ({error})") from None


def find_nodes() -> list[Node]:
    """The nodes that are alive."""
    import ray

    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    found = [node["Resources"] for node in nodes if node["Alive"]]
    return [Node(float(has.get("CPU", 0)), float(has.get("GPU", 0))) for has in found]


def described(nodes: Sequence[Node]) -> str:
    """The nodes in words."""
    kinds = {node: nodes.count(node) for node in nodes}
    text = "; ".join(
        f"{plural(count, 'node')} of {node.cpus:g} CPUs and {node.gpus:g} GPUs"
        for node, count in kinds.items()
    )
    return text or "no node"


def places(section: ActorsSection, nodes: Sequence[Node], gpus: float) -> Places:
    """How many actors of this kind there are room for (or as many as are asked for), each with
    this share of GPUs (`reserved`)."""
    room = sum(node.holds(section.num_cpus, gpus) for node in nodes)
    count = min(room, MOST_ACTORS) if section.actors == "auto" else section.actors
    return Places(max(1, count), section.num_cpus, gpus)


def reserved(asked: GPUs, device: str, nodes: Sequence[Node], fraction: float) -> float:
    """GPUs per process: as asked for, or this fraction where it is left open, the cluster has GPUs
    and `device` (`execution.device`) is not the CPU."""
    if asked != "auto":
        return asked
    return fraction if device != "cpu" and any(node.gpus for node in nodes) else 0.0


def check_room(setting: str, wanted: Places, nodes: Sequence[Node]) -> None:
    """Raise `UserError` if the cluster has no room for these processes all at once."""
    room = sum(node.holds(wanted.num_cpus, wanted.num_gpus) for node in nodes)
    if wanted.count <= room:
        return
    raise UserError(
        f"{setting}: {plural(wanted.count, 'process')} of "
        f"{wanted.num_cpus:g} CPUs and {wanted.num_gpus:g} GPUs each are asked for; the cluster "
        f"has room for {room} ({described(nodes)})"
    )


class Closing(AbstractContextManager[Any]):
    """Entering gives the thing itself; leaving closes it."""

    @abstractmethod
    def close(self) -> None:
        """End it; again does nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
