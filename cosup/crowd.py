"""Annotations as people have them, for `CoSupervision`: names of classes, and tables of pandas."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from cosup.arrays import NO_ANSWER, annotations_of, plain
from cosup.errors import UserError, unknown_of_many
from cosup.evidence import Scopes, ScopesLike
from cosup.words import plural

__all__ = ["LONG", "Crowd", "read_crowd"]

LONG = ("task", "worker", "label")
"""Columns of a table with a row per answer (crowd-kit's)."""
ARGUMENT = "annotations"
FEW = 20
"""Classes that an error lists."""


@dataclass(frozen=True)
class Crowd:
    """The annotations of N samples by T sources.

    annotations: [N, T, C] float32, all 0 where a source does not answer. classes: [C], sorted, or
    in the order in which they were given. scopes: of the sources, with their names. ids: names of
    the samples, or their numbers.
    """

    annotations: Tensor
    classes: NDArray[Any]
    scopes: Scopes
    ids: "pd.Index[Any]"


def read_crowd(
    given: Any,
    scopes: ScopesLike,
    classes: Sequence[Any] | None,
    ids: "pd.Index[Any] | None",
    samples: int | None,
) -> Crowd:
    """Read annotations in any of the forms that `CoSupervision.fit` takes.

    scopes: as there. classes: all of them, in the order of probabilities; None: those that occur.
    ids: of the samples, if the features have any. samples: N, if it is known. Raises `UserError`.
    """
    if given is None:
        # scikit-learn's words for it.
        raise UserError("requires y to be passed, but the target y is None", key=ARGUMENT)
    names: list[str] | None = None
    if isinstance(given, pd.DataFrame):
        given = _aligned(given, ids, samples)
        names, ids = [str(name) for name in given.columns], given.index
    if isinstance(scopes, Scopes):
        names = list(scopes.names)
    values = plain(given) if isinstance(given, Tensor) else _array(given)
    if values.ndim == 3:
        probs = annotations_of(values, None if classes is None else len(classes))
        known = np.arange(probs.shape[2]) if classes is None else _array(list(classes))
    else:
        codes, known = _codes(values, classes, scopes)
        probs = annotations_of(codes, len(known))
    if samples is not None and len(probs) != samples:
        raise UserError(
            f"is for {plural(len(probs), 'sample')}, the features for {samples}", key=ARGUMENT
        )
    if len(known) < 2:
        raise UserError(
            "has answers of one class alone", key=ARGUMENT, allowed="two classes or more"
        )
    found = Scopes.given(_numbered(scopes, known), probs.shape[1], len(known))
    if names is not None:
        found = Scopes(tuple(names), found.classes, found.domains)
    return Crowd(probs, known, found, pd.RangeIndex(len(probs)) if ids is None else ids)


def _array(values: Any) -> NDArray[Any]:
    try:
        found = np.asarray(values)
    except ValueError:
        raise UserError("has rows of different lengths", key=ARGUMENT) from None
    # Text and numbers together would all become text.
    mixed = found.dtype.kind in "SU" and not isinstance(values, np.ndarray)
    return np.asarray(values, dtype=object) if mixed else found


def _codes(
    values: NDArray[Any], classes: Sequence[Any] | None, scopes: ScopesLike
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return class numbers [N, T], -1 for no answer, and the classes [C]."""
    if values.ndim not in (1, 2):
        raise UserError(
            f"has the shape {list(values.shape)}", key=ARGUMENT, allowed="[N], [N, T] or [N, T, C]"
        )
    values = values[:, None] if values.ndim == 1 else values
    flat = values.ravel()
    silent = pd.isna(flat)
    if values.dtype.kind in "iuf":
        silent |= flat == NO_ANSWER
    elif values.dtype == object:
        silent |= np.array([isinstance(n, Integral) and n == NO_ANSWER for n in flat], dtype=bool)
    said = _of_one_kind(flat[~silent])
    if said.dtype.kind == "f" and silent.any() and (said == said.round()).all():
        said = said.astype(np.int64)  # whole numbers, which NaN made floats
    known = _occurring(said, scopes) if classes is None else _array(list(classes))
    places = pd.Index(known).get_indexer(pd.Index(said))
    if (places < 0).any():
        wrong = said[places < 0][0]
        names = list(map(str, known.tolist()))
        raise unknown_of_many("class", str(wrong), names, _in_words(names)).moved(ARGUMENT)
    codes = np.full(len(flat), NO_ANSWER, dtype=np.int64)
    codes[~silent] = places
    return codes.reshape(values.shape), known


def _in_words(classes: Sequence[str]) -> str:
    return ", ".join(classes) if len(classes) <= FEW else f"one of {plural(len(classes), 'class')}"


def _of_one_kind(said: NDArray[Any]) -> NDArray[Any]:
    """Return answers as an array of one type; raise `UserError` if they are not of one."""
    if not len(said):
        raise UserError("has no answer", key=ARGUMENT)
    if said.dtype == object:
        kinds = {"text" if isinstance(one, str) else "number" for one in said.tolist()}
        if len(kinds) > 1:
            raise UserError("mixes text and numbers as classes", key=ARGUMENT)
        said = np.array(said.tolist())
    try:
        check_classification_targets(said)
    except ValueError as error:
        raise UserError(f"{error}; probabilities are [N, T, C]", key=ARGUMENT) from None
    return said


def _occurring(said: NDArray[Any], scopes: ScopesLike) -> NDArray[Any]:
    """Return the classes that answers and scopes name."""
    if isinstance(scopes, Scopes):
        return np.arange(scopes.classes.shape[1])
    listed = [one for members in scopes or () if members is not None for one in members]
    texts = {isinstance(one, str) for one in listed}
    if texts == {said.dtype.kind in "SU"}:
        return np.unique(np.concatenate([said, np.array(listed)]))
    return np.unique(said)


def _numbered(scopes: ScopesLike, classes: NDArray[Any]) -> ScopesLike:
    """Return scopes whose classes are numbers."""
    if scopes is None or isinstance(scopes, Scopes):
        return scopes
    number = {name: place for place, name in enumerate(classes.tolist())}
    found: list[list[int] | None] = []
    for place, members in enumerate(scopes):
        members = None if members is None else list(members)
        for one in members or ():
            if one not in number:
                raise UserError(
                    f"scope of source {place}: class {{value}} does not occur",
                    key="scopes",
                    value=one,
                    allowed="classes of the annotations",
                )
        found.append(None if members is None else [number[one] for one in members])
    return found


def _aligned(table: pd.DataFrame, ids: "pd.Index[Any] | None", samples: int | None) -> pd.DataFrame:
    """Return a table with a row per sample, in their order, and a column per source."""
    if set(LONG) <= set(table.columns):
        table = _pivoted(table)
        if ids is None:
            last = int(table.index.max()) + 1 if table.index.dtype.kind in "iu" else None
            ids = pd.RangeIndex(samples if samples is not None else last or 0)
    if ids is None or table.index.equals(ids):
        return table
    for name, index in (("features", ids), (ARGUMENT, table.index)):
        if not index.is_unique:
            twice: Hashable = index[index.duplicated()][0]
            raise UserError("has two rows named {value}", key=name, value=twice)
    unknown = table.index.difference(ids)
    if len(unknown):
        raise UserError(
            "has a row {value}, which no sample is named",
            key=ARGUMENT,
            value=unknown.tolist()[0],
            allowed="the names of the features' rows, or row numbers if these have none",
        )
    return table.reindex(ids)


def _pivoted(table: pd.DataFrame) -> pd.DataFrame:
    """Return a column per worker of a table with a row per answer."""
    task, worker, label = LONG
    twice = table.duplicated([task, worker])
    if twice.any():
        first, who = table.loc[twice, [task, worker]].astype(object).to_numpy().tolist()[0]
        raise UserError(f"has two answers of worker {who!r}", key=ARGUMENT, value=first)
    return table.pivot(index=task, columns=worker, values=label)
