"""Samples drawn at random out of all parts, for assigners that learn from some of the samples.

The samples with an annotation are marked first, and what is learned of those that are drawn is read
then. Where the parts are shards, other processes read them, and a bit per sample and what is drawn
are all that is returned.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosup.assignment.parts import Parts
from cosup.errors import UserError
from cosup.evidence import Evidence

__all__ = ["Columns", "Drawing", "draw"]

Columns = Callable[[Evidence], tuple[Tensor, ...]]
"""What is learned of n samples: tensors with a row for each. It can be sent to other processes."""


@dataclass(frozen=True)
class Drawing:
    """Samples that were drawn.

    columns: what is learned of them. places: [n] int64, ascending: where they are among all
    samples. samples: the number of all.
    """

    columns: tuple[Tensor, ...]
    places: Tensor
    samples: int


def draw(
    parts: Parts,
    columns: Columns,
    most: int,
    generator: torch.Generator,
    name: str,
    *,
    most_values: int | None = None,
    every_sample: str | None = None,
) -> Drawing:
    """Draw at most `most` of the samples with an annotation.

    A sample is drawn by a random key of its place, so neither parts nor batches matter. name: of
    the assigner, for errors. most_values: fewer are drawn where their annotations are more values.
    every_sample: the setting for which none may be left out.

    Raises `UserError` without an annotation, and where `every_sample` cannot be.
    """
    sizes, found = list[int](), list[tuple[Tensor, ...]]()
    samples, held, asked = 0, 0, most
    for marked in parts.each(mark):
        if marked.values and most_values is not None:
            most = min(most, max(1, most_values // marked.values))
        keys = torch.rand(marked.samples, generator=generator, dtype=torch.float64)
        places = marked.places()
        found.append((keys[places], places + samples))
        sizes.append(marked.samples)
        samples += marked.samples
        held += len(places)
        if held > most and every_sample is not None:
            raise UserError(
                f"assigner {name}: {every_sample} holds the annotations of every sample, and there "
                f"are more than {most:,} (max_samples: {asked:,}); turn it off"
            )
        if held > 1.5 * most:
            found = [drawn(found, most)]
            held = len(found[0][0])
    if not held:
        raise UserError(f"assigner {name}: there is no annotated sample to learn from")
    _, places = drawn(found, most)
    taken = [one for one in parts.each(Take(columns, places, sizes)) if one is not None]
    return Drawing(tuple(map(torch.cat, zip(*taken, strict=True))), places, samples)


@dataclass(frozen=True)
class Marked:
    """Which of the samples of a part have an annotation.

    bits: uint8, a bit for each. values: of the annotations of a sample, T times C; 0 without any.
    """

    samples: int
    bits: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    values: int

    def places(self) -> Tensor:
        """Return the places [n] of those that have."""
        marks = np.unpackbits(self.bits, count=self.samples)
        return torch.from_numpy(np.flatnonzero(marks))


def mark(batches: Iterable[Evidence], number: int) -> Marked:
    """Mark the samples of a part that have an annotation."""
    marks, values = [torch.zeros(0, dtype=torch.bool)], 0
    for evidence in batches:
        annotations = evidence.annotations
        marks.append((annotations.sum((1, 2)) > 0).cpu())
        values = annotations.shape[1] * annotations.shape[2]
    joined = torch.cat(marks)
    return Marked(len(joined), np.packbits(joined.numpy()), values)


@dataclass(frozen=True)
class Take:
    """Takes what is learned of the samples at some places. places: ascending. sizes: samples of
    each part."""

    columns: Columns
    places: Tensor
    sizes: Sequence[int]

    def __call__(self, batches: Iterable[Evidence], number: int) -> tuple[Tensor, ...] | None:
        """Return the rows of a part; None without any, where nothing is read."""
        start, found = sum(self.sizes[:number]), list[tuple[Tensor, ...]]()
        if not len(self._rows(start, self.sizes[number])):
            return None
        for evidence in batches:
            rows = self._rows(start, len(evidence))
            start += len(evidence)
            if len(rows):
                found.append(tuple(one[rows.to(one.device)] for one in self.columns(evidence)))
        return tuple(map(torch.cat, zip(*found, strict=True)))

    def _rows(self, start: int, count: int) -> Tensor:
        """Return the rows that are taken of so many samples, the first of which is at `start`."""
        first, last = torch.searchsorted(self.places, torch.tensor([start, start + count])).tolist()
        return self.places[first:last] - start


def drawn(parts: Sequence[tuple[Tensor, ...]], most: int) -> tuple[Tensor, ...]:
    """Return columns with a row per sample, joined: of the `most` samples with the least keys, the
    first column, in their order."""
    joined = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    if len(joined[0]) <= most:
        return joined
    chosen = joined[0].topk(most, largest=False).indices.sort().values
    return tuple(column[chosen] for column in joined)
