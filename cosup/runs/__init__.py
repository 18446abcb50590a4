"""Runs: an experiment from its config to its summary, resumable. Import from the files: torch,
timm and pandas are slow to load."""

from pathlib import Path
from typing import Any

from rich.console import RenderableType

from cosup.config.schema import Config


def run_config(
    config: Config, directory: Path, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Run a config, once or for each of `run.seeds`; the content of `summary.json`."""
    from cosup.runs.pipeline import run_one
    from cosup.runs.repeat import run_seeds

    run = run_one if config.run.seeds is None else run_seeds
    return run(config, directory, resume=resume, overwrite=overwrite)


def describe_run(summary: dict[str, Any], directory: Path) -> RenderableType:
    """What a finished run prints."""
    from cosup.runs.table import summary_table

    return summary_table(summary, directory)


def plan_config(config: Config) -> RenderableType:
    """What a run would do, as a table."""
    from cosup.runs.plan import plan

    return plan(config)
