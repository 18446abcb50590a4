"""Teacher-student consistency (METHODS.md section 1) against a plain-Python oracle."""

import math

import pytest
import torch
from filter_cases import evidence, keep_of, labels_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.consistency import TeacherStudent
from cosup.errors import UserError
from cosup.evidence import Assigned, Evidence

CASE = {"seed": st.integers(0, 2**16), "size": st.integers(1, 40), "k": st.integers(1, 4)}


def top(probs: list[float], k: int) -> list[int]:
    return sorted(range(len(probs)), key=lambda c: -probs[c])[:k]


def least_loss(candidates: list[int], losses: dict[int, float], count: int) -> set[int]:
    return set(sorted(candidates, key=lambda i: losses[i])[:count])


@settings(max_examples=60, deadline=None)
@given(**CASE)
def test_rank_keeps_the_r_n_samples_of_least_loss(seed: int, size: int, k: int) -> None:
    found, weights = evidence(seed, size)
    labels, student = labels_of(found, weights), found.student_probs.tolist()
    known = [i for i, label in enumerate(labels) if label is not None]
    inside = [i for i in known if labels[i] in top(student[i], k)]
    losses = {i: -math.log(student[i][labels[i]]) for i in known}  # type: ignore[index]

    kept = keep_of(TeacherStudent(k=k), found, weights)
    assert set(kept.nonzero()[:, 0].tolist()) == least_loss(known, losses, len(inside))

    mask = keep_of(TeacherStudent(mode="mask", k=k), found, weights)
    assert set(mask.nonzero()[:, 0].tolist()) == set(inside)

    balanced = keep_of(TeacherStudent(k=k, class_balanced=True), found, weights)
    wanted: set[int] = set()
    for label in range(4):
        mine = [i for i in known if labels[i] == label]
        quota = math.ceil(len(inside) * len(mine) / max(1, len(known)) - 1e-9)
        wanted |= least_loss(mine, losses, quota)
    assert set(balanced.nonzero()[:, 0].tolist()) == wanted


def test_equal_losses_are_kept_in_the_samples_order() -> None:
    """Six samples have one loss, two labels are in the top 1: the first two samples are kept."""
    student = torch.tensor([[0.4, 0.3, 0.3]] * 2 + [[0.5, 0.4, 0.1]] * 4)
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    found = Evidence(student, torch.eye(3)[labels][:, None])
    keep = keep_of(TeacherStudent(k=1), found, torch.ones(6, 1))
    assert keep.tolist() == [True, True, False, False, False, False]


def test_a_uniform_student_has_exactly_k_top_classes() -> None:
    found = Evidence(torch.full((4, 4), 0.25), torch.eye(4)[:, None])
    keep = keep_of(TeacherStudent(mode="mask", k=3), found, torch.ones(4, 1))
    assert keep.tolist() == [True, True, True, False]


def test_a_probability_of_zero_ranks_last_and_stays_finite() -> None:
    found = Evidence(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.eye(2)[[0, 0]][:, None])
    measures = TeacherStudent(k=1).measure(
        found, Assigned.mixture(found.annotations, torch.ones(2, 1))
    )
    assert measures["loss"].isfinite().all()
    assert TeacherStudent(k=1).decide(measures).tolist() == [False, True]


@pytest.mark.parametrize(
    ("settings_", "key"),
    [
        ({"mode": "top"}, "mode"),
        ({"k": 0}, "k"),
        ({"mode": "mask", "class_balanced": True}, "class_balanced"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(settings_: dict[str, object], key: str) -> None:
    with pytest.raises(UserError) as caught:
        TeacherStudent(**settings_)  # type: ignore[arg-type]
    assert caught.value.key == (key,)
    assert caught.value.value == settings_[key]
    assert caught.value.allowed
