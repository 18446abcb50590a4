"""The first line about a run, which is there before anything slow is imported."""

import logging
from importlib.metadata import version
from pathlib import Path

from cosup.config import Config, config_hash
from cosup.errors import UserError
from cosup.remote import Place
from cosup.runs.directory import check_directory
from cosup.words import noun

__all__ = ["announce", "announce_in_log", "first_line"]

log = logging.getLogger(__name__)


def announce(config: Config, place: Path | Place, resume: bool, overwrite: bool) -> None:
    """Log the first line about a run, unless it cannot be written there: that mistake is then
    reported with all others."""
    if isinstance(place, Path):
        try:
            check_directory(place, config, resume, overwrite)
        except UserError:
            return
    log.info("%s", first_line(config, place))


def announce_in_log(config: Config, place: Path) -> None:
    """Write the first line about a run into its `log.txt`; the console has it already."""
    log.info("%s", first_line(config, place), extra={"quiet": True})


def first_line(config: Config, place: Path | Place) -> str:
    """Return the version, the config, where the run is written, its device and its seeds.

    The device is as in the config; what `auto` is on this machine, torch knows.
    """
    run, execution = config.run, config.execution
    seeds = run.seeds or [run.seed]
    backend = "" if execution.backend == "local" else f" on {execution.backend}"
    return (
        f"cosup {version('cosup')}: {run.name} (config {config_hash(config)[:8]}) in {place}"
        f"{backend}, device {execution.device}, "
        f"{noun(len(seeds), 'seed')} {', '.join(map(str, seeds))}"
    )
