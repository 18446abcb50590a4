"""Deal samples to shares by strata and groups, and draw a limited number of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cosup.data.images import Ints
from cosup.data.sources.base import Collection, integer_codes
from cosup.seeds import numpy_generator

if TYPE_CHECKING:
    import pandas as pd


def draw_shares(
    strata: Ints,
    shares: Sequence[float],
    generator: np.random.Generator,
    groups: Ints | None = None,
) -> Ints:
    """Return for each sample [N] the index of its share, or -1 for none of them.

    strata: [N] codes; each stratum is divided by the shares to within one sample per share.
    groups: [N] codes; groups stay whole, each counted in the stratum of most of its samples.
    """
    parts = np.asarray([*shares, max(0.0, 1.0 - sum(shares))])
    if groups is None:
        chosen = _deal_units(strata, parts, generator)
    else:
        unit, sizes, key = _group_units(strata, groups)
        if sizes.min(initial=1) == sizes.max(initial=1):
            chosen = _deal_units(key, parts, generator)[unit]
        else:
            chosen = _deal_groups(key, sizes, parts, generator)[unit]
    return np.where(chosen == len(shares), -1, chosen)


def draw_limit(collection: Collection, limit: int, stratify: bool, seed: int) -> Collection:
    """Return at most `limit` samples, stratified by class, domain and split; groups stay whole.

    Beside unlabelled samples, half of them are labelled, or all that there are.
    """
    table = collection.table
    if limit >= len(table):
        return collection
    labelled = (table["label"] >= 0).to_numpy(bool)
    if labelled.all() or not labelled.any():
        return replace(collection, table=_limited(collection, table, limit, stratify, seed))
    # Labels are few, and a quick try needs them.
    share = limit * int(labelled.sum()) // len(table)
    first = min(int(labelled.sum()), max(share, limit // 2))
    parts = [
        _limited(collection, part, count, stratify, seed) if count < len(part) else part
        for part, count in ((table[labelled], first), (table[~labelled], limit - first))
    ]
    kept = table["sample_id"].isin([name for part in parts for name in part["sample_id"]])
    return replace(collection, table=table[kept].reset_index(drop=True))


def _limited(
    collection: Collection, table: "pd.DataFrame", limit: int, stratify: bool, seed: int
) -> "pd.DataFrame":
    # Stratified by splits too, so that their proportions stay as they are.
    strata = strata_of(table, stratify)
    strata = strata * (table["split"].nunique() + 1) + integer_codes(table["split"])
    groups = integer_codes(table["group"]) if collection.grouped else None
    chosen = draw_shares(strata, [limit / len(table)], numpy_generator(seed, "limit"), groups)
    rows = np.flatnonzero(chosen == 0)
    if groups is None:
        rows = rows[:limit]
    while len(rows) > limit:  # whole groups may be slightly more than the limit
        assert groups is not None
        rows = rows[groups[rows] != groups[rows[-1]]]
    return table.iloc[rows].reset_index(drop=True)


def strata_of(table: "pd.DataFrame", stratify: bool = True) -> Ints:
    """Return [N] codes of each sample's class and domain; all 0 without `stratify`."""
    if not stratify:
        return np.zeros(len(table), np.int64)
    label, domain = table["label"].to_numpy(np.int64), table["domain"].to_numpy(np.int64)
    return np.asarray((label + 1) * (domain.max(initial=0) + 1) + domain)


def _deal_units(strata: Ints, parts: NDArray[np.float64], generator: np.random.Generator) -> Ints:
    """Divide each stratum by largest remainder; carry what is left over to the next stratum."""
    order = generator.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    _, counts = np.unique(strata, return_counts=True)
    dealt, carry = [], np.zeros(len(parts))
    for count in counts:
        # Rounded, because 0.1 + 0.2 would make a quota of 30.000000000000004.
        quota = np.round(parts * count, 9)
        number = np.floor(quota).astype(np.int64)
        fraction = quota - number
        # A share with a whole quota gets exactly that; the others at most one more.
        wish = np.where(fraction > 0, fraction + carry, -np.inf)
        number[np.argsort(-wish, kind="stable")[: count - number.sum()]] += 1
        carry += quota - number
        dealt.append(np.repeat(np.arange(len(parts)), number))
    chosen = np.empty(len(strata), np.int64)
    chosen[order] = np.concatenate(dealt) if dealt else np.empty(0, np.int64)
    return chosen


def _deal_groups(
    strata: Ints, sizes: Ints, parts: NDArray[np.float64], generator: np.random.Generator
) -> Ints:
    """Deal groups of unequal size, largest first, each to the share that lacks most."""
    _, strata = np.unique(strata, return_inverse=True)
    totals = np.bincount(strata, weights=sizes)
    order = generator.permutation(len(strata))
    order = order[np.lexsort((-sizes[order], strata[order]))]
    chosen = np.empty(len(strata), np.int64)
    # Never to a share of zero, not even to even out rounding. Lists are faster here than arrays.
    open_parts = np.flatnonzero(parts > 1e-9).tolist()
    lack = [0.0] * len(parts)
    last = -1
    for unit, stratum, size in zip(
        order.tolist(), strata[order].tolist(), sizes[order].tolist(), strict=True
    ):
        if stratum != last:
            last = stratum
            lack = (parts * totals[stratum] + lack).tolist()
        share = max(open_parts, key=lack.__getitem__)
        lack[share] -= size
        chosen[unit] = share
    return chosen


def _group_units(strata: Ints, groups: Ints) -> tuple[Ints, Ints, Ints]:
    """Return each sample's group index [N], and each group's size and most frequent stratum."""
    _, unit = np.unique(groups, return_inverse=True)
    width = int(strata.max(initial=0)) + 1
    pairs, count = np.unique(unit.astype(np.int64) * width + strata, return_counts=True)
    owner, stratum = np.divmod(pairs, width)
    # Sorted by group, and within a group by frequency (ties: the lowest stratum).
    best = np.lexsort((stratum, -count, owner))
    _, first = np.unique(owner[best], return_index=True)
    return unit.astype(np.int64), np.bincount(unit).astype(np.int64), stratum[best][first]
