"""Splits of a sample table: draw them by shares, or take those of the source, and check them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cosup.data.images import Ints
from cosup.data.section import SplitShares
from cosup.data.sources.base import SPLITS, Collection, integer_codes
from cosup.errors import UserError, known_names
from cosup.seeds import numpy_generator

if TYPE_CHECKING:
    import pandas as pd


def split_samples(
    collection: Collection,
    splits: SplitShares | str,
    *,
    stratify: bool = True,
    groups: Ints | None = None,
    seed: int = 0,
) -> NDArray[np.object_]:
    """Return the split of each row [N] of the collection ("" is unused).

    Shares are exact to within one sample (or group) in every stratum, which is a class of a domain.
    An official test part is the split `test`, and the other splits divide the rest in proportion to
    their shares. Raise `UserError` if the splits are not possible.
    """
    if isinstance(splits, SplitShares):
        return _draw_splits(collection, splits, stratify, groups, numpy_generator(seed, "splits"))
    return _splits_of_source(collection)


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
    """Return at most `limit` samples, stratified by class, domain and split; groups stay whole."""
    table = collection.table
    if limit >= len(table):
        return collection
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
    return replace(collection, table=table.iloc[rows].reset_index(drop=True))


def strata_of(table: "pd.DataFrame", stratify: bool = True) -> Ints:
    """Return [N] codes of each sample's class and domain; all 0 without `stratify`."""
    if not stratify:
        return np.zeros(len(table), np.int64)
    label, domain = table["label"].to_numpy(np.int64), table["domain"].to_numpy(np.int64)
    return np.asarray((label + 1) * (domain.max(initial=0) + 1) + domain)


def check_splits(
    table: "pd.DataFrame",
    classes: tuple[str, ...],
    wanted: set[str],
    grouped: bool,
    share_train: bool = False,
) -> None:
    """Raise `UserError` unless all is right with the splits.

    There are two classes or more. Each wanted split has samples, and all except validation have
    every class. Splits that must be empty are (teacher_train with share_train, test with few_shot).
    Labels are known where they are needed. No group is in two splits.
    """
    if len(classes) < 2:
        raise UserError(f"only one class ('{''.join(classes)}'); at least 2 are needed")
    counts = table["split"].value_counts()
    for split in SPLITS:
        if split in wanted and counts.get(split, 0) == 0:
            present = ", ".join(f"{name} {counts.get(name, 0)}" for name in SPLITS)
            raise UserError(f"no sample in {split} (found: {present})", key="splits")
    for split, setting in (("teacher_train", "share_train"), ("test", "few_shot")):
        if split not in wanted and counts.get(split, 0):
            raise UserError(
                f"{counts[split]} samples are in {split}; it must be empty", key=setting
            )
    _check_labels(table, share_train)
    _check_classes(table, classes, wanted)
    if grouped:
        _check_groups(table)


def _check_labels(table: "pd.DataFrame", share_train: bool) -> None:
    allowed = [""] if share_train else ["student_train", ""]
    unknown = table[(table["label"] < 0) & ~table["split"].isin(allowed)]
    if len(unknown):
        first = unknown.iloc[0]
        rule = (
            "with data.share_train teachers need all labels"
            if share_train
            else "only samples in student_train may have none"
        )
        raise UserError(
            f"sample '{first['sample_id']}' in {first['split']} has no label; {rule}", key="splits"
        )


def _check_classes(table: "pd.DataFrame", classes: tuple[str, ...], wanted: set[str]) -> None:
    complete = [split for split in SPLITS if split in wanted and split != "validation"]
    for split in complete:
        labels = table.loc[table["split"] == split, "label"].to_numpy(np.int64)
        if (labels < 0).any():
            continue
        lacking = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
        if len(lacking):
            name = classes[lacking[0]]
            counts = table.loc[table["label"] == lacking[0], "split"].value_counts()
            where = ", ".join(f"{counts[key]} in {key or 'none'}" for key in counts.index)
            more = f" (and {len(lacking) - 1} more classes)" if len(lacking) > 1 else ""
            raise UserError(
                f"class '{name}'{more} has no sample in {split} (its samples: {where or 'none'}); "
                f"every class must be in {', '.join(complete)}",
                key="splits",
            )


def _check_groups(table: "pd.DataFrame") -> None:
    used = table[table["split"] != ""]
    pairs = used[["split"]].assign(group=integer_codes(used["group"])).drop_duplicates()
    twice = pairs["group"].duplicated()
    if twice.any():
        name = used["group"][twice.index[twice][0]]
        rows = used[used["group"] == name]
        raise UserError(
            f"group '{name}' is in {' and '.join(dict.fromkeys(rows['split']))}; "
            "a group must be in one split",
            key="splits",
        )


def _draw_splits(
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
            f"sample '{table['sample_id'][row]}' has no label, so the splits cannot be drawn; "
            "give a split column and 'splits: given'",
            key="splits",
        )
    wanted = {name: float(getattr(shares, name)) for name in SPLITS}
    free = np.ones(len(table), bool)
    result = np.full(len(table), "", dtype=object)
    if collection.official_test:
        free = (table["split"] != "test").to_numpy(bool)
        result[~free] = "test"
        left = 1 - wanted.pop("test")
        wanted = {name: min(1.0, share / left) for name, share in wanted.items()}
    chosen = draw_shares(
        strata_of(table, stratify)[free],
        list(wanted.values()),
        generator,
        None if groups is None else groups[free],
    )
    result[free] = np.asarray([*wanted, ""], dtype=object)[chosen]
    return result


def _splits_of_source(collection: Collection) -> NDArray[np.object_]:
    given = collection.table["split"]
    if collection.official_test or not (given != "").any():
        raise UserError(
            f"this source has no splits {', '.join(SPLITS)}",
            key="splits",
            value="given",
            allowed="shares",
        )
    unknown = sorted(set(given) - {*SPLITS, ""})
    if unknown:
        raise UserError(
            f"the source has splits {known_names(unknown)}",
            key="splits",
            value="given",
            allowed=f"shares, or splits named {', '.join(SPLITS)}",
        )
    return given.to_numpy(object)


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
