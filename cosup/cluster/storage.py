"""Where the workers of a run keep its checkpoints: in the folder of the run, or below its URI."""

import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cosup.errors import UserError
from cosup.files import TEMPORARY
from cosup.remote import is_uri, join
from cosup.runs.staging import staging_folder
from cosup.words import plural

__all__ = ["RunStorage", "check_shared"]


@dataclass(frozen=True, repr=False)
class RunStorage:
    """The storage of a run that is written in a folder of this machine, and perhaps to a URI.

    folder: the run's folder, or its staging folder. uri: the run's URI, or "" without one.
    """

    folder: Path
    uri: str = ""

    @classmethod
    def of(cls, place: str) -> "RunStorage":
        """Return the storage of the run at a path or URI."""
        return cls(staging_folder(place), place) if is_uri(place) else cls(Path(place).absolute())

    def uri_of(self, path: Path) -> str:
        """Return the URI at which workers find what belongs to a path of this machine."""
        path = path.absolute()
        if self.uri and path.is_relative_to(self.folder):
            return join(self.uri, *path.relative_to(self.folder).parts)
        return join("file:///", *path.parts[1:])


def check_shared(place: str) -> None:
    """Raise `UserError` if some node of the cluster does not see the folder of a run.

    place: the run's path or URI. The workers write states of trainings there, from which workers on
    other nodes continue.
    """
    if is_uri(place):
        return
    folder = Path(place).absolute()
    while not folder.exists():
        folder = folder.parent
    others = _other_nodes()
    probe = folder / f".{uuid.uuid4().hex}{TEMPORARY}"
    try:
        probe.touch()
        blind = [node for node, sees in zip(others, _see(probe, others), strict=True) if not sees]
    except OSError:
        return  # the run itself will say what is wrong with its folder
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    if blind:
        verb = "does" if len(blind) == 1 else "do"
        raise UserError(
            f"{plural(len(blind), 'node')} of the cluster {verb} not see this folder, in which the "
            f"states of trainings are kept: {', '.join(blind)}",
            key="run.output",
            value=place,
            allowed="a folder that all nodes share, or a URI such as s3://bucket/runs",
        )


def _other_nodes() -> list[str]:
    """Return the ids of the nodes that are alive, but for this one."""
    here = ray.get_runtime_context().get_node_id()
    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["NodeID"] for node in nodes if node["Alive"] and node["NodeID"] != here]


def _see(path: Path, nodes: Sequence[str]) -> list[bool]:
    """Return whether each node sees a path."""
    task: Any = ray.remote(os.path.exists)
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    asked = [
        task.options(num_cpus=0, scheduling_strategy=there).remote(str(path)) for there in places
    ]
    return [bool(seen) for seen in ray.get(asked)]
