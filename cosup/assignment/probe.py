"""Samples and batches for assigners that learn a linear probe on the student's features."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.gate import drawn
from cosup.errors import UserError
from cosup.evidence import Batches
from cosup.seeds import torch_generator

MOST_VALUES = 2**28
"""Annotation values [n, T, C] that are held: 1 GiB."""


@dataclass(frozen=True)
class Drawn:
    """Samples to learn from: features [n, D], annotations [n, T, C], and their index [n] among all
    `count` samples."""

    features: Tensor
    annotations: Tensor
    index: Tensor
    count: int


def draw_samples(
    batches: Batches, most: int, seed: int, name: str, every_sample: str | None = None
) -> Drawn:
    """Return the samples with an annotation, at most `most` of them, drawn at random.

    A sample is drawn by a random key of its index, so the batches do not matter. Fewer are drawn
    where their annotations would be more than 2^28 values. name: of the assigner, for errors.
    every_sample: the setting for which none may be left out.

    Raises `UserError` without features or samples, and where `every_sample` cannot be.
    """
    generator = torch_generator(seed, name, "samples")
    parts: list[tuple[Tensor, ...]] = []
    count, asked = 0, most
    for evidence in batches:
        if evidence.features is None:
            raise UserError(
                f"assigner {name}: no features were given; it needs the student's features"
            )
        most = min(most, max(1, MOST_VALUES // evidence.annotations[0].numel()))
        keys = torch.rand(len(evidence), generator=generator, dtype=torch.float64)
        useful = (evidence.annotations.sum((1, 2)) > 0).nonzero()[:, 0]
        columns = (evidence.features, evidence.annotations, torch.arange(len(evidence)) + count)
        parts.append((keys[useful.cpu()], *(column[useful] for column in columns)))
        count += len(evidence)
        held = sum(len(part[0]) for part in parts)
        if every_sample is not None and held > most:
            raise UserError(
                f"assigner {name}: {every_sample} holds the annotations of every sample, and there "
                f"are more than {most:,} (max_samples: {asked:,}); turn it off"
            )
        if held > 1.5 * most:
            parts = [drawn(parts, most)]
    if not sum(len(part[0]) for part in parts):
        raise UserError(f"assigner {name}: there is no annotated sample to learn from")
    _, features, annotations, index = drawn(parts, most)
    return Drawn(features.float(), annotations, index, count)


def shuffled(
    size: int, epochs: int, batch: int, generator: torch.Generator
) -> Iterator[tuple[int, Tensor]]:
    """Yield the epoch and the rows of each batch."""
    for epoch in range(epochs):
        for rows in torch.split(torch.randperm(size, generator=generator), batch):
            yield epoch, rows
