"""The confidence and unanimity filters, against hand-worked cases and plain-Python oracles."""

from collections import Counter
from typing import Any

import pytest
import torch
from filter_cases import evidence, keep_of, labels_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.consistency import ConfidenceThreshold, Unanimity
from cosup.errors import UserError
from cosup.evidence import Evidence

CASE = {"seed": st.integers(0, 2**16), "size": st.integers(1, 30)}


def certain(values: list[float]) -> tuple[Evidence, torch.Tensor]:
    """One teacher of two classes, whose largest probabilities are these (0: it abstains)."""
    rows = torch.tensor([[value, 1 - value] if value else [0.0, 0.0] for value in values])
    return Evidence(torch.full((len(values), 2), 0.5), rows[:, None]), torch.ones(len(values), 1)


def test_confidence_keeps_at_and_above_its_threshold() -> None:
    found, weights = certain([0.5, 0.75, 0.9, 0.0])
    assert keep_of(ConfidenceThreshold(0.75), found, weights).tolist() == [False, True, True, False]
    assert keep_of(ConfidenceThreshold(0), found, weights).tolist() == [True, True, True, False]


def test_confidence_keeps_the_most_confident_share_of_those_that_answer() -> None:
    found, weights = certain([0.75, 0.9, 0.75, 0.0, 0.6])
    half = ConfidenceThreshold(threshold=0, keep_share=0.5)
    assert keep_of(half, found, weights).tolist() == [True, True, False, False, False]
    both = ConfidenceThreshold(threshold=0.8, keep_share=0.5)
    assert keep_of(both, found, weights).tolist() == [False, True, False, False, False]


@settings(max_examples=60, deadline=None)
@given(share=st.sampled_from([0.5, 2 / 3, 1.0]), **CASE)
def test_unanimity_counts_the_teachers_that_name_the_class(
    seed: int, size: int, share: float
) -> None:
    found, weights = evidence(seed, size)
    wanted = []
    for rows, label in zip(found.annotations.tolist(), labels_of(found, weights), strict=True):
        named = [row.index(max(row)) for row in rows if max(row) > 0]
        votes = Counter(named)[label] if label is not None else 0
        wanted.append(votes > 0 and votes / len(named) >= share - 1e-9)
    assert keep_of(Unanimity(share), found, weights).tolist() == wanted


@settings(max_examples=40, deadline=None)
@given(**CASE)
def test_full_unanimity_does_not_depend_on_the_assignment(seed: int, size: int) -> None:
    found, _ = evidence(seed, size)
    unanimous = [
        len({row.index(max(row)) for row in rows if max(row) > 0}) == 1
        for rows in found.annotations.tolist()
    ]
    everyone = torch.full((size, 3), 1 / 3)
    assert keep_of(Unanimity(), found, everyone).tolist() == unanimous


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (ConfidenceThreshold, "threshold", 1.5),
        (ConfidenceThreshold, "keep_share", 0),
        (Unanimity, "share", 0),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(kind: Any, key: str, value: float) -> None:
    with pytest.raises(UserError) as caught:
        kind(**{key: value})
    assert caught.value.key == (key,)
    assert caught.value.value == value
