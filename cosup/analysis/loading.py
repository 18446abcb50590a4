"""Finding the run in a directory."""

from pathlib import Path

from cosup.analysis.records import Run
from cosup.errors import UserError
from cosup.files import MARKER

__all__ = ["load_run", "runs_inside"]

SHOWN = 20
"""Runs that a message names before "and N more"."""


def load_run(path: str | Path) -> Run:
    """The records of the run in a directory, finished or not.

    Raises `UserError` for what is no run's directory, and for one that holds several runs (over
    seeds, or losses): it names them.
    """
    path = Path(path)
    if (path / MARKER).is_file() and (path / "stages").is_dir():
        return Run(path)
    inside = runs_inside(path)
    if inside:
        names = ", ".join(str(run.relative_to(path)) for run in inside[:SHOWN])
        more = f" and {len(inside) - SHOWN} more" if len(inside) > SHOWN else ""
        raise UserError(f"{path}: holds several runs; give one of them: {names}{more}")
    if (path / MARKER).is_file():
        raise UserError(f"{path}: the run has not finished anything yet")
    there = "there is no such directory" if not path.exists() else "not a run's directory"
    raise UserError(
        f"{path}: {there}; a run's holds config.yaml, samples.parquet, decisions/ and summary.json "
        "(`cosup run CONFIG` makes it)"
    )


def runs_inside(path: Path) -> list[Path]:
    """The directories of runs up to two levels below this one: of seeds, of losses, of a folder of
    runs."""
    found = [marker.parent for depth in ("*", "*/*") for marker in path.glob(f"{depth}/{MARKER}")]
    return sorted(run for run in found if (run / "stages").is_dir())
