"""Samples and batches for assigners that learn a linear probe on the student's features."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.drawing import draw
from cosup.assignment.parts import Parts
from cosup.errors import UserError
from cosup.evidence import Evidence
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
    parts: Parts, most: int, seed: int, name: str, every_sample: str | None = None
) -> Drawn:
    """Return at most `most` of the samples with an annotation, drawn at random by `draw`.

    Fewer are drawn where their annotations would be more than 2^28 values. name: of the assigner,
    for errors. every_sample: the setting for which none may be left out.

    Raises `UserError` without features or samples, and where `every_sample` cannot be.
    """
    found = draw(
        parts,
        Learned(name),
        most,
        torch_generator(seed, name, "samples"),
        name,
        most_values=MOST_VALUES,
        every_sample=every_sample,
    )
    features, annotations = found.columns
    return Drawn(features.float(), annotations, found.places, found.samples)


@dataclass(frozen=True)
class Learned:
    """What a probe learns from: features and annotations. name: of the assigner, for errors."""

    name: str

    def __call__(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """Return features [n, D] and annotations [n, T, C]; raise `UserError` without features."""
        if evidence.features is None:
            raise UserError(
                f"assigner {self.name}: no features were given; it needs the student's features"
            )
        return evidence.features, evidence.annotations


def shuffled(
    size: int, epochs: int, batch: int, generator: torch.Generator
) -> Iterator[tuple[int, Tensor]]:
    """Yield the epoch and the rows of each batch."""
    for epoch in range(epochs):
        for rows in torch.split(torch.randperm(size, generator=generator), batch):
            yield epoch, rows
