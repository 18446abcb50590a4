"""Run a config with its one seed: its samples listed, or shard by shard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosup.config.schema import Config
from cosup.runs.backend import Backend
from cosup.runs.pipeline import run_one
from cosup.runs.sharded import run_sharded
from cosup.sharded.opening import is_sharded

__all__ = ["run_single"]


def run_single(
    config: Config,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    shared: Path | None = None,
    backend: Backend | None = None,
    others: Sequence[Path] = (),
) -> dict[str, Any]:
    """Run a config by `run_one` or `run_sharded`.

    others: as in `run_sharded`; runs that list their samples share features by the cache.
    """
    if is_sharded(config.data):
        return run_sharded(
            config,
            directory,
            resume=resume,
            overwrite=overwrite,
            shared=shared,
            backend=backend,
            others=others,
        )
    return run_one(
        config, directory, resume=resume, overwrite=overwrite, shared=shared, backend=backend
    )
