"""Folds of samples that are not listed, found without looking at others."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from cosup.data.table import ImageData

__all__ = ["folds_of", "hashed_groups"]


def folds_of(data: ImageData, count: int, seed: int) -> Tensor:
    """Return the fold [n] int64 of each sample, from 0, by a hash of its group's name.

    Groups are kept whole, and any process finds the fold of any sample. Folds are about equally
    large; those of a run that lists its samples differ by at most one group. Without folds
    (`count` is 0) it is 0.
    """
    if not count:
        return torch.zeros(len(data), dtype=torch.int64)
    return hashed_groups(data, count, f"folds {seed}")


def hashed_groups(data: ImageData, count: int, purpose: str) -> Tensor:
    """Return a number below `count` for each sample [n] int64: a hash of its group's name and of
    what it is for, so that any process finds it."""
    from pandas.util import hash_array

    key = hashlib.sha256(purpose.encode()).hexdigest()[:16]
    names = data.table["group"].to_numpy(object)
    return torch.from_numpy((hash_array(names, hash_key=key) % np.uint64(count)).astype(np.int64))
