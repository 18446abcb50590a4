"""Arrays of NumPy: a label matrix, as snorkel's `LFApplier` returns, or class probabilities.

`.npy`: [N], [N, M] whole numbers, class indices of one or of M annotators (-1: no answer); or
[N, C] probabilities. The sample ids stand in a table beside it (`ids`). `.npz`: the same array with
`ids` [N], and optionally `annotators` [M], in one file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.config.external import ExternalSection
from cosup.errors import in_short
from cosup.teachers.tables.frames import CHUNK_ELEMENTS, ending, frames, table_error
from cosup.teachers.tables.layout import NO_ANSWER, sample_id_column, text_of
from cosup.teachers.tables.votes import ALONE, VoteCollector, Votes

__all__ = ["Arrays", "load_arrays", "read_matrix"]

IDS = ("ids", "sample_ids", "sample_id")
ANNOTATORS = ("annotators", "names")


@dataclass(frozen=True)
class Arrays:
    """values: [N, M] of whole numbers or of probabilities. ids: [N]. annotators: [M] names."""

    path: Path
    values: NDArray[Any]
    ids: "pd.Series[Any]"
    annotators: tuple[str, ...]

    @property
    def is_matrix(self) -> bool:
        """Whether it holds class indices."""
        return bool(np.issubdtype(self.values.dtype, np.integer))

    def frames(self, names: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Yield the array as a table with these columns, in chunks."""
        size = max(256, CHUNK_ELEMENTS // max(1, len(names)))
        for start in range(0, len(self.values), size):
            part = pd.DataFrame(self.values[start : start + size], columns=list(names))
            part.insert(0, "sample_id", self.ids.iloc[start : start + size].to_numpy())
            yield part


def load_arrays(path: Path, section: ExternalSection) -> Arrays:
    """Return the content of a .npy or .npz file. Raises `UserError`."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = {"": found} if ending(path) == ".npy" else {name: found[name] for name in found}
    except Exception as error:  # of NumPy, zipfile, zlib: damaged files cause errors of any kind
        raise table_error(path, f"cannot be read as NumPy arrays: {in_short(error)}") from None
    values = _values(path, arrays)
    ids = _ids(path, section, arrays)
    if len(ids) != len(values):
        raise table_error(path, f"has {len(values)} rows, and there are {len(ids)} ids")
    named = next((arrays[name] for name in ANNOTATORS if name in arrays), None)
    width = values.shape[1]
    if named is None:
        names = [ALONE] if width == 1 else [str(number) for number in range(width)]
    else:
        names = [text_of(name) for name in np.asarray(named).ravel()]
        if len(names) != width:
            raise table_error(path, f"has {width} columns, and {len(names)} annotators")
    return Arrays(path, values, ids, tuple(names))


def read_matrix(found: Arrays) -> Votes:
    """Read a label matrix, in chunks. Raises `UserError`."""
    alone = found.annotators == (ALONE,)
    votes = VoteCollector(found.path, "matrix", found.annotators, every_row=not alone)
    columns = [str(at) for at in range(len(found.annotators))]
    for chunk in found.frames(columns):
        sample = votes.start(chunk["sample_id"])
        for at, column in enumerate(columns):
            who = np.full(len(chunk), at, dtype=np.int32)
            votes.add(sample, who, chunk[column], blank=("", NO_ANSWER))
        votes.end(len(chunk))
    return votes.finish()


def _values(path: Path, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    about = {*IDS, *ANNOTATORS}
    left = [name for name, array in arrays.items() if name not in about and array.ndim in (1, 2)]
    if len(left) != 1:
        found = ", ".join(arrays) or "nothing"
        raise table_error(path, f"holds {found}", "`ids`, `annotators` and one array of answers")
    values = arrays[left[0]]
    if values.dtype.kind not in "iuf":
        raise table_error(path, f"holds an array of {values.dtype}", "whole numbers, or fractions")
    return values[:, None] if values.ndim == 1 else values


def _ids(
    path: Path, section: ExternalSection, arrays: Mapping[str, NDArray[Any]]
) -> "pd.Series[Any]":
    inside = next((arrays[name] for name in IDS if name in arrays), None)
    if inside is not None:
        return pd.Series(np.asarray(inside).ravel())
    if section.ids is None:
        raise table_error(path, "names no samples", "`ids`, a table with a column `sample_id`")
    other, parts = Path(section.ids), []
    for chunk in frames(other):
        parts.append(chunk[sample_id_column(other, list(chunk.columns), section)])
    return pd.concat(parts, ignore_index=True)
