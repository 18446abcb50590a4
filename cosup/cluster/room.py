"""The processes of a run on a Ray cluster: how many there are, what each reserves, and whether the
cluster has room for them."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from cosup.cluster.session import Node, describe_nodes, find_nodes
from cosup.config.schema import MOST_ACTORS, ActorRange, CPUs, GPUs, ShardActorsSection
from cosup.errors import UserError

__all__ = [
    "WHOLE",
    "Allocation",
    "Share",
    "allocate",
    "cpus_per_process",
    "forget_wishes",
    "gpus_per_process",
    "wait_for_room",
]

log = logging.getLogger(__name__)

ASK_SECONDS = 2.0
"""Time between two looks at the nodes while they are waited for."""


@dataclass(frozen=True)
class Share:
    """One of equal shares of a cluster, that number `number` of `of`.

    runs: how many use the cluster at once; a run among others waits for places that they hold.
    """

    number: int = 0
    of: int = 1
    runs: int = 1

    def part(self, count: int) -> int:
        """Return the share of a number; all shares together have all of it."""
        return count * (self.number + 1) // self.of - count * self.number // self.of


WHOLE = Share()


@dataclass(frozen=True)
class Allocation:
    """The number of processes of one kind, and what each reserves.

    least: the number that must have a place before they start; None: all. grows: more are started
    as the cluster has room for them. share: of the cluster, which they may use.
    """

    count: int
    num_cpus: float
    num_gpus: float
    least: int | None = None
    grows: bool = False
    share: Share = WHOLE

    @property
    def device(self) -> str:
        """The device that they compute on: a GPU if they reserve one."""
        return "cuda" if self.num_gpus > 0 else "cpu"

    @property
    def needed(self) -> int:
        """The number that must have a place before they start."""
        return self.count if self.least is None else self.least

    @property
    def decoding_threads(self) -> int:
        """The number of threads that decode images in each."""
        return max(1, int(self.num_cpus))

    def room(self, nodes: Sequence[Node]) -> int:
        """Return how many of them fit on the nodes, within the share."""
        return self.share.part(sum(node.fits(self.num_cpus, self.num_gpus) for node in nodes))

    def waits(self, nodes: Sequence[Node]) -> bool:
        """Return whether there is room that other runs may hold, so that it is waited for."""
        return self.share.runs > 1 and self.needed <= self.room(nodes)

    def __str__(self) -> str:
        return f"{self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs"


def allocate(
    section: ShardActorsSection, nodes: Sequence[Node], gpus: float, share: Share = WHOLE
) -> Allocation:
    """Return the section's number of actors, or as many as fit, each with `gpus` GPUs."""
    asked, cpus = section.actors, cpus_per_process(section.num_cpus, gpus, nodes)
    if isinstance(asked, ActorRange):
        most = max(asked.min, share.part(asked.max))
        return Allocation(most, cpus, gpus, least=asked.min, share=share)
    if asked != "auto":
        return Allocation(asked, cpus, gpus, share=share)
    one = Allocation(1, cpus, gpus, least=1, grows=True, share=share)
    return replace(one, count=max(1, min(one.room(nodes), MOST_ACTORS)))


def cpus_per_process(asked: CPUs, gpus: float, nodes: Sequence[Node]) -> float:
    """Return the CPUs per process that reserves `gpus`: as configured, or for `auto` 1 without a
    GPU, else its share of the node with the fewest CPUs per GPU, in whole CPUs and at least 1."""
    if asked != "auto":
        return asked
    if not gpus:
        return 1.0
    shares = (node.cpus / node.gpus * gpus for node in nodes if node.fits(0, gpus))
    return float(max(1, math.floor(min(shares, default=1.0) + 1e-6)))


def gpus_per_process(asked: GPUs, device: str, nodes: Sequence[Node], fraction: float) -> float:
    """Return the GPUs per process: as configured, or for `auto` the fraction, if `device`
    (`execution.device`) is `cuda`, or is `auto` and the cluster has GPUs.

    Raise `UserError` for GPUs that the device contradicts.
    """
    if asked != "auto":
        if (asked > 0) != (device == "cuda") and device != "auto":
            allowed = "0 with execution.device cpu, more with cuda"
            raise UserError("must be {allowed}", key="num_gpus", value=asked, allowed=allowed)
        return asked
    if device == "auto":
        return fraction if any(node.gpus for node in nodes) else 0.0
    return fraction if device == "cuda" else 0.0


def wait_for_room(
    wanted: Mapping[str, Allocation], seconds: float, look: Callable[[], list[Node]] = find_nodes
) -> bool:
    """Wait up to `seconds` until the needed processes of each kind fit on the cluster.

    wanted: by setting; only one kind runs at a time. The autoscaler is asked for what is missing;
    returns whether it was, so that `forget_wishes` has to follow.

    Raise `UserError`, with the setting as its key, if they do not fit by then.
    """
    end, asked = time.monotonic() + seconds, False
    while (lack := _lacking(wanted, nodes := look())) is not None:
        if time.monotonic() >= end:
            raise _no_room(*lack, nodes)
        if not asked:
            error, asked = _no_room(*lack, nodes), True
            log.info("%s; waiting up to %g s for nodes (execution.wait_for_nodes)", error, seconds)
            _ask_autoscaler(wanted.values())
        time.sleep(min(ASK_SECONDS, max(0.0, end - time.monotonic())))
    return asked


def _lacking(
    wanted: Mapping[str, Allocation], nodes: Sequence[Node]
) -> tuple[str, Allocation] | None:
    """Return the first kind that does not fit, with its setting."""
    found = ((key, kind) for key, kind in wanted.items() if kind.needed > kind.room(nodes))
    return next(found, None)


def _no_room(setting: str, wanted: Allocation, nodes: Sequence[Node]) -> UserError:
    count = wanted.needed
    return UserError(
        f"{count} {'process' if count == 1 else 'processes'} of {wanted} each "
        f"{'is' if count == 1 else 'are'} asked for; the cluster has room for {wanted.room(nodes)} "
        f"({describe_nodes(nodes)})",
        key=setting,
    )


def forget_wishes() -> None:
    """Let the autoscaler end the nodes that it was asked for."""
    from ray.autoscaler.sdk import request_resources

    with suppress(Exception):
        request_resources(bundles=[])


def _ask_autoscaler(wanted: Iterable[Allocation]) -> None:
    """Ask the autoscaler for nodes on which the largest of these kinds has room, until the
    connection ends. A cluster without one ignores it."""
    from ray.autoscaler.sdk import request_resources

    largest = max(wanted, key=lambda one: (one.needed * one.num_gpus, one.needed * one.num_cpus))
    bundle = {"CPU": largest.num_cpus, "GPU": largest.num_gpus}
    bundles = [{name: amount for name, amount in bundle.items() if amount}] * largest.needed
    with suppress(Exception):  # a wish; what does not come is reported at the end of the wait
        request_resources(bundles=bundles)
