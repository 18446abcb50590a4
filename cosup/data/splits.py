"""Splits: drawn by shares, stratified, and without a group in two splits; or as given."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.data.section import SPLITS, SplitShares
from cosup.data.sources import Collection
from cosup.errors import UserError, known_names
from cosup.seeds import numpy_generator

Ints = NDArray[np.int64]


def split_samples(
    collection: Collection,
    splits: SplitShares | str,
    *,
    stratify: bool = True,
    groups: Ints | None = None,
    seed: int = 0,
) -> NDArray[np.object_]:
    """The split of each row of the collection ("" is unused).

    Shares are met within one sample (or group) of every stratum, a class of a domain. Where the
    set has an official test part that part is `test`, and the other splits divide the rest in
    proportion to their shares. `UserError` where a split can't be as asked.
    """
    if isinstance(splits, SplitShares):
        return _drawn(collection, splits, stratify, groups, numpy_generator(seed, "splits"))
    return _given(collection)


def draw(
    strata: Ints,
    shares: Sequence[float],
    generator: np.random.Generator,
    groups: Ints | None = None,
) -> Ints:
    """For each sample [N] the share it falls to, or -1 for none of them.

    strata: [N] codes; each stratum is divided by the shares, within one sample per share. With
    `groups` [N] whole groups are dealt out, each counted in the stratum of most of its samples.
    """
    parts = np.asarray([*shares, max(0.0, 1.0 - sum(shares))])
    if groups is None:
        chosen = _deal_units(strata, parts, generator)
    else:
        unit, sizes, key = _units(strata, groups)
        if sizes.min(initial=1) == sizes.max(initial=1):
            chosen = _deal_units(key, parts, generator)[unit]
        else:
            chosen = _deal_groups(key, sizes, parts, generator)[unit]
    return np.where(chosen == len(shares), -1, chosen)


def codes(values: "pd.Series[str]") -> Ints:
    """Equal values get the same number, in the order of their first appearance."""
    return pd.factorize(values)[0].astype(np.int64)


def strata_of(table: pd.DataFrame, stratify: bool = True) -> Ints:
    """[N] the code of each sample's class and domain; all 0 without `stratify`."""
    if not stratify:
        return np.zeros(len(table), np.int64)
    label, domain = table["label"].to_numpy(np.int64), table["domain"].to_numpy(np.int64)
    return np.asarray((label + 1) * (domain.max(initial=0) + 1) + domain)


def _drawn(
    collection: Collection,
    shares: SplitShares,
    stratify: bool,
    groups: Ints | None,
    generator: np.random.Generator,
) -> NDArray[np.object_]:
    table = collection.table
    if (table["label"] < 0).any():
        row = table.index[table["label"] < 0][0]
        raise UserError(
            f"data.splits: sample '{table['sample_id'][row]}' has no label, so shares can't be "
            "drawn; give a split column and 'splits: given'"
        )
    wanted = {name: float(getattr(shares, name)) for name in SPLITS}
    free = np.ones(len(table), bool)
    result = np.full(len(table), "", dtype=object)
    if collection.official_test:
        free = (table["split"] != "test").to_numpy(bool)
        result[~free] = "test"
        left = 1 - wanted.pop("test")
        wanted = {name: min(1.0, share / left) for name, share in wanted.items()}
    chosen = draw(
        strata_of(table, stratify)[free],
        list(wanted.values()),
        generator,
        None if groups is None else groups[free],
    )
    result[free] = np.asarray([*wanted, ""], dtype=object)[chosen]
    return result


def _given(collection: Collection) -> NDArray[np.object_]:
    given = collection.table["split"]
    if collection.official_test or not (given != "").any():
        raise UserError(
            "data.splits: 'given', but this source doesn't say which sample belongs to "
            f"{', '.join(SPLITS)}; give shares"
        )
    unknown = sorted(set(given) - {*SPLITS, ""})
    if unknown:
        raise UserError(
            f"data.splits: 'given', but the source has splits {known_names(unknown)}; "
            f"they must be named {', '.join(SPLITS)}, or give shares"
        )
    return given.to_numpy(object)


def _deal_units(strata: Ints, parts: NDArray[np.float64], generator: np.random.Generator) -> Ints:
    """Divide each stratum by largest remainder, carrying what is over to the next stratum."""
    order = generator.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    _, counts = np.unique(strata, return_counts=True)
    dealt, carry = [], np.zeros(len(parts))
    for count in counts:
        # Rounded, so that 0.1 + 0.2 never makes a quota of 30.000000000000004.
        quota = np.round(parts * count, 9)
        number = np.floor(quota).astype(np.int64)
        fraction = quota - number
        # A share with a whole quota gets just that; the others at most one more.
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
    """Deal groups of unequal size, large ones first, each to the share that lacks most."""
    _, strata = np.unique(strata, return_inverse=True)
    totals = np.bincount(strata, weights=sizes)
    order = generator.permutation(len(strata))
    order = order[np.lexsort((-sizes[order], strata[order]))]
    chosen = np.empty(len(strata), np.int64)
    # Never to a share of zero, not even to even out rounding. Plain lists: one step per group.
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


def _units(strata: Ints, groups: Ints) -> tuple[Ints, Ints, Ints]:
    """Per sample its group's number [N]; per group its size and its most frequent stratum."""
    _, unit = np.unique(groups, return_inverse=True)
    width = int(strata.max(initial=0)) + 1
    pairs, count = np.unique(unit.astype(np.int64) * width + strata, return_counts=True)
    owner, stratum = np.divmod(pairs, width)
    # Sorted by group, and within it the most frequent stratum first (ties: the lowest).
    best = np.lexsort((stratum, -count, owner))
    _, first = np.unique(owner[best], return_index=True)
    return unit.astype(np.int64), np.bincount(unit).astype(np.int64), stratum[best][first]
