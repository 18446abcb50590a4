"""Which runs can be compared: finished ones, on the same samples that measure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cosup.analysis.arrays import Codes
from cosup.analysis.records import Run, load_run, runs_inside
from cosup.config import settings
from cosup.errors import UserError
from cosup.remote import is_uri

__all__ = ["aligned", "labels", "runs_to_compare"]

ASKED = "give the directories of at least two finished runs"


def runs_to_compare(places: Sequence[str | Path]) -> list[Run]:
    """The runs in these directories; one directory alone that holds several stands for those.

    Raises `UserError` for what is no run, and for several directories where one of them holds
    several runs (over seeds, or losses).
    """
    for place in places:
        if is_uri(str(place)):
            raise UserError(f"{place}: directories are compared; copy the run to this machine")
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
            f"{error} (runs are compared one with one, on the same test samples: the same seed of "
            "each; rounds.losses compares losses over seeds)"
        ) from None


def labels(runs: Sequence[Run]) -> list[str]:
    """What tells each run from the others: its directory's name, and folders above if need be."""
    parts = [run.path.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"the run {runs[0].path} is given twice; {ASKED}")


def aligned(runs: Sequence[Run]) -> list[Codes]:
    """For each run, the places of its test samples in the order of the first one's.

    Raises `UserError` for fewer than two runs, one that is given twice, one that isn't finished,
    and for runs whose test samples, or the answers to them, aren't the same: it says how many.
    """
    if len(runs) < 2:
        raise UserError(f"{len(runs)} run{'s' * (not runs)} to compare; {ASKED}")
    names = labels(runs)
    for run in runs:
        _check_finished(run)
    return [_order(runs[0], run, names[0], name) for run, name in zip(runs, names, strict=True)]


def _check_finished(run: Run) -> None:
    if run.finished and not run.missing:
        return
    lacking = ", ".join(run.missing[:5]) + (", ..." if len(run.missing) > 5 else "")
    if run.finished:
        raise UserError(f"{run.path}: can't be compared: there is no {lacking}; run it again")
    raise UserError(
        f"{run.path}: isn't finished: there is no {lacking}; go on with it by "
        "`cosup run ... --resume`, then compare"
    )


def _order(first: Run, other: Run, first_name: str, name: str) -> Codes:
    one, two = _rows(first), _rows(other)
    places = np.arange(len(two))
    if one.index.equals(two.index):
        order = places
    elif one.index.is_unique and two.index.is_unique and set(one.index) == set(two.index):
        order = pd.Series(places, index=two.index)[one.index].to_numpy()
    else:
        raise _differ(first, other, first_name, name, _lacking(one.index, two.index, name))
    unlike = int((one["answer"].to_numpy() != two["answer"].to_numpy()[order]).sum())
    if unlike:
        text = f"the true label of {unlike} of the {len(one)} is another"
        raise _differ(first, other, first_name, name, text)
    return order


def _rows(run: Run) -> pd.DataFrame:
    table = run.test
    return pd.DataFrame(
        {"answer": table["answer"].astype(str).to_numpy()}, index=table["sample_id"].astype(str)
    )


def _lacking(one: "pd.Index[str]", two: "pd.Index[str]", name: str) -> str:
    only_one, only_two = int((~one.isin(two)).sum()), int((~two.isin(one)).sum())
    if not only_one and not only_two:
        return f"all {len(one)} and {len(two)} are known to both, but not as often or in that order"
    return f"{only_one} of {len(one)} are not in {name}, which has {only_two} others"


def _differ(first: Run, other: Run, first_name: str, name: str, how: str) -> UserError:
    one, two = (settings(run.config) for run in (first, other))
    keys = [
        f"{key} {_said(one.get(key))} and {_said(two.get(key))}"
        for key in dict.fromkeys([*one, *two])
        if (key == "run.seed" or key.startswith("data.")) and one.get(key) != two.get(key)
    ]
    because = f" ({'; '.join(keys[:3])})" if keys else ""
    return UserError(
        f"runs {first_name} and {name}: their test samples differ: {how}{because}; runs of the "
        "same data, splits and seed can be compared"
    )


def _said(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
