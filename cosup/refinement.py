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
from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator
from cosup.settings.refiners import ProductRefinementSettings

__all__ = ["ProductRefinement"]

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
        refined = ProbTable.empty(len(said), said.num_classes)
        for rows in _blocks(len(said), said.num_classes):
            part = self._product(said.dense(rows), student.dense(rows))
            refined.put(rows, ProbTable.compress(part))
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

    def _product(self, said: Tensor, student: Tensor) -> Tensor:
        """Return the refined annotations of a block [n, C]."""
        answered = said.amax(1, keepdim=True) > 0
        joint = said.clamp_min(self.floor).log() + self.weight * student.clamp_min(SMALLEST).log()
        return joint.softmax(1) * answered

    def _smooth(self, refined: ProbTable, features: Tensor, seed: int) -> ProbTable:
        """Return the means over the nearest neighbours and the sample itself."""
        answers = refined.top()[1] > 0
        references = _draw(answers.nonzero()[:, 0], self.references, seed)
        among = _unit(features[references])
        count = min(self.neighbours, len(references) - 1)
        smooth = ProbTable.empty(len(refined), refined.num_classes)
        if count < 1:
            return refined
        for rows in _blocks(len(refined), max(len(references), (count + 1) * refined.num_classes)):
            likeness = _unit(features[rows]) @ among.T
            own = torch.arange(rows.start, rows.stop)[:, None] == references
            likeness = likeness.masked_fill(own, -torch.inf)  # a sample is no neighbour of itself
            near = references[likeness.topk(count, dim=1).indices]
            around = refined.dense(near.flatten()).view(*near.shape, -1).sum(1)
            mean = (around + refined.dense(rows)) / (count + 1)
            smooth.put(rows, ProbTable.compress(mean * answers[rows, None]))
        return smooth


def _blocks(samples: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK_ELEMENTS // width)
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))


def _draw(rows: Tensor, most: int, seed: int) -> Tensor:
    """Return at most so many of the rows [n], ascending."""
    if len(rows) <= most:
        return rows
    chosen = torch.randperm(len(rows), generator=torch_generator(seed, "references"))[:most]
    return rows[chosen.sort().values]


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.float(), dim=1)
