"""The connection of a run to a Ray cluster, and the nodes of the cluster."""

import logging
import os
import signal
import socket
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from cosup.cluster.local_cluster import MODE, private_session
from cosup.config.schema import ExecutionSection
from cosup.errors import UserError, in_short
from cosup.words import plural

__all__ = [
    "Closeable",
    "Node",
    "connected",
    "describe_nodes",
    "find_nodes",
    "free_resources",
    "is_alive",
    "joins",
]


log = logging.getLogger(__name__)

ACCEPT_SECONDS = 10.0
"""Time that a cluster's server has to accept a connection."""


@dataclass(frozen=True)
class Node:
    """The total resources of a node."""

    cpus: float
    gpus: float

    def fits(self, cpus: float, gpus: float) -> int:
        """Return how many processes that reserve this fit on the node."""
        counts = [
            (total + 1e-6) // reserved
            for total, reserved in ((self.cpus, cpus), (self.gpus, gpus))
            if reserved > 0
        ]
        return int(min(counts, default=0))


NO_SETTINGS: Mapping[str, Any] = {}


@contextmanager
def connected(
    execution: ExecutionSection, runtime_env: Mapping[str, Any] = NO_SETTINGS
) -> Iterator[list[Node]]:
    """Connect to the cluster that the section names; yield its nodes.

    An existing connection of this process is used and kept. A cluster that is started here ends
    with the context. Enter it before Ray is imported (see `local_cluster`). runtime_env: Ray's
    runtime environment of a new connection. Raise `UserError` if no cluster answers at the address.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield find_nodes()
        return
    handler = signal.getsignal(signal.SIGTERM)
    with nullcontext() if joins(execution) else private_session():
        import ray

        try:
            _connect(execution.address, runtime_env)
            with suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGTERM, handler)  # Ray's handler exits without a clean-up
            nodes = find_nodes()
            log.info("Ray: %s", describe_nodes(nodes))
            yield nodes
        finally:
            ray.shutdown()


def joins(execution: ExecutionSection) -> bool:
    """Return whether the run joins a cluster, which may grow; else one is started for it."""
    return bool(execution.address or os.environ.get("RAY_ADDRESS"))


def _connect(address: str | None, runtime_env: Mapping[str, Any]) -> None:
    import ray

    for name in ("ray", "ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)
    settings: Any = {"log_to_driver": False, "logging_level": "warning"}
    if runtime_env:
        settings["runtime_env"] = dict(runtime_env)
    wanted = address or os.environ.get("RAY_ADDRESS")
    if wanted is None:
        ray.init("local", include_dashboard=False, **settings)
        return
    setting = "execution.address" if address else "RAY_ADDRESS"
    _check_listens(setting, wanted)
    try:
        ray.init(wanted, **settings)
    except Exception as error:  # Ray raises many types of errors for wrong addresses
        hint = "" if os.environ.get(MODE) else f"; for one that demands a token, set {MODE}=token"
        problem = f"no Ray cluster answers there ({in_short(error)}){hint}"
        raise UserError(problem, key=setting, value=wanted) from error


def _check_listens(setting: str, address: str) -> None:
    """Raise `UserError` if nothing listens at host:port; Ray itself tries for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # auto, local
    try:
        socket.create_connection((host.strip("[]"), int(port)), ACCEPT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"nothing answers there ({in_short(error)})", key=setting, value=address
        ) from None


def find_nodes() -> list[Node]:
    """Return the nodes that are alive."""
    import ray

    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    found = [node["Resources"] for node in nodes if node["Alive"]]
    return [Node(float(has.get("CPU", 0)), float(has.get("GPU", 0))) for has in found]


def is_alive(node: str | None) -> bool:
    """Return whether the cluster considers a node (its id) alive; True for None."""
    import ray

    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    return node is None or any(n["NodeID"] == node and n["Alive"] for n in nodes)


def free_resources() -> str:
    """Return the resources that are not reserved, in words."""
    import ray

    found: Any = ray.available_resources()  # type: ignore[no-untyped-call]
    return f"{found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs"


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Return the nodes in words: `2 nodes of 8 CPUs and 1 GPUs`."""
    kinds = {node: nodes.count(node) for node in nodes}
    words = "; ".join(
        f"{plural(count, 'node')} of {node.cpus:g} CPUs and {node.gpus:g} GPUs"
        for node, count in kinds.items()
    )
    return words or "no node"


class Closeable(AbstractContextManager[Any]):
    """Base of objects with a `close` method; leaving their context closes them."""

    @abstractmethod
    def close(self) -> None:
        """End the object; a second call does nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
