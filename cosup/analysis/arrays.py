"""A run's records as arrays: places in lists of names, and the most probable answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cosup.probabilities import ProbTable

__all__ = ["Answers", "Codes", "Floats", "Teacher", "categories", "codes", "repeated"]

Codes = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Teacher:
    """A teacher of the hierarchy. classes, domains: its scope, as places in the run's; None: all.
    steps: optimiser steps of its training here."""

    name: str
    level: int
    kind: str
    classes: tuple[int, ...] | None
    domains: tuple[int, ...] | None
    steps: int


@dataclass(frozen=True)
class Answers:
    """The most probable answer to each sample: label [M] int64 (-1: abstains) and confidence [M]
    float32, its share of the row's mass."""

    label: Codes
    confidence: Floats

    @staticmethod
    def of(table: ProbTable) -> "Answers":
        """Those of a table's rows."""
        label, value = table.top()
        total = table.values.to(torch.float32).sum(1)
        if table.rest is not None:
            total += table.rest.to(torch.float32)
        confidence = value / torch.where(total > 0, total, torch.ones_like(total))
        return Answers(torch.where(value > 0, label, -1).numpy(), confidence.numpy())


def codes(column: "pd.Series[Any]", names: list[str]) -> Codes:
    """[n] int64 places in `names` of a column of categories; -1 where it is null or no name."""
    own = column.cat.categories
    place = {name: number for number, name in enumerate(names)}
    table = np.array([*(place.get(str(name), -1) for name in own), -1], dtype=np.int64)
    found: Codes = table[column.cat.codes.to_numpy()]
    return found


def categories(index: NDArray[Any], names: Sequence[str]) -> "pd.Categorical[str]":
    """Places in names (-1: missing) as categories in the names' order."""
    dtype: pd.CategoricalDtype[str] = pd.CategoricalDtype(list(names))
    return pd.Categorical.from_codes(np.asarray(index, dtype=np.int32), dtype=dtype)


def repeated(names: list[str], times: int) -> "pd.Categorical[str]":
    """Each name so many times, one after another, as categories."""
    number = np.repeat(np.arange(len(names)), times)
    known = list(dict.fromkeys(names))
    place = np.array([known.index(name) for name in names] or [0])
    return categories(place[number], known)
