"""The results of the runs in a folder or at a URI, for `cosup ls runs`: no more of a run is read
than its summary."""

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.errors import RunError, UserError
from cosup.layout import Layout
from cosup.remote import Place, folders, get, is_uri, join

__all__ = ["RunResults", "results_in"]

KEY = "SECTION"
"""The argument of `cosup ls` with the place."""
THREADS = 8
"""Runs at a URI that are read at once."""


@dataclass(frozen=True)
class RunResults:
    """What a run has reached. place: its directory or URI, to be printed. facts: plain values."""

    place: str
    facts: Mapping[str, Any]

    def in_words(self) -> str:
        """Return the facts in one line."""
        status = str(self.facts["status"])
        if "accuracy_by_loss" in self.facts:
            reached = self.facts["accuracy_by_loss"].items()
            each = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in reached)
            return f"{status}, student by loss: {each}"
        if self.facts.get("accuracy") is None:
            return status
        pgr = "" if self.facts["pgr"] is None else f", PGR {self.facts['pgr']:.3f}"
        shifted = self.facts.get("accuracy_on_shifted", {}).items()
        others = "".join(f", on {name} {accuracy:.3f}" for name, accuracy in shifted)
        return f"{status}, student {self.facts['accuracy']:.3f}{pgr}{others}"


def results_in(place: str) -> list[RunResults]:
    """Return the results of the runs right below a folder or a URI, sorted by name.

    Raises `UserError` for what is no folder and for a URI that cannot be used, and `RunError` for
    one that cannot be read.
    """
    if is_uri(place):
        try:
            return _results_at(place)
        except UserError as error:
            raise error.at((KEY,)) from error
    path = Path(place).expanduser()
    if not path.is_dir():
        raise UserError("no such directory", key=KEY, value=place)
    found = (_results(folder, folder) for folder in sorted(path.iterdir()))
    return [one for one in found if one is not None]


def _results_at(uri: str) -> list[RunResults]:
    """Copy marker, manifest and summary of each folder at a URI, to read them as those of a run."""
    with tempfile.TemporaryDirectory() as here, ThreadPoolExecutor(THREADS) as threads:

        def read(name: str) -> RunResults | None:
            files = Layout(Path(here, name))
            for file in (files.marker, files.manifest, files.summary):
                get(join(uri, name, file.path.name), file.path)
            return _results(files.path, Place(join(uri, name)))

        found = list(threads.map(read, folders(uri)))
    return [one for one in found if one is not None]


def _results(folder: Path, place: object) -> RunResults | None:
    """Return the results of the run in a folder, called as its place; None if it is no run's."""
    files = Layout(folder)
    return RunResults(str(place), _facts(files)) if files.is_run() else None


def _facts(files: Layout) -> dict[str, Any]:
    """Return a run's status, the student's accuracy (by loss), and its PGR if it is certain."""
    try:
        summary = files.summary.read()
        if "losses" in summary:
            reached = {name: one["student"]["accuracy"] for name, one in summary["losses"].items()}
            return {"status": summary["status"], "accuracy_by_loss": reached}
        student = summary["student"]
        certain = student.get("pgr_ci95") is not None
        return {
            "status": summary["status"],
            "accuracy": student["accuracy"],
            "pgr": student["pgr"] if certain else None,
            **_shifted(summary),
        }
    except (RunError, KeyError, TypeError):
        return {"status": "not finished"}


def _shifted(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the student's accuracy on each shifted set, if there are any."""
    found = summary.get("shifted", {})
    each = {name: numbers["student"]["accuracy"] for name, numbers in found.items()}
    return {"accuracy_on_shifted": each} if each else {}
