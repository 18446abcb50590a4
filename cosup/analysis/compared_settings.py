"""The settings in which compared runs differ, and why: what was set, chosen, or follows from it."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from cosup.analysis.comparable import Paired
from cosup.analysis.records import Run
from cosup.config import check_config, config_tree, settings
from cosup.errors import UserError

__all__ = ["Differing", "config_table", "differing"]

NOT_THERE = "(not there)"
ENVIRONMENT = "environment"
ORIGINS = ("set", "chosen", "follows", ENVIRONMENT)
_ABSENT = object()


@dataclass(frozen=True)
class Differing:
    """A setting, or a part of the environment, in which entries differ.

    origin: `set` if a config sets it to something else than its default; `chosen` if a run chose it
    (`choose: auto`); `follows` if it is the default of every run, which other settings decide; and
    `environment`. values: per entry its values by the place of the seed, where it has one. chosen:
    per entry, whether its runs chose the values.
    """

    key: str
    origin: str
    values: tuple[Mapping[int, Any], ...]
    chosen: tuple[bool, ...]

    def value(self, place: int, seeds: Sequence[int]) -> Any:
        """Return the value of an entry that has one: that of all seeds, or a mapping by seed."""
        values = self.values[place]
        first = next(iter(values.values()))
        if self._same(place, seeds):
            return first
        return {str(seeds[row]): value for row, value in values.items()}

    def text(self, place: int, seeds: Sequence[int]) -> str:
        """Return the value of an entry as JSON, by seed where it differs."""
        values = self.values[place]
        if not values:
            return NOT_THERE
        texts = [f"seed {seeds[row]}: {_json(value)}" for row, value in values.items()]
        text = _json(self.value(place, seeds)) if self._same(place, seeds) else ", ".join(texts)
        return f"{text} (chosen)" if self.chosen[place] else text

    def _same(self, place: int, seeds: Sequence[int]) -> bool:
        values = list(self.values[place].values())
        return len(values) == len(seeds) and all(value == values[0] for value in values)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def differing(paired: Paired) -> list[Differing]:
    """Return what differs between the entries: settings that affect the results, in the order of
    the config, and then parts of the environment.

    Whether a setting is a default is found by leaving it out of the run's config, and checking that
    again: what comes back as it was need not have been written. So it is found for any run, whoever
    wrote its config. All settings of a run whose config this version of cosup does not know count
    as set. A setting that one config sets and another leaves to the run to choose differs, even if
    the run chose the same.
    """
    columns = [[_all_of(run) for run in row] for row in paired.runs]
    origins = [[_origins(run) for run in row] for row in paired.runs]
    found = []
    unwritten = {key for row in origins for one in row for key in one.unwritten}
    for key in dict.fromkeys(key for row in columns for column in row for key in column):
        rows = [[column.get(key, _ABSENT) for column in row] for row in columns]
        same = all(value == row[0] for row in rows for value in row)
        if same and key not in unwritten:  # no run chose it; an origin takes a check of a config
            continue
        by_run = [[one.of(key) for one in row] for row in origins]
        kinds = {kind for row in by_run for kind in row}
        if same and not {"set", "chosen"} <= kinds:
            continue
        values = tuple(
            {place: value for place, value in enumerate(column) if value is not _ABSENT}
            for column in zip(*rows, strict=True)
        )
        chosen = tuple("chosen" in column for column in zip(*by_run, strict=True))
        found.append(Differing(key, next(k for k in ORIGINS if k in kinds), values, chosen))
    return found


def config_table(paired: Paired, names: Sequence[str]) -> pd.DataFrame:
    """Return the table `config` of `compare`: what differs between entries of these names."""
    seeds = paired.seeds or [0]
    rows = [
        [one.key, one.origin, *(one.text(place, seeds) for place in range(len(names)))]
        for one in sorted(differing(paired), key=lambda one: ORIGINS.index(one.origin))
    ]
    return pd.DataFrame(rows, columns=["key", "origin", *names])


def _all_of(run: Run) -> dict[str, Any]:
    return {**settings(run.config), **_environment(run)}


def _environment(run: Run) -> dict[str, Any]:
    """Return the versions and the machine of a run."""
    environment = run.environment
    known = {
        **{f"packages.{name}": value for name, value in environment.get("packages", {}).items()},
        "python": environment.get("python"),
        "commit": (environment.get("commit") or {}).get("id"),
        "device": (environment.get("device") or {}).get("name"),
        "threads": (environment.get("cpu") or {}).get("threads"),
    }
    return {f"{ENVIRONMENT}.{key}": value for key, value in known.items() if value is not None}


@dataclass(frozen=True)
class _Origins:
    """The origins of a run's settings.

    unwritten: the settings that its config does not have, which the run may have chosen. of: a
    function that tells the origin of a setting.
    """

    unwritten: frozenset[str]
    of: Callable[[str], str]


def _origins(run: Run) -> _Origins:
    """Return the origins of the settings of a run."""
    written, whole = run.files.config.read(), run.config
    known, all_known = settings(written), settings(whole)
    if whole.get("rounds", {}).get("choose"):  # as the recipe that was chosen would be written
        whole = {**whole, "rounds": {**whole["rounds"], "choose": None}}

    @cache
    def origin(key: str) -> str:
        if key.startswith(f"{ENVIRONMENT}."):
            return ENVIRONMENT
        if key not in all_known or _is_default(written if key in known else whole, key):
            return "follows"
        return "set" if key in known else "chosen"

    return _Origins(frozenset(all_known.keys() - known.keys()), origin)


def _is_default(tree: Mapping[str, Any], key: str) -> bool:
    """Return whether a config without this setting is the same config."""
    value = settings(dict(tree))[key]
    try:
        cut = config_tree(check_config(_without(tree, key.split(".")), expanded=False))
    except (UserError, LookupError):  # it must be given; or a name with a dot is part of the key
        return False
    return bool(settings(cut).get(key, _ABSENT) == value)


def _without(tree: Mapping[str, Any], key: Sequence[str]) -> Any:
    """Return a copy of a config's tree that lacks a setting."""
    cut = copy.deepcopy(dict(tree))
    node: Any = cut
    for part in key[:-1]:
        node = node[int(part)] if isinstance(node, list) else node[part]
    del node[int(key[-1]) if isinstance(node, list) else key[-1]]
    return cut
