"""What can be compared: finished runs, paired by seed where they are over seeds.

An entry of a comparison is a run, or the runs of one config over several seeds. Runs are paired on
the same test samples, seed with seed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import Codes
from cosup.analysis.records import Run, load_run, runs_inside
from cosup.config import settings
from cosup.errors import UserError
from cosup.layout import Layout
from cosup.origins import folders_in, shown
from cosup.remote_copy import folder_of

__all__ = ["Entry", "Paired", "entries_in", "labels", "order_of", "pair_seeds"]

EXPECTED = "the directories of at least two finished runs"
SEED = "run.seed"


@dataclass(frozen=True)
class Entry:
    """A run, or the runs of one config over several seeds.

    path: the directory that was given, or one below it. runs: in the order of their seeds.
    over_seeds: whether the runs are paired with others by their seed.
    """

    path: Path
    runs: tuple[Run, ...]
    over_seeds: bool = False

    @property
    def by_seed(self) -> dict[int, Run]:
        """The runs by seed."""
        return {int(run.config["run"]["seed"]): run for run in self.runs}


@dataclass(frozen=True)
class Paired:
    """The runs of K entries, paired by seed.

    seeds: [S] those that all entries have; None for the one pair of runs that are not over seeds.
    runs: [S][K]. left_out: the seeds that not all have, by the label of the entry that has them.
    """

    seeds: list[int] | None
    runs: list[list[Run]]
    left_out: Mapping[str, list[int]] = field(default_factory=dict)


def entries_in(places: Sequence[str | Path]) -> list[Entry]:
    """Return the entries in these directories, or at these URIs.

    A run, and a run over seeds (`run.seeds`), is one entry; a run over losses (`rounds.losses`) is
    an entry per loss. Any other folder of runs is an entry per run; but beside other places, runs
    in it that differ in nothing but their seed are one entry.

    Raises `UserError` for a path that is not a run, and for seeds that are not finished.
    """
    return [entry for place in places for entry in _entries(folder_of(place), len(places) == 1)]


def _entries(path: Path, alone: bool) -> list[Entry]:
    if Layout(path).has_records() or not runs_inside(path):
        return [Entry(path, (load_run(path),))]
    if Layout(path).is_run():
        tree = Layout(path).config.read()
        if tree.get("rounds", {}).get("losses"):
            return [one for part in _parts(path) for one in _entries(part, alone=False)]
        return [_over_seeds(path, tree)]
    parts = _parts(path)
    runs = [load_run(part) for part in parts if Layout(part).has_records()]
    if not alone and len(runs) == len(parts) and _is_seeds_alone(runs):
        return [_sorted(path, runs)]
    return [one for part in parts for one in _entries(part, alone=False)]


def _parts(path: Path) -> list[Path]:
    """Return the runs right below a folder, whole or over seeds; else the folders with runs."""
    inside = folders_in(path)
    runs = [part for part in inside if Layout(part).is_run()]
    return [part for part in runs or inside if Layout(part).has_records() or runs_inside(part)]


def _over_seeds(path: Path, tree: Mapping[str, Any]) -> Entry:
    """Return the entry of a run over seeds, all of which must be there."""
    files = Layout(path)
    seeds = tree["run"]["seeds"] or []
    absent = [seed for seed in seeds if not files.of_seed(seed).has_records()]
    if absent:
        which = f"{words.noun(len(absent), 'seed')} {words.listed(absent)}"
        raise UserError(
            f"the run is not finished: no {which}; resume it with `cosup run ... --resume`",
            where=str(path),
        )
    return _sorted(path, [load_run(files.of_seed(seed).path) for seed in seeds])


def _sorted(path: Path, runs: Sequence[Run]) -> Entry:
    return Entry(path, tuple(sorted(runs, key=lambda run: int(run.config["run"]["seed"]))), True)


def _is_seeds_alone(runs: Sequence[Run]) -> bool:
    """Return whether several runs differ in nothing but their seed."""
    columns = [settings(run.files.config.read()) for run in runs]
    seeds = {column.pop(SEED, None) for column in columns}
    return len(seeds) == len(runs) > 1 and all(column == columns[0] for column in columns)


def labels(entries: Sequence[Entry]) -> list[str]:
    """Return a unique label of each entry: its directory, with parent folders if necessary.

    Raises `UserError` if a run is given twice.
    """
    paths = [_parts_of(entry.path) for entry in entries]
    _check_once(entries)
    for depth in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return []


def _parts_of(path: Path) -> list[str]:
    """Return the names that lead to a run, its own last."""
    place = shown(path)
    if place == str(path):
        return list(path.resolve().parts)
    return place.partition("?")[0].split("/")


def _check_once(entries: Sequence[Entry]) -> None:
    seen = set()
    for run in [run for entry in entries for run in entry.runs]:
        if run.path.resolve() in seen:
            raise UserError("the run is given twice", where=str(run.path), allowed=EXPECTED)
        seen.add(run.path.resolve())


def pair_seeds(entries: Sequence[Entry]) -> Paired:
    """Pair the runs of the entries by seed; runs that are not over seeds are paired as they are.

    Raises `UserError` for fewer than two entries, a run that is given twice, one that is not
    finished, and entries without a seed in common.
    """
    if len(entries) < 2:
        several = " over seeds" if entries and entries[0].over_seeds else ""
        raise UserError(
            f"{words.plural(len(entries), 'run')}{several} to compare", allowed=EXPECTED
        )
    names = labels(entries)
    for run in [run for entry in entries for run in entry.runs]:
        _check_finished(run)
    if not any(entry.over_seeds for entry in entries):
        return Paired(None, [[entry.runs[0] for entry in entries]])
    found = [entry.by_seed for entry in entries]
    common = [seed for seed in found[0] if all(seed in one for one in found)]
    if not common:
        have = "; ".join(
            f"{name} has {words.listed(one)}" for name, one in zip(names, found, strict=True)
        )
        raise UserError(
            f"they have no seed in common: {have}; runs are paired seed with seed",
            where=f"runs {words.listed(names)}",
        )
    alone = {
        name: [seed for seed in one if seed not in common]
        for name, one in zip(names, found, strict=True)
    }
    return Paired(
        common,
        [[one[seed] for one in found] for seed in common],
        {name: seeds for name, seeds in alone.items() if seeds},
    )


def _check_finished(run: Run) -> None:
    if run.finished and not run.missing:
        return
    missing = f"no {words.listed(run.missing)}"
    if run.finished:
        problem = f"the records are incomplete: {missing}; run it again"
    else:
        problem = f"the run is not finished: {missing}; resume it with `cosup run ... --resume`"
    raise UserError(problem, where=str(run.path))


def order_of(first: Run, other: Run, names: tuple[str, str]) -> Codes:
    """Return [M] the indices of the other run's test samples in the order of the first run.

    Raises `UserError`, in which the runs have these names, if their test samples differ, or the
    true answers to them.
    """
    one, two = _answers(first), _answers(other)
    if one.index.equals(two.index):
        order = np.arange(len(two))
    elif one.index.is_unique and two.index.is_unique and set(one.index) == set(two.index):
        order = pd.Series(np.arange(len(two)), index=two.index)[one.index].to_numpy()
    else:
        raise _different(first, other, names, _difference(one.index, two.index, names))
    changed = int((one.to_numpy() != two.to_numpy()[order]).sum())
    if changed:
        text = f"the true labels of {changed} of {len(one)} differ"
        raise _different(first, other, names, text)
    return order


def _answers(run: Run) -> "pd.Series[str]":
    """Return the true answers to the test samples, by sample."""
    ids = run.test["sample_id"].astype(str)
    return pd.Series(run.test["answer"].astype(str).to_numpy(), index=ids)


def _difference(one: "pd.Index[str]", two: "pd.Index[str]", names: tuple[str, str]) -> str:
    if not len(one) or not len(two):
        with_some, none = names if len(one) else names[::-1]
        return f"{with_some} has {len(one) + len(two)}, and {none} has none"
    only_one, only_two = int((~one.isin(two)).sum()), int((~two.isin(one)).sum())
    if not only_one and not only_two:
        return f"the same samples ({len(one)} and {len(two)}) occur in another number or order"
    return f"{only_one} of {len(one)} are not in {names[1]}, which has {only_two} others"


def _different(first: Run, other: Run, names: tuple[str, str], how: str) -> UserError:
    """Return the error for runs with different test samples, with the settings that differ."""
    one, two = (settings(run.config) for run in (first, other))
    keys = [
        f"{key} {_json(one.get(key))} and {_json(two.get(key))}"
        for key in dict.fromkeys([*one, *two])
        if (key == SEED or key.startswith("data.")) and one.get(key) != two.get(key)
    ]
    because = f" ({'; '.join(keys[:3])})" if keys else ""
    return UserError(
        f"their test samples differ: {how}{because}; compare runs with the same data, splits and "
        "seed",
        where=f"runs {names[0]} and {names[1]}",
    )


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
