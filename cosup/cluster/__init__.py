"""Run a config on a Ray cluster, and submit jobs to one; the only package that imports Ray."""

from __future__ import annotations  # some actors import this package, so it imports little

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosup.config.schema import Config
    from cosup.remote import Place

__all__ = ["run_with_backend"]


def run_with_backend(
    config: Config, place: str | Path | Place, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Run a config with its backend, in a directory or at a URI; return the content of
    `summary.json`.

    Raise `UserError` for errors of the user, such as a cluster without the resources that are asked
    for (before anything is started), and `RunError` for failures during the run.
    """
    from cosup.remote import Place
    from cosup.runs import check_run, run_config
    from cosup.runs.announce import announce
    from cosup.runs.mirror import mirrored

    place = place if isinstance(place, Place) else Path(place)
    announce(config, place, resume, overwrite)
    where = place.uri if isinstance(place, Place) else str(place)
    if config.execution.backend == "local":
        with mirrored(where, resume=resume, overwrite=overwrite) as directory:
            return run_config(config, directory, resume, overwrite)
    check_run(config, None if isinstance(place, Place) else place, resume, overwrite)
    from cosup.cluster.session import connected
    from cosup.sharded.opening import is_sharded

    with connected(config.execution):
        from cosup.cluster.backend import RayBackend
        from cosup.cluster.storage import RunStorage, check_shared

        sharded = is_sharded(config.data)
        if sharded or config.student.mode == "finetune":
            check_shared(where)
        with (
            RayBackend(config.execution, RunStorage.of(where), sharded) as backend,
            mirrored(where, resume=resume, overwrite=overwrite, sharded=sharded) as directory,
        ):
            return run_config(config, directory, resume, overwrite, backend)
