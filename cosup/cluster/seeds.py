"""Seeds of a run side by side on one cluster, each in a process of this machine that joins it.

Each has a share of the cluster for its actors and trainings, so that none waits for another. They
may still find places taken where processes of different sizes share nodes; then they wait.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from cosup.cluster.room import Allocation, Share
from cosup.cluster.session import Node, connected
from cosup.cluster.storage import RunStorage
from cosup.config.schema import Config
from cosup.runs.side_by_side import SeedRun, processes_for
from cosup.sharded.opening import is_sharded

__all__ = ["SeedRunOnCluster", "places_on_cluster"]

ADDRESS, SHARE = "RAY_ADDRESS", "COSUP_SHARE"
"""Environment variables of a seed's process: the cluster, and the share of it, as in `2/5`."""
SAME_ENVIRONMENT = {"RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
"""Lets a seed's process give the runtime environment of its parent, also in a job of Ray's, whose
own it has as well. Ray refuses two with a setting in common otherwise, also if they agree."""


@dataclass(frozen=True)
class SeedRunOnCluster(SeedRun):
    """The run of one seed on the cluster of its parent.

    storage: of the run of all seeds. runtime_env: of the parent's connection to the cluster.
    """

    storage: RunStorage = field(kw_only=True)
    runtime_env: Mapping[str, Any] = field(kw_only=True)

    @classmethod
    def of(cls, run: SeedRun, storage: RunStorage, runtime_env: Mapping[str, Any]) -> Self:
        """Return a run as one on the cluster."""
        given = {one.name: getattr(run, one.name) for one in fields(run)}
        return cls(**given, storage=storage, runtime_env=runtime_env)

    def compute(self) -> None:
        """Run it in this process. Raises as `run_single`, and `UserError` for a cluster without
        room or that does not answer."""
        from cosup.cluster.backend import RayBackend
        from cosup.runs.single import run_single

        number, of = map(int, os.environ[SHARE].split("/"))
        share, sharded = Share(number, of, runs=of), is_sharded(self.config.data)
        shares = dict.fromkeys(_shared(self.config), share)
        # Others wait for the features of a head, or find them: the cluster is theirs.
        shares.setdefault("features", Share(runs=of))
        with (
            connected(self.config.execution, self.runtime_env),
            RayBackend(self.config.execution, self.storage, sharded, shares) as backend,
        ):
            run_single(
                self.config,
                self.directory,
                resume=self.resume,
                overwrite=self.overwrite,
                shared=self.shared,
                backend=backend,
                others=self.others,
            )


def places_on_cluster(
    config: Config,
    count: int,
    address: str,
    nodes: Sequence[Node],
    allocations: Mapping[str, Allocation],
) -> list[dict[str, str]]:
    """Return the environment of each process that may run at once: at most `count`.

    As many as this machine has cores and memory for, and the cluster room for what each needs.
    address, nodes: of the cluster. allocations: of the whole of it, by kind of processes.
    """
    kinds = [allocations[name] for name in _shared(config)]
    room = min(kind.room(nodes) // kind.needed for kind in kinds)
    most = min(count, room, processes_for(config.execution))
    if most < 2:
        return [{}]
    same = {ADDRESS: address, **SAME_ENVIRONMENT}
    return [{**same, SHARE: f"{number}/{most}"} for number in range(most)]


def _shared(config: Config) -> tuple[str, ...]:
    """Return the kinds of processes of which each seed has a share."""
    shards = ("shards",) if is_sharded(config.data) else ()
    networks = ("features", "student") if config.student.mode == "finetune" else ()
    return ("teachers", *shards, *networks)
