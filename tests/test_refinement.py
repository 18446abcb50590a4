"""Refined annotations are the product worked by hand, whatever the blocks; a student that did not
learn an annotation corrects it on real digits, and one that learned it may not."""

import math

import pytest
import torch
from helpers.digits_task import digits_task, new_student, recipe
from torch import Tensor

import cosup.refinement
from cosup.analysis.decisions import decisions_table, refinement_measures
from cosup.assignment import Oracle
from cosup.errors import UserError
from cosup.probabilities import ProbTable
from cosup.protocols import folds_of
from cosup.refinement import ProductRefinement
from cosup.rounds import RoundState, run_rounds


def tables(samples: int, classes: int) -> tuple[ProbTable, ProbTable]:
    generator = torch.Generator().manual_seed(samples)
    said, student = (
        (3 * torch.randn(samples, classes, generator=generator)).softmax(1) for _ in range(2)
    )
    said[1] = 0  # an abstention
    said[2, : classes // 2] = 0  # classes that the teacher does not know
    said[2] /= said[2].sum()
    return ProbTable.compress(said), ProbTable.compress(student)


def worked(said: list[float], student: list[float], weight: float, floor: float) -> list[float]:
    if not any(said):
        return [0.0] * len(said)
    joint = [max(a, floor) * max(p, 1e-12) ** weight for a, p in zip(said, student, strict=True)]
    return [value / sum(joint) for value in joint]


@pytest.mark.parametrize("classes", [5, 100])
@pytest.mark.parametrize(("weight", "floor"), [(1.0, 1e-6), (0.5, 0.01), (0.0, 1e-6)])
def test_a_refined_annotation_is_the_normalised_product(
    classes: int, weight: float, floor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many classes too, in blocks of a few rows."""
    monkeypatch.setattr(cosup.refinement, "BLOCK_ELEMENTS", 3 * classes)
    said, student = tables(20, classes)
    refined = ProductRefinement(weight=weight, floor=floor).refine(said, student)
    rows = zip(said.dense().tolist(), student.dense().tolist(), strict=True)
    expected = torch.tensor([worked(a, p, weight, floor) for a, p in rows])
    given = refined.dense()
    torch.testing.assert_close(given, expected, atol=1e-3, rtol=2e-3)
    assert not given[1].any()


def test_neighbours_are_the_nearest_by_cosine_and_no_sample_is_its_own() -> None:
    said, student = tables(30, 5)
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    plain = ProductRefinement().refine(said, student).dense().double()
    smooth = ProductRefinement(neighbours=3).refine(said, student, features).dense()
    for row in range(30):
        if row == 1:
            assert not smooth[row].any()
            continue
        near = sorted(
            (other for other in range(30) if other not in (row, 1)),
            key=lambda other: -_cosine(features[row], features[other]),
        )[:3]
        mean = plain[[row, *near]].mean(0)
        torch.testing.assert_close(smooth[row].double(), mean, atol=2e-3, rtol=0)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double()) / math.hypot(*a.tolist()) / math.hypot(*b.tolist())


def test_blocks_and_references_leave_the_result_to_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, student = tables(60, 5)
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    built = ProductRefinement(neighbours=2, references=20)
    found = built.refine(said, student, features, 7).logs
    monkeypatch.setattr(cosup.refinement, "BLOCK_ELEMENTS", 100)
    assert built.refine(said, student, features, 7).logs.equal(found)
    assert not built.refine(said, student, features, 8).logs.equal(found)


def test_neighbours_need_features() -> None:
    with pytest.raises(UserError) as caught:
        ProductRefinement(neighbours=2).refine(*tables(5, 3))
    assert caught.value.key == ("neighbours",)


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_the_cross_fitted_student_corrects_annotations_of_real_digits(targets: str) -> None:
    task, labels = digits_task()
    groups = torch.arange(len(task.truth.labels))
    make = new_student(folds=folds_of(groups, 3, 0), cross_fit=3)
    refiner = ProductRefinement(rounds=2, targets=targets)  # type: ignore[arg-type]
    plan = recipe(make, Oracle(), refiner=refiner)
    assert plan.schedule(2) == [(1, 0), (2, 1), (3, 1), (4, 1)]
    assert plan.needed(2) == [(2, 1), (3, 1), (4, 1)], "round 1 teaches no later one"
    outcomes = list(run_rounds(task, plan, seed=0))
    assert [outcome.refined is None for outcome in outcomes] == [True, True, False, False]
    plain, last = outcomes[1], outcomes[-1]
    measures = refinement_measures(last, task.truth)
    assert refinement_measures(plain, task.truth) == {}
    before = float((last.assigned.targets.top()[0] == task.truth.labels).double().mean())
    assert measures["refined_accuracy"] > before + 0.01
    assert measures["refined_right"] > measures["refined_wrong"]
    right = [float((o.test_probs.top()[0] == labels).double().mean()) for o in (plain, last)]
    assert right[1] >= right[0]

    table = decisions_table(
        last, task.levels[1].scopes, groups.tolist(), task.truth, range(10), ["all"]
    )
    changed = table["refined_label"].astype(int) != table["annotation"].astype(int)
    assert float(changed.mean()) == pytest.approx(measures["refined"])


def test_resumed_rounds_of_refinement_equal_uninterrupted_ones() -> None:
    task, _ = digits_task(300)
    make = new_student(folds=folds_of(torch.arange(300), 2, 0), cross_fit=2)
    plan = recipe(make, Oracle(), refiner=ProductRefinement(rounds=2))
    whole = list(run_rounds(task, plan, seed=3))
    for done in (2, 3):
        state = RoundState()
        for outcome in whole[:done]:
            state = state.at(outcome.level).after(outcome)
        rest = list(run_rounds(task, plan, seed=3, state=state))
        assert [outcome.number for outcome in rest] == list(range(done + 1, 5))
        assert rest[-1].test_probs.logs.equal(whole[-1].test_probs.logs)
