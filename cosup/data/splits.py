"""Splits of a collection: those that the source names, or drawn by shares.

A sample without a label and without a split is in student_train, whatever the others are.
"""

import difflib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosup.data.images import Ints
from cosup.data.section import SplitShares
from cosup.data.shares import draw_shares, strata_of
from cosup.data.sources.base import SPLIT_NAMES, SPLITS, Collection
from cosup.errors import MISSING, UserError
from cosup.seeds import numpy_generator

__all__ = [
    "ALL_LABELLED",
    "SOME_LABELLED",
    "Splits",
    "auto_shares",
    "check_names",
    "names_splits",
    "split_samples",
]

ALL_LABELLED = {"teacher_train": 0.3, "student_train": 0.5, "test": 0.2}
"""Shares of `auto` where every sample has a label."""
SOME_LABELLED = {"teacher_train": 0.5, "validation": 0.2, "test": 0.3}
"""Shares of the labelled samples, where the unlabelled ones are student_train."""


@dataclass(frozen=True)
class Splits:
    """names: the split of each sample [N], "" for none. drawn: whether they depend on the seed."""

    names: NDArray[np.object_]
    drawn: bool


def split_samples(
    collection: Collection,
    splits: SplitShares | Literal["auto", "given"],
    *,
    absent: AbstractSet[str] = frozenset(),
    stratify: bool = True,
    groups: Ints | None = None,
    seed: int = 0,
    divide_test: bool = False,
) -> Splits:
    """Return the split of every sample of the collection.

    absent: splits that `auto` does without (teacher_train, test). Shares are those of the labelled
    samples, exact to within one sample (or group) in every stratum, which is a class of a domain.
    An official test part is the split `test`, and the other splits divide the rest in proportion to
    their shares. divide_test: student_train and `test` divide it, and the others the rest. Raise
    `UserError` if the splits are not possible.
    """
    generator = numpy_generator(seed, "splits")
    strata = strata_of(collection.table, stratify)
    if divide_test and not collection.official_test:
        problem = "needs a source with an official test part of its own"
        raise UserError(problem, key="divide_test", value=True, allowed="false")
    if splits == "given":
        names, drawn = _splits_of_source(collection), False
    elif splits == "auto" and names_splits(collection):
        names, drawn = _named_splits(collection, absent, strata, groups, generator)
    else:
        if isinstance(splits, SplitShares):
            shares = {name: float(getattr(splits, name)) for name in SPLITS}
        else:
            shares = auto_shares(bool((collection.table["label"] < 0).any()), absent)
        draw = _divided_test if divide_test else _drawn_splits
        names, drawn = draw(collection, shares, strata, groups, generator), True
    return Splits(_with_unlabelled(collection, names, groups), drawn)


def auto_shares(some_unlabelled: bool, absent: AbstractSet[str] = frozenset()) -> dict[str, float]:
    """Return the shares of `auto` of the labelled samples, by split; they sum to 1.

    Without teacher_train its samples are in student_train, unless the unlabelled ones are that.
    """
    shares = dict(SOME_LABELLED if some_unlabelled else ALL_LABELLED)
    for name in absent:
        left_over = shares.pop(name)
        if name == "teacher_train" and "student_train" in shares:
            shares["student_train"] += left_over
    total = sum(shares.values())
    return {name: shares.get(name, 0.0) / total for name in SPLITS}


def names_splits(collection: Collection) -> bool:
    """Whether the source says which sample is in which split."""
    return not collection.official_test and bool((collection.table["split"] != "").any())


def _drawn_splits(
    collection: Collection,
    wanted: Mapping[str, float],
    strata: Ints,
    groups: Ints | None,
    generator: np.random.Generator,
) -> NDArray[np.object_]:
    """Divide the labelled samples by shares."""
    table = collection.table
    free = (table["label"] >= 0).to_numpy(bool)
    result = np.full(len(table), "", dtype=object)
    wanted = dict(wanted)
    if collection.official_test:
        tested = (table["split"] == "test").to_numpy(bool)
        free = free & ~tested
        result[tested] = "test"
        left = 1 - wanted.pop("test")
        wanted = {name: min(1.0, share / left) if left else 0 for name, share in wanted.items()}
    chosen = draw_shares(
        strata[free],
        list(wanted.values()),
        generator,
        None if groups is None else groups[free],
    )
    result[free] = np.asarray([*wanted, ""], dtype=object)[chosen]
    return result


def _divided_test(
    collection: Collection,
    wanted: Mapping[str, float],
    strata: Ints,
    groups: Ints | None,
    generator: np.random.Generator,
) -> NDArray[np.object_]:
    """Divide the labelled samples of the official test part, and those of the rest, in proportion
    to the shares of each."""
    table = collection.table
    tested, labelled = (table["split"] == "test").to_numpy(bool), (table["label"] >= 0).to_numpy()
    result = np.full(len(table), "", dtype=object)
    for part, names in (
        (tested, ("student_train", "test")),
        (~tested, ("teacher_train", "validation")),
    ):
        rows, total = np.flatnonzero(part & labelled), sum(wanted[name] for name in names)
        if total:
            shares = [wanted[name] / total for name in names]
            own = None if groups is None else groups[rows]
            chosen = draw_shares(strata[rows], shares, generator, own)
            result[rows] = np.asarray([*names, ""], dtype=object)[chosen]
    return result


def _named_splits(
    collection: Collection,
    absent: AbstractSet[str],
    strata: Ints,
    groups: Ints | None,
    generator: np.random.Generator,
) -> tuple[NDArray[np.object_], bool]:
    """Return the splits that the source names, and whether `train` was divided by the seed.

    `train` is divided between those of teacher_train and student_train that are needed and have no
    samples of their own; its unlabelled samples are left to `_with_unlabelled`.
    """
    table = collection.table
    given = table["split"].to_numpy(object)
    check_names(set(given), (*SPLITS, *SPLIT_NAMES), MISSING, "or shares")
    result = np.asarray([SPLIT_NAMES.get(name, name) for name in given], dtype=object)
    train, labelled = result == "train", (table["label"] >= 0).to_numpy(bool)
    result[train & ~labelled] = ""
    unlabelled = ~labelled & np.isin(result, ("student_train", ""))
    shares = {name: ALL_LABELLED[name] for name in ("teacher_train", "student_train")}
    for name, has_others in (
        ("teacher_train", "teacher_train" in absent or "teacher_train" in given),
        ("student_train", "student_train" in given or bool(unlabelled.any())),
    ):
        if has_others:
            del shares[name]
    rows = np.flatnonzero(train & labelled)
    if len(shares) < 2:
        result[rows] = next(iter(shares), "student_train")
        return result, False
    chosen = draw_shares(
        strata[rows],
        [share / sum(shares.values()) for share in shares.values()],
        generator,
        None if groups is None else groups[rows],
    )
    result[rows] = np.asarray([*shares, ""], dtype=object)[chosen]
    return result, bool(len(rows))


def _splits_of_source(collection: Collection) -> NDArray[np.object_]:
    given = collection.table["split"]
    if not names_splits(collection):
        raise UserError(
            f"this source has no splits {', '.join(SPLITS)}",
            key="splits",
            value="given",
            allowed="auto, or shares",
        )
    check_names(set(given), SPLITS, "given", "auto, or shares")
    return given.to_numpy(object)


def check_names(given: set[str], known: tuple[str, ...], value: object, others: str) -> None:
    """Raise `UserError` about `splits`, with what else is allowed, for names that are unknown."""
    unknown = sorted(given - {*known, ""})
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(
            f"the source has a split named '{unknown[0]}'{more}",
            key="splits",
            value=value,
            allowed=f"splits named {', '.join(known)}; {others}",
            nearest=difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5),
        )


def _with_unlabelled(
    collection: Collection, names: NDArray[np.object_], groups: Ints | None
) -> NDArray[np.object_]:
    """Put samples without label and split into student_train, but for those whose group is in
    another split: they stay unused."""
    free = (collection.table["label"] < 0).to_numpy(bool) & (names == "")
    if groups is not None:
        elsewhere = groups[~np.isin(names, ("", "student_train"))]
        free = free & ~np.isin(groups, elsewhere)
    names = names.copy()
    names[free] = "student_train"
    return names
