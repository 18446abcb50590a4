"""Ranks found by counts over parts of the samples are those of all samples together."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosup.consistency import ConfidenceThreshold, TeacherStudent
from cosup.consistency.base import Measures
from cosup.consistency.ranking import Prefix, Ranked, RankingFilter, added

FILTERS = [
    TeacherStudent(k=2),
    TeacherStudent(k=2, class_balanced=True),
    ConfidenceThreshold(0.3, keep_share=0.4),
    ConfidenceThreshold(0.0, keep_share=1.0),
]


def by_counts(one: RankingFilter, parts: list[Measures], order: list[int]) -> Tensor:
    """Decide on parts as shards do. order: in which they are counted."""
    totals = torch.zeros(0, dtype=torch.int64)
    for place in order:
        totals = added(totals, one.totals(parts[place]))
    prefix = Prefix.of(one.quotas(totals))
    while prefix.step:
        table = prefix.table()
        for place in order:
            codes = prefix.codes(one.ranked(parts[place]))
            table += torch.bincount(codes, minlength=len(table))
        prefix = prefix.longer(table)
    cut = prefix.cut()
    for number, part in enumerate(parts):
        codes = prefix.codes(one.ranked(part))
        cut = cut.after(number, *codes.unique(return_counts=True))
    keeps = [
        one.keep_first(part, cut.within(one.ranked(part), number))
        for number, part in enumerate(parts)
    ]
    return torch.cat(keeps)


def measures(seed: int, size: int, classes: int, levels: int) -> Measures:
    """Random measures with as many different values as `levels`, so that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, classes, (size,), generator=generator)
    values = torch.randint(0, levels, (size,), generator=generator) / levels
    said = labels >= 0
    return {
        "label": labels,
        "inside": (torch.rand(size, generator=generator) < 0.6) & said,
        "loss": (-(1 - values).log()).masked_fill(~said, torch.inf),
        "confidence": torch.where(said, (1 + values) / 2, 0.0),
    }


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(0, 60),
    classes=st.sampled_from([1, 3, 40]),
    levels=st.sampled_from([1, 4, 10**6]),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
@pytest.mark.parametrize("one", FILTERS, ids=str)
def test_parts_are_decided_on_as_the_whole(
    one: RankingFilter, seed: int, size: int, classes: int, levels: int, cuts: list[int]
) -> None:
    whole = measures(seed, size, classes, levels)
    ends = [0, *sorted(min(cut, size) for cut in cuts), size]
    parts = [
        {name: values[start:stop] for name, values in whole.items()}
        for start, stop in pairwise(ends)
    ]
    order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(seed)).tolist()
    assert by_counts(one, parts, order).equal(one.decide(whole))


def test_negative_values_and_zeros_are_in_order() -> None:
    """As values of other filters may be: -0.0 is 0.0, and the first of equal ones is kept."""
    values = torch.tensor([0.0, -0.0, -3.5, 2.0, -1e-30, 1e-30, -torch.inf])

    class Least(ConfidenceThreshold):
        def ranked(self, measures: Measures) -> Ranked:
            return Ranked(measures["confidence"], torch.zeros(7, dtype=torch.int64))

        def keep_first(self, measures: Measures, first: Tensor) -> Tensor:
            return first

        def totals(self, measures: Measures) -> Tensor:
            return torch.zeros(1, dtype=torch.int64)

        def quotas(self, totals: Tensor) -> Tensor:
            return torch.tensor([4])

    found = by_counts(Least(), [{"confidence": values}], [0])
    assert found.tolist() == [True, False, True, False, True, False, True]
