"""Tell the state of every file of a run, or of an exported student, and repair a run."""

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.config import Config, read_config
from cosup.errors import UserError
from cosup.layout import FORMAT, Layout
from cosup.layout.folders import is_of_shards
from cosup.manifest import Damaged, Manifest, State
from cosup.origins import has_folder, obtain_below, shown
from cosup.remote import Place
from cosup.remote_copy import folder_of, place_of
from cosup.runs.directory import locked_error
from cosup.runs.lock import Locked, check_unlocked
from cosup.runs.repair import states_of
from cosup.words import listed, plural

__all__ = ["Verified", "own_config", "verify"]


@dataclass(frozen=True)
class Verified:
    """The state of every file in a folder, by its path in it. is_recorded: whether there is a
    manifest, without which nothing can be checked."""

    folder: Path
    states: dict[str, State]
    is_recorded: bool

    @property
    def place(self) -> Path | Place:
        """Where the folder is: its path, or the URI that it was copied from."""
        return place_of(self.folder)

    @property
    def is_whole(self) -> bool:
        """Whether every file is what was recorded."""
        return self.is_recorded and set(self.states.values()) <= {State.WHOLE}

    def lines(self) -> Iterator[str]:
        """Yield a line per file, but for those of shards that are whole, and one that counts all
        of them."""
        for name, state in self.states.items():
            if not (state is State.WHOLE and is_of_shards(name)):  # of these there are many
                yield f"{state:<10}  {name}"
        yield f"{self.place}: {self.result()}"

    def result(self) -> str:
        """Return the state of the whole in a few words."""
        if not self.is_recorded:
            return "made by an earlier version of cosup: nothing tells if its files are whole"
        files = plural(len(self.states), "file")
        shards = Layout(self.folder).shards
        if has_folder(shards) and not any(map(is_of_shards, self.states)):
            files += f" (without those in {shards.name}, which are checked when they are read)"
        if self.is_whole:
            return f"{files}, all whole"
        counts = Counter(state for state in self.states.values() if state is not State.WHOLE)
        return f"{files}, of which {listed(f'{n} {state}' for state, n in counts.items())}"

    def tree(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {
            "path": str(self.place),
            "whole": self.is_whole if self.is_recorded else None,
            "files": {name: str(state) for name, state in self.states.items()},
        }


def verify(place: str) -> Verified:
    """Compare every file of a run, those of its seeds and losses too, or of an exported student,
    with its manifest. From a URI all files are copied.

    Raises `UserError` for another folder, for a run of a newer version of cosup, and for one that
    another process is writing; `Damaged` for a manifest that names a file elsewhere.
    """
    folder = _folder(place)
    files = Layout(folder)
    if not files.is_run():
        return Verified(folder, Manifest(folder).states(), True)
    states, recorded = dict[str, State](), []
    for run in (files, *files.directories_below()):
        _check_unlocked(run)
        recorded.append(_is_recorded(run))
        below = run.path.relative_to(folder)
        own = states_of(run)
        if run.shard_index.exists():
            from cosup.runs.sharded_index import shard_states  # imports torch

            own |= shard_states(run, place_of(run.path))
        states |= {(below / name).as_posix(): state for name, state in own.items()}
    return Verified(folder, states | _absent_seeds(files), all(recorded))


def own_config(found: Verified) -> Config:
    """Return the config of a run, with which it is resumed to make again what is damaged or gone.

    Raises `UserError` if that config is damaged too, or if this is an exported student.
    """
    files = Layout(found.folder)
    if not files.is_run():
        raise UserError(
            "an exported student cannot be repaired; repair the run that it is from, or export it "
            "again",
            where=str(found.folder),
        )
    if found.states.get(files.config.path.name) is not State.WHOLE:
        raise UserError(
            "its config is damaged or gone; repair the run with the config that it was started "
            f"with: cosup run CONFIG --output {shlex.quote(str(found.place))} --resume",
            where=f"run {found.folder}",
        )
    return read_config(str(files.config.path), ()).checked()


def _folder(place: str) -> Path:
    """Return the folder of a run or an exported student. Raises `UserError` for anything else."""
    folder = folder_of(place, anew=True)
    obtain_below(folder, is_of_shards)  # which are read where they are
    if not (Layout(folder).is_run() or Manifest(folder).exists()):
        problem = "neither a run's directory nor an exported student"
        raise UserError(problem if folder.exists() else "no such directory", where=shown(folder))
    return folder


def _check_unlocked(run: Layout) -> None:
    try:
        check_unlocked(run.lock)
    except Locked as error:
        raise locked_error(run.path, error.process) from None


def _is_recorded(run: Layout) -> bool:
    """Return whether a run has a manifest, or must have one by its format.

    Raises `UserError` for the format of a newer version of cosup.
    """
    try:
        return run.manifest.exists() or run.format() == FORMAT
    except Damaged:  # of the marker, as is reported beside the other files
        return True


def _absent_seeds(files: Layout) -> dict[str, State]:
    """Return the markers of seeds that a finished run over seeds has no directory of."""
    if not files.summary.exists():
        return {}
    try:
        seeds = files.summary.read().get("over_seeds") and files.summary.read()["seed"]
    except Damaged:
        return {}
    runs = [files.of_seed(seed) for seed in seeds or ()]
    return {
        run.marker.path.relative_to(files.path).as_posix(): State.MISSING
        for run in runs
        if not run.is_run()
    }
