"""Refinement: annotations corrected by the student that learned from them.

The refined annotation of a sample is the normalised product of its assigned annotation and the
probabilities of the cross-fitted student, which was not trained on the sample (METHODS.md section
5). A student errs otherwise than the teacher that a sample is assigned to, as it has learned from
all of them; where both err alike, the product is as wrong as they are. With neighbours, the refined
annotations are averaged over samples that look alike to the student, as in selective weak-to-strong
(arXiv 2511.14166).

Annotations stay compact, and are refined in blocks: memory does not grow with samples x classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.errors import UserError
from cosup.nearest import ROWS, nearest
from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator
from cosup.settings.refiners import ProductRefinementSettings

__all__ = ["ProductRefinement", "averaged", "draw_references"]

BLOCK_ELEMENTS = 2**22
"""Numbers of a block: 16 MiB in float32."""
SMALLEST = 1e-12
"""Probabilities of the student are clamped to this before taking logarithms."""


@dataclass
class ProductRefinement(ProductRefinementSettings):
    """Refine annotations by the normalised product with the student's probabilities."""

    def refine(
        self, said: ProbTable, student: ProbTable, features: Tensor | None = None, seed: int = 0
    ) -> ProbTable:
        """Return the refined annotations of N samples.

        said: the assigned annotations; a row of zeros, an abstention, stays one. student:
        probabilities of students that were not trained on the sample. features: [N, D] of the
        student, if `neighbours` are asked for. seed: draws the references.

        Raises `UserError` if the features are missing.
        """
        refined = self.product(said, student)
        if not self.neighbours:
            return refined
        if features is None:
            raise UserError(
                "averages over neighbours in the student's features, and there are none",
                key="neighbours",
                value=self.neighbours,
                allowed="0",
            )
        return self._smooth(refined, features, seed)

    def product(self, said: ProbTable, student: ProbTable) -> ProbTable:
        """Return the normalised products alone, without an average over neighbours."""
        refined = ProbTable.empty(len(said), said.num_classes)
        for rows in _blocks(len(said), said.num_classes):
            part = self._product(said.dense(rows), student.dense(rows))
            refined.put(rows, ProbTable.compress(part))
        return refined

    def _product(self, said: Tensor, student: Tensor) -> Tensor:
        """Return the refined annotations of a block [n, C]."""
        answered = said.amax(1, keepdim=True) > 0
        joint = said.clamp_min(self.floor).log() + self.weight * student.clamp_min(SMALLEST).log()
        return joint.softmax(1) * answered

    def _smooth(self, refined: ProbTable, features: Tensor, seed: int) -> ProbTable:
        """Return the means over the nearest neighbours and the sample itself."""
        answered = (refined.top()[1] > 0).nonzero()[:, 0]
        drawn = draw_references(len(answered), self.references, seed)
        references = answered if drawn is None else answered[drawn]
        count = min(self.neighbours, len(references) - 1)
        if count < 1:
            return refined
        smooth, among = ProbTable.empty(len(refined), refined.num_classes), features[references]
        step = max(1, min(ROWS, BLOCK_ELEMENTS // ((count + 1) * refined.num_classes)))
        for own in torch.split(answered, step):
            near = nearest(features[own], own, [(among, references)], count).positions
            smooth.put(own, averaged(refined.take(own), refined.take(near.flatten())))
        return smooth


def averaged(own: ProbTable, around: ProbTable) -> ProbTable:
    """Return the means of n annotations and those of their k neighbours each (n * k rows)."""
    count = len(around) // len(own)
    smooth = ProbTable.empty(len(own), own.num_classes)
    for rows in _blocks(len(own), (count + 1) * own.num_classes):
        near = around.dense(slice(rows.start * count, rows.stop * count))
        total = near.view(-1, count, own.num_classes).sum(1) + own.dense(rows)
        smooth.put(rows, ProbTable.compress(total / (count + 1)))
    return smooth


def draw_references(samples: int, most: int, seed: int) -> Tensor | None:
    """Return at most so many of the samples, ascending; None for all of them."""
    if samples <= most:
        return None
    chosen = torch.randperm(samples, generator=torch_generator(seed, "references"))[:most]
    return chosen.sort().values


def _blocks(samples: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK_ELEMENTS // width)
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))
