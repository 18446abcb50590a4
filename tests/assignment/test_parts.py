"""What is learned from samples in parts is what is learned from all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import pytest
import torch
from assignment_cases import Case, Chunks, random_case, rotated_digits, take

from cosup.assignment import Agreement, CrowdKit, CrowdLayer, DawidSkene, Fused, Gate, Raven
from cosup.assignment.base import Assigner
from cosup.assignment.parts import MOST_PERMUTED, Part, places_drawn
from cosup.seeds import torch_generator

T = TypeVar("T")


@dataclass(frozen=True)
class Thirds:
    """The samples of a case in parts of different lengths, one of which has none."""

    case: Case

    @property
    def batches(self) -> Chunks:
        return self.case.batches(50)

    def each(self, function: Part[T]) -> Iterator[T]:
        count = len(self.case.evidence)
        ends = [0, count // 3, count // 3, count - 20, count]
        for number, (start, stop) in enumerate(pairwise(ends)):
            part = take(self.case.evidence, slice(start, stop))
            yield function(Chunks(part, 50), number)


@pytest.mark.parametrize(
    "assigner",
    [
        DawidSkene(),
        DawidSkene(annotations="hard"),
        Fused(),
        Fused(regions="none", max_samples=90, group_above=1.0),
        Fused(regions="learnt", iterations=3),
        Gate(),
        Gate(max_samples=60),
        CrowdLayer(epochs=2),
        CrowdLayer(max_samples=60, epochs=4),
        Raven(epochs=2),
        Raven(max_samples=60, epochs=4),
        Raven(per_sample=True, epochs=3),
        CrowdKit("wawa"),
        Agreement(),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", [rotated_digits(), random_case(1, 200, 3, 4, 0.2)])
def test_parts_teach_what_the_whole_teaches(assigner: Assigner, case: Case) -> None:
    whole = case.run(assigner, size=50, seed=2)
    expected = assigner.state_dict()
    known = case.provenance if "provenance" in assigner.uses else None
    assigner.fit_parts(Thirds(case), case.scopes, seed=2, provenance=known)
    for name, value in assigner.state_dict().items():
        assert torch.allclose(value.double(), expected[name].double(), atol=1e-5), name
    assert torch.allclose(assigner.weights(case.evidence, case.scopes), whole, atol=1e-4)


def test_places_are_drawn_without_holding_all_of_them() -> None:
    def draw(samples: int, seed: int = 0) -> torch.Tensor:
        found = places_drawn(samples, 1000, torch_generator(seed, "places"))
        assert found is not None
        return found

    assert places_drawn(1000, 1000, torch_generator(0, "places")) is None
    for samples in (5000, MOST_PERMUTED * 10**6):
        found = draw(samples)
        assert len(torch.unique(found)) == 1000
        assert found.equal(found.sort().values)
        assert found.equal(draw(samples))
        assert not found.equal(draw(samples, 1))
        halves = float((found < samples // 2).double().mean())
        assert 0.4 < halves < 0.6
