"""Match the ids of a table with those of the data: as they are, by path, without endings, by name.

One rule holds for a whole file, so that one line can state it.
"""

import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd

from cosup.config.external import Match
from cosup.data.images import Ints
from cosup.errors import UserError

__all__ = ["NONE", "RULES", "Matched", "SampleIds", "best_rule", "shared_part", "too_few"]

NONE, SEVERAL = -1, -2
"""Instead of a place: an id that matches no sample, or more than one."""

RULES: tuple[Match, ...] = get_args(Match)
AUTO = RULES[:-1]
"""The rules that are tried unasked. Equal file names in different folders may be other images."""
WORDS: dict[Match, str] = {
    "exact": "by id",
    "path": "by path",
    "stem": "by path without the ending",
    "name": "by file name",
}
MOST_TRIED = 50
"""Unmatched ids that are looked at to find what would mend them."""
SHORTEST = 4
"""Letters at the end that two ids must share to be taken for the same sample."""


@dataclass(frozen=True)
class Matched:
    """The ids of a file beside the samples.

    rule: how they were matched. places: [U] place of each id among the samples, `NONE` without one;
    places of samples that are left out of the run follow those of the run.
    """

    rule: Match
    places: Ints

    @property
    def how(self) -> str:
        """Return the rule in words."""
        return WORDS[self.rule]


def best_rule(asked: Match | None, total: int, count: Callable[[Match], int]) -> Match:
    """Return the rule that is asked for, or the first by which half of the rows match, or else the
    one by which most do. count: returns the rows [of `total`] that match by a rule."""
    best, most = RULES[0], -1
    for rule in AUTO if asked is None else (asked,):
        found = count(rule)
        if 2 * found >= total:
            return rule
        if found > most:
            best, most = rule, found
    return best


def too_few(matched: int, total: int, ignore: bool) -> bool:
    """Return whether the rows that match a sample are too few of a file. ignore: any will do."""
    return not matched or not (ignore or 2 * matched >= total)


def shared_part(rule: Match) -> Callable[[str], str]:
    """Return the function of an id that is equal for ids which may match by a rule."""
    return str if rule == "exact" else lambda name: _stem(_name(name))


class SampleIds:
    """The ids of the data's samples, to be matched with those of tables."""

    def __init__(self, ids: Sequence[str], left_out: Sequence[str] = ()) -> None:
        """left_out: ids of samples of the data that the run does not use, as by `data.limit`."""
        self.used = len(ids)
        self.names = [*map(str, ids), *map(str, left_out)]
        self.index = pd.Index(self.names, dtype="object")
        self._found: dict[tuple[object, Match | None, bool], Matched] = {}

    def match(
        self,
        key: object,
        ids: "pd.Index[Any]",
        rows: Ints,
        rule: Match | None = None,
        ignore: bool = False,
    ) -> Matched:
        """Match the ids [U] of a file; results are kept under `key`.

        rows: [U] rows of each id. rule: None for the first by which half of the rows match, or else
        the best. ignore: allow fewer than half. Raises `UserError` for few matches, and for an id
        that could be two samples.
        """
        asked = (key, rule, ignore)
        if asked not in self._found:
            found = self._best(ids, rows, rule)
            self._check(found, ids, rows, rule, ignore)
            self._found[asked] = found
        return self._found[asked]

    def _best(self, ids: "pd.Index[Any]", rows: Ints, rule: Match | None) -> Matched:
        found: dict[Match, Matched] = {}

        def count(name: Match) -> int:
            found[name] = Matched(name, self.places(name, ids))
            return int(rows[found[name].places != NONE].sum())

        return found[best_rule(rule, int(rows.sum()), count)]

    def places(self, rule: Match, ids: "pd.Index[Any]") -> Ints:
        """Return the place [U] of each id among the samples: `NONE`, or `SEVERAL`."""
        if rule == "exact":
            return self.index.get_indexer(ids).astype(np.int64)
        change = CHANGES[rule]
        wanted, known = [change(name) for name in ids], [change(name) for name in self.names]
        return _by_ending(wanted, known)

    def _check(
        self, found: Matched, ids: "pd.Index[Any]", rows: Ints, rule: Match | None, ignore: bool
    ) -> None:
        self.check_each(found, ids)
        total, matched = int(rows.sum()), int(rows[found.places >= 0].sum())
        if too_few(matched, total, ignore):
            raise self.few(found, ids, matched, total, rule)

    def check_each(self, found: Matched, ids: "pd.Index[Any]") -> None:
        """Raise `UserError` for an id that could be two samples, and for two ids of one sample."""
        several = np.flatnonzero(found.places == SEVERAL)
        if len(several):
            wanted = str(ids[several[0]])
            alike = [name for name in self.names if _are_alike(wanted, name, found.rule)]
            raise UserError(
                f"its id '{wanted}' could be {_two(alike)} ({found.how})",
                allowed="ids that are one sample each, such as paths",
            )
        self._check_distinct(found, ids)

    def _check_distinct(self, found: Matched, ids: "pd.Index[Any]") -> None:
        """Raise `UserError` for two ids of one sample, unless one is the other's shorter path."""
        places = pd.Series(found.places[found.places >= 0])
        twice = np.isin(found.places, places[places.duplicated()])
        first: dict[int, str] = {}
        for at in np.flatnonzero(twice).tolist():
            other = str(ids[at])
            one = first.setdefault(int(found.places[at]), other)
            short, long = sorted((_stem(one), _stem(other)), key=len)
            if not f"/{long}".endswith(f"/{short}"):
                name = self.names[found.places[at]]
                raise UserError(
                    f"its ids '{one}' and '{other}' are both sample '{name}' ({found.how})",
                    allowed="one id per sample, or `match: exact`",
                )

    def few(
        self, found: Matched, ids: "pd.Index[Any]", matched: int, total: int, rule: Match | None
    ) -> UserError:
        """Return the error that too few rows match, with what would mend it.

        ids: some of the file, or all. matched, total: of all its rows. rule: that was asked for.
        """
        lost = [str(name) for name in ids[found.places == NONE]]
        few = f"{matched:,} of its {total:,} rows match a sample ({found.how}): the others have ids"
        problem = few if matched else "none of its sample ids is that of a sample: they are"
        problem += f" such as {_two(lost)}, and samples are such as {_two(self.names[: self.used])}"
        mended = _mending(lost, self.names)
        if mended is not None:
            cut, add, count = mended
            change = f"with '{add}' in place of '{cut}'" if cut else f"with '{add}'"
            change = change if add else f"without '{cut}'"
            problem += f"; {change} at the front, {count:,} of {len(lost):,} such ids would match"
        ways = ["ids of samples", *self._other_rules(ids, found.rule)]
        if matched:
            ways.append("`unmatched: ignore`")
        return UserError(problem, allowed="; ".join(ways))

    def _other_rules(self, ids: "pd.Index[Any]", tried: Match) -> list[str]:
        """Say how many ids match by looser rules, if half of them do."""
        for rule in RULES[RULES.index(tried) + 1 :]:
            count = int((self.places(rule, ids) >= 0).sum())
            if 2 * count >= len(ids):
                return [f"`match: {rule}`, by which {count:,} of {len(ids):,} ids match"]
        return []


def _two(names: Sequence[str]) -> str:
    return " and ".join(repr(name) for name in names[:2])


def _path(name: str) -> str:
    """Return an id as a path from no folder, with strokes forward."""
    name = name.replace("\\", "/")
    while name.startswith(("./", "/")):
        name = name.removeprefix(".").removeprefix("/")
    return name


def _stem(name: str) -> str:
    """Return a path without its file's ending."""
    folder, slash, name = _path(name).rpartition("/")
    stem, dot, ending = name.rpartition(".")
    return folder + slash + (stem if dot and stem and 0 < len(ending) <= 5 else name)


def _name(name: str) -> str:
    return _path(name).rpartition("/")[2]


CHANGES: dict[Match, Callable[[str], str]] = {
    "exact": str,
    "path": _path,
    "stem": _stem,
    "name": _name,
}
"""What is compared, by rule."""


def _by_ending(wanted: Sequence[str], known: Sequence[str]) -> Ints:
    """Return the place in `known` of each path: equal, or with folders more, or fewer, in front."""
    whole = _places_of(known, range(len(known)))
    found = np.full(len(wanted), NONE, dtype=np.int64)
    open_: dict[str, list[int]] = {}
    for at, path in enumerate(wanted):
        rest = path
        while rest:
            if rest in whole:
                found[at] = whole[rest]
                break
            rest = rest.partition("/")[2]
        else:
            open_.setdefault(path, []).append(at)
    if not open_:
        return found
    names = {path.rpartition("/")[2] for path in open_}
    shorter: dict[str, int] = {}
    for place, path in enumerate(known):
        if path.rpartition("/")[2] not in names:
            continue
        rest = path.partition("/")[2]
        while rest:
            if rest in open_:
                shorter[rest] = SEVERAL if rest in shorter else place
            rest = rest.partition("/")[2]
    for path, places in open_.items():
        found[places] = shorter.get(path, NONE)
    return found


def _places_of(names: Iterable[str], places: Iterable[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, place in zip(names, places, strict=True):
        found[name] = SEVERAL if name in found else place
    return found


def _are_alike(wanted: str, name: str, rule: Match) -> bool:
    change = CHANGES[rule]
    one, other = f"/{change(wanted)}", f"/{change(name)}"
    return one.endswith(other) or other.endswith(one)


def _mending(lost: Sequence[str], names: Sequence[str]) -> tuple[str, str, int] | None:
    """Return what to cut at the front of ids, what to put there, and how many then match.

    None unless half of them do.
    """
    known, backwards = set(names), sorted(name[::-1] for name in names)
    tried: Counter[tuple[str, str]] = Counter()
    for name in lost[:MOST_TRIED]:
        turned = name[::-1]
        at = bisect.bisect_left(backwards, turned)
        near = backwards[max(0, at - 1) : at + 1]
        shared = max((_shared(turned, one) for one in near), default=0)
        if shared < SHORTEST:
            continue
        best = next(one for one in near if _shared(turned, one) == shared)
        tried[name[: len(name) - shared], best[::-1][: len(best) - shared]] += 1
    for (cut, add), _ in tried.most_common(3):
        count = sum(name.startswith(cut) and add + name.removeprefix(cut) in known for name in lost)
        if 2 * count >= len(lost):
            return cut, add, count
    return None


def _shared(one: str, other: str) -> int:
    """Return how many letters two texts share at the front."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
