"""Runs: an experiment from its config to its summary, resumable. Import from the files: torch,
timm and pandas are slow to load."""

from pathlib import Path
from typing import Any

from rich.console import RenderableType

from cosup.config.schema import Config


def run_config(
    config: Config, directory: Path, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Run a config, once or for each of `run.seeds` and of `rounds.losses`; the content of
    `summary.json`."""
    from cosup.runs.ablation import run_ablation
    from cosup.runs.pipeline import run_one
    from cosup.runs.repeat import run_seeds

    if config.rounds.losses is not None:
        return run_ablation(config, directory, resume=resume, overwrite=overwrite)
    run = run_one if config.run.seeds is None else run_seeds
    return run(config, directory, resume=resume, overwrite=overwrite)


def describe_run(summary: dict[str, Any], directory: Path) -> RenderableType:
    """What a finished run prints."""
    from cosup.runs.ablation_table import ablation_table
    from cosup.runs.table import summary_table

    if "losses" in summary:
        return ablation_table(summary, directory)
    return summary_table(summary, directory)


def plan_config(config: Config) -> RenderableType:
    """What a run would do, as a table."""
    from cosup.runs.plan import plan

    return plan(config)
