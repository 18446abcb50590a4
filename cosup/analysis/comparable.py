"""Checks that runs can be compared: they are finished and have the same test samples."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import Codes
from cosup.analysis.records import Run, load_run, runs_inside
from cosup.config import settings
from cosup.errors import UserError
from cosup.remote import is_uri

__all__ = ["aligned", "labels", "runs_to_compare"]

EXPECTED = "the directories of at least two finished runs"


def runs_to_compare(places: Sequence[str | Path]) -> list[Run]:
    """Open the runs in these directories; a single directory may contain several runs.

    Raises `UserError` for a path that is not a run, and for several directories of which one
    contains several runs (over seeds, or losses).
    """
    for place in places:
        if is_uri(str(place)):
            raise UserError(
                "runs are compared in local directories; copy it first", where=str(place)
            )
    paths = [Path(place) for place in places]
    if len(paths) == 1 and len(inside := runs_inside(paths[0])) > 1:
        paths = inside
    return [_load(path) for path in paths]


def _load(path: Path) -> Run:
    try:
        return load_run(path)
    except UserError as error:
        if not runs_inside(path):
            raise
        raise UserError(
            f"{error.problem} (compare single runs with the same seed, and so the same test "
            "samples; rounds.losses compares losses over seeds)",
            where=error.where,
        ) from None


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a unique label of each run: its directory, with parent folders if necessary."""
    parts = [run.path.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("the run is given twice", where=str(runs[0].path), allowed=EXPECTED)


def aligned(runs: Sequence[Run]) -> list[Codes]:
    """Return for each run the indices of its test samples in the order of the first run.

    Raises `UserError` for fewer than two runs, a run that is given twice, a run that is not
    finished, and runs that differ in their test samples or in the true answers to them.
    """
    if len(runs) < 2:
        raise UserError(f"{words.plural(len(runs), 'run')} to compare", allowed=EXPECTED)
    names = labels(runs)
    for run in runs:
        _check_finished(run)
    return [_order(runs[0], run, names[0], name) for run, name in zip(runs, names, strict=True)]


def _check_finished(run: Run) -> None:
    if run.finished and not run.missing:
        return
    missing = f"no {words.listed(run.missing)}"
    if run.finished:
        problem = f"the records are incomplete: {missing}; run it again"
    else:
        problem = f"the run is not finished: {missing}; resume it with `cosup run ... --resume`"
    raise UserError(problem, where=str(run.path))


def _order(first: Run, other: Run, first_name: str, name: str) -> Codes:
    """Return the indices of the other run's test samples in the order of the first run."""
    one, two = _answers(first), _answers(other)
    if one.index.equals(two.index):
        order = np.arange(len(two))
    elif one.index.is_unique and two.index.is_unique and set(one.index) == set(two.index):
        order = pd.Series(np.arange(len(two)), index=two.index)[one.index].to_numpy()
    else:
        raise _different(first, other, (first_name, name), _difference(one.index, two.index, name))
    changed = int((one.to_numpy() != two.to_numpy()[order]).sum())
    if changed:
        text = f"the true labels of {changed} of {len(one)} differ"
        raise _different(first, other, (first_name, name), text)
    return order


def _answers(run: Run) -> "pd.Series[str]":
    """Return the true answers to the test samples, by sample."""
    ids = run.test["sample_id"].astype(str)
    return pd.Series(run.test["answer"].astype(str).to_numpy(), index=ids)


def _difference(one: "pd.Index[str]", two: "pd.Index[str]", name: str) -> str:
    only_one, only_two = int((~one.isin(two)).sum()), int((~two.isin(one)).sum())
    if not only_one and not only_two:
        return f"the same samples ({len(one)} and {len(two)}) occur in another number or order"
    return f"{only_one} of {len(one)} are not in {name}, which has {only_two} others"


def _different(first: Run, other: Run, names: tuple[str, str], how: str) -> UserError:
    """Return the error for runs with different test samples, with the settings that differ."""
    one, two = (settings(run.config) for run in (first, other))
    keys = [
        f"{key} {_json(one.get(key))} and {_json(two.get(key))}"
        for key in dict.fromkeys([*one, *two])
        if (key == "run.seed" or key.startswith("data.")) and one.get(key) != two.get(key)
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
