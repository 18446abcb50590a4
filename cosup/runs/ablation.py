"""Run a config with several losses (`rounds.losses`), and compare them in pairs.

Every loss is run on the same seeds, in `DIRECTORY/LOSS` (`DIRECTORY/LOSS/seed-K` with `run.seeds`),
each as a complete run. What does not depend on the loss is computed once per seed, by the first
loss, and taken over by the others (`cosup.runs.losses`).
"""

import logging
from pathlib import Path
from typing import Any

from cosup.config import config_hash
from cosup.config.schema import Config
from cosup.layout import Layout
from cosup.runs.backend import Backend
from cosup.runs.directory import RunDirectory
from cosup.runs.losses import loss_names, with_loss
from cosup.runs.paired import compare_pairs, load_correct
from cosup.runs.repeat import run_seeds
from cosup.runs.single import run_single
from cosup.seeds import seed_for

log = logging.getLogger(__name__)


def run_ablation(
    config: Config,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    backend: Backend | None = None,
) -> dict[str, Any]:
    """Run every loss of `rounds.losses` on every seed. Return the content of `summary.json`.

    The content is `{"run", "status", "seed": [...], "config_hash", "losses": {name: summary},
    "paired": [...]}`; a summary is over seeds if there are several, pairs are those of
    `cosup.runs.paired.compare_seeds`.
    Raises as `run_one`.
    """
    assert config.rounds.losses is not None
    names = loss_names(config.rounds.losses)
    seeds = config.run.seeds or [config.run.seed]
    with RunDirectory.open(directory, config, resume=resume, overwrite=overwrite) as run:
        losses = {}
        for name, choice in zip(names, config.rounds.losses, strict=True):
            log.info("loss %s", name)
            first = run.files.of_loss(names[0]).path
            losses[name] = (run_single if config.run.seeds is None else run_seeds)(
                with_loss(config, choice),
                run.files.of_loss(name).path,
                resume=run.resumed,
                shared=None if name == names[0] else first,
                backend=backend,
            )
        correct = {
            name: [load_correct(path) for path in _folders(run.files.of_loss(name).path, config)]
            for name in names
        }
        summary = {
            "run": config.run.name,
            "status": "finished",
            "seed": list(seeds),
            "config_hash": config_hash(config),
            "losses": losses,
            "paired": compare_pairs(correct, seed_for(seeds[0], "bootstrap")),
        }
        run.files.summary.write(summary)
        return summary


def _folders(directory: Path, config: Config) -> list[Path]:
    """Return the directories of a loss's runs, one per seed."""
    if config.run.seeds is None:
        return [directory]
    return [Layout(directory).of_seed(seed).path for seed in config.run.seeds]
