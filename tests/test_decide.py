"""`cosup.decide` and `Evidence.of`: the arrays that they take, and what they say of wrong ones."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crowdkit.aggregation import DawidSkene as CrowdKit
from crowdkit.aggregation import MajorityVote
from helpers.digits_task import BLOCKS, CLASSES, digits, digits_task
from torch import Tensor

import cosup
from cosup.assignment import ASSIGNERS, Block, DawidSkene, Gate
from cosup.consistency import FILTERS, TeacherStudent
from cosup.errors import UserError
from cosup.evidence import Evidence, Scopes, mix


@pytest.fixture(scope="module")
def specialists() -> tuple[Tensor, Tensor, Tensor]:
    """Annotations [900, 2, 10] of two class specialists, random student, pixels [900, 64]."""
    task, _ = digits_task()
    annotations = task.levels[1].annotations.annotations
    student = torch.randn(900, CLASSES, generator=torch.Generator().manual_seed(0)).softmax(1)
    return annotations, student, task.inputs


@pytest.fixture(scope="module")
def votes() -> np.ndarray:
    """Votes [1797, 4] on the digits, simulated from the truth; a fifth is missing."""
    rng = np.random.default_rng(0)
    _, truth = digits()
    right = rng.random((len(truth), 4)) < [0.9, 0.7, 0.6, 0.5]
    said = np.where(right, truth[:, None], rng.integers(0, 10, right.shape))
    return np.where(rng.random(right.shape) < 0.2, -1, said)


def test_decide_is_the_rule_worked_by_hand(specialists: tuple[Tensor, Tensor, Tensor]) -> None:
    annotations, student, _ = specialists
    scopes = Scopes.of(BLOCKS, CLASSES)
    filters = [TeacherStudent(mode="mask")]
    made = cosup.decide(student, annotations, scopes, assigner=Block(), filters=filters)
    # Classes 0-4 belong to the first teacher, 5-9 to the second.
    teacher = (student.argmax(1) >= 5).long()
    assert torch.equal(made.weights.argmax(1), teacher)
    assigned = annotations[torch.arange(len(teacher)), teacher]
    torch.testing.assert_close(made.targets, assigned)
    torch.testing.assert_close(made.targets, mix(annotations, made.weights))
    inside = (student.topk(3).indices == assigned.argmax(1, keepdim=True)).any(1)
    assert torch.equal(made.keep, inside)
    rejected = {r for r, k in zip(made.reason, made.keep, strict=True) if not k}
    assert rejected == {"teacher_student"}


@pytest.mark.parametrize("name", sorted(ASSIGNERS))
def test_arrays_and_names_give_what_tensors_and_objects_give(
    name: str, specialists: tuple[Tensor, Tensor, Tensor]
) -> None:
    """For every assigner; scopes as lists, settings as a mapping, float64 from NumPy."""
    annotations, student, pixels = specialists
    settings = {"teacher": "teacher_1"} if name == "single" else {}
    truth = digits()[1][300:1200]
    built = ASSIGNERS[name].load()(**settings)
    wanted = cosup.decide(
        student,
        annotations,
        Scopes.of(BLOCKS, CLASSES),
        assigner=built,
        filters=[FILTERS["confidence"].load()(threshold=0.9)],
        features=pixels,
        truth=torch.from_numpy(truth),
        seed=3,
    )
    found = cosup.decide(
        student.double().numpy(),
        annotations.double().numpy(),
        BLOCKS,
        assigner={"name": name, **settings},
        filters=[{"name": "confidence", "threshold": 0.9}],
        features=pixels.numpy().astype(np.float64),
        truth=truth.astype(np.int32),
        seed=3,
    )
    torch.testing.assert_close(found.weights, wanted.weights)
    torch.testing.assert_close(found.targets, wanted.targets)
    assert found.reason == wanted.reason
    assert found.keep.any() == (name not in ("mean", "fused", "raven"))  # which mix


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_probabilities_may_be_of_any_precision(
    dtype: torch.dtype, specialists: tuple[Tensor, Tensor, Tensor]
) -> None:
    annotations, student, _ = specialists
    made = cosup.decide(student.to(dtype), annotations.to(dtype), BLOCKS, assigner="block")
    assert made.targets.dtype == torch.float32
    rounded = cosup.decide(
        student.to(dtype).float(), annotations.to(dtype).float(), BLOCKS, assigner="block"
    )
    assert torch.equal(made.targets, rounded.targets)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16, np.float32, torch.int32])
def test_votes_may_be_of_any_type(kind: Any, votes: np.ndarray) -> None:
    given = np.where(votes < 0, 0, votes) if kind is np.uint16 else votes
    wanted = cosup.decide(None, given.tolist(), assigner="mean").targets
    array = (
        torch.from_numpy(given).to(kind) if isinstance(kind, torch.dtype) else given.astype(kind)
    )
    assert torch.equal(cosup.decide(None, array, assigner="mean").targets, wanted)
    if kind is np.float32:  # as pandas has missing class numbers
        nan = np.where(given < 0, math.nan, given)
        assert torch.equal(cosup.decide(None, pd.DataFrame(nan), assigner="mean").targets, wanted)


def long_table(votes: np.ndarray) -> pd.DataFrame:
    tasks, workers = np.nonzero(votes >= 0)
    return pd.DataFrame({"task": tasks, "worker": workers, "label": votes[tasks, workers]})


def test_dawid_skene_without_a_student_is_crowd_kits(votes: np.ndarray) -> None:
    settings = {"name": "dawid_skene", "iterations": 8, "tolerance": 0, "smoothing": 0}
    made = cosup.decide(None, votes, assigner=settings)
    assert isinstance(made.assigner, DawidSkene)
    peer = CrowdKit(n_iter=9, tol=0).fit(long_table(votes)).probas_  # before its last M-step
    posterior = made.assigner.posterior(Evidence.of(votes))
    assert peer is not None
    wanted = peer.sort_index()[range(10)]
    np.testing.assert_allclose(posterior[wanted.index.to_numpy()], wanted.to_numpy(), atol=1e-4)


def test_the_mean_of_votes_is_crowd_kits_majority(votes: np.ndarray) -> None:
    made = cosup.decide(None, votes, assigner="mean")
    peer = MajorityVote().fit(long_table(votes)).probas_
    assert peer is not None
    wanted = peer.sort_index()[range(10)]
    np.testing.assert_allclose(made.targets[wanted.index.to_numpy()], wanted.to_numpy(), atol=1e-6)
    silent = (votes < 0).all(1)
    assert silent.any()
    assert (made.labels.numpy() == -1).tolist() == silent.tolist()
    assert {r for r, s in zip(made.reason, silent, strict=True) if s} == {"abstained"}


@pytest.mark.parametrize(
    "name", ["agreement", "block", "gate", {"name": "dawid_skene", "student_prior": True}]
)
def test_assigners_that_compare_with_the_student_ask_for_it(
    name: Any, specialists: tuple[Tensor, Tensor, Tensor]
) -> None:
    annotations, _, pixels = specialists
    with pytest.raises(UserError) as error:
        cosup.decide(None, annotations, BLOCKS, assigner=name, features=pixels)
    assert error.value.key == ("student_probs",)
    assert (name if isinstance(name, str) else "dawid_skene") in str(error.value)


@pytest.mark.parametrize("name", ["confidence", "dawid_skene", "fused", "mean", "random"])
def test_the_others_work_without_a_student(
    name: str, specialists: tuple[Tensor, Tensor, Tensor]
) -> None:
    annotations, _, _ = specialists
    made = cosup.decide(None, annotations, BLOCKS, assigner=name)
    assert made.weights.sum(1).allclose(torch.ones(900))


GOOD: dict[str, Any] = {
    "student_probs": np.full((6, 3), 1 / 3),
    "annotations": np.full((6, 2, 3), 1 / 3),
    "scopes": None,
    "assigner": "mean",
}
VOTES = np.array([[0, 1], [2, -1], [1, 1], [0, 0], [2, 2], [1, 0]])


def changed(array: np.ndarray, place: Any, value: float) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


PROBS, INSIDE = GOOD["annotations"], np.ones((3, 2))
BY_INPUTS = {"name": "gate", "prior": "provenance"}
BAD: list[tuple[str, dict[str, Any]]] = [
    ("student_probs", {"student_probs": np.full((5, 3), 1 / 3)}),
    ("student_probs", {"student_probs": np.full(6, 1 / 3)}),
    ("student_probs", {"student_probs": changed(GOOD["student_probs"], (2, 1), math.nan)}),
    ("student_probs", {"student_probs": np.zeros((6, 3))}),
    ("student_probs", {"student_probs": [["a", "b", "c"]] * 6}),
    ("annotations", {"annotations": np.full((6, 2, 4), 1 / 4)}),
    ("annotations", {"annotations": changed(PROBS, (2, 1, 0), -0.1)}),
    ("annotations", {"annotations": changed(PROBS, (2, 1, 0), math.nan)}),
    ("annotations", {"annotations": changed(PROBS, (2, 1, 0), 0.9)}),
    ("annotations", {"annotations": PROBS + 0j}),
    ("annotations", {"annotations": PROBS[0, 0]}),
    ("annotations", {"annotations": PROBS[:, 0]}),
    ("annotations", {"annotations": np.zeros((0, 2, 3))}),
    ("annotations", {"annotations": [[0, 1], [1]]}),
    ("annotations", {"annotations": None}),
    ("annotations", {"annotations": changed(VOTES, (0, 0), 3)}),
    ("annotations", {"annotations": changed(VOTES, (0, 0), -2)}),
    ("annotations", {"annotations": VOTES.astype(str)}),
    ("annotations", {"annotations": torch.complex(torch.rand(6, 2, 3), torch.rand(6, 2, 3))}),
    ("annotations", {"annotations": np.full((6, 2), -1), "student_probs": None}),
    ("scopes", {"scopes": [[0, 1]]}),
    ("scopes", {"scopes": [[0, 1], [2, 3]]}),
    ("scopes", {"scopes": ["01", "2"]}),
    ("scopes", {"scopes": 2}),
    ("scopes", {"scopes": Scopes.of([None] * 3, 3)}),
    ("features", {"features": np.zeros((5, 4))}),
    ("features", {"features": np.zeros(6)}),
    ("features", {"features": np.full((6, 4), math.inf)}),
    ("features", {"assigner": "gate"}),
    ("truth", {"assigner": "oracle"}),
    ("truth", {"truth": [0, 1, 2, 3, 0, 1]}),
    ("domains", {"assigner": {"name": "fused", "regions": "domain"}}),
    ("domains", {"domains": [0, 0, 0, 0, 0, 1]}),
    ("domains", {"domains": [0, 0, 0, 0, 0, -1]}),
    ("labels", {"filters": ["given_label"]}),
    ("labels", {"labels": [0.5] * 6}),
    ("coarse_probs", {"filters": [{"name": "local_global", "against": "coarser"}]}),
    ("coarse_probs", {"coarse_probs": np.full((6, 2), 0.5)}),
    ("provenance", {"features": np.ones((6, 2)), "assigner": BY_INPUTS}),
    ("provenance", {"provenance": np.ones((3, 2))}),
    ("provenance.0", {"features": np.ones((6, 2)), "provenance": (np.ones((3, 4)), INSIDE)}),
    ("provenance.1", {"provenance": (np.ones((3, 4)), np.ones((3, 3)))}),
    ("filters", {"filters": ["local_global"]}),
    ("filters", {"filters": "confidence"}),
    ("filters.1.name", {"filters": ["confidence", "confidense"]}),
    ("filters.0.threshold", {"filters": [{"name": "confidence", "threshold": 2}]}),
    ("assigner.name", {"assigner": "dawid"}),
    ("assigner", {"assigner": DawidSkene}),
    ("assigner.iterations", {"assigner": {"name": "dawid_skene", "iterations": "many"}}),
    ("student_probs", {"student_probs": None, "filters": ["teacher_student"]}),
]


@pytest.mark.parametrize(("argument", "change"), BAD)
def test_what_is_wrong_is_named(argument: str, change: dict[str, Any]) -> None:
    cosup.decide(**GOOD)
    with pytest.raises(UserError) as error:
        cosup.decide(**{**GOOD, **change})
    assert [".".join(one.key) for one in error.value.errors] == [argument]
    assert "\n" not in str(error.value)


def test_an_object_is_fitted_in_place(specialists: tuple[Tensor, Tensor, Tensor]) -> None:
    annotations, student, pixels = specialists
    gate = Gate()
    made = cosup.decide(student, annotations, BLOCKS, assigner=gate, features=pixels)
    assert made.assigner is gate
    again = gate.weights(Evidence.of(annotations, student, features=pixels), Scopes.of(BLOCKS, 10))
    assert torch.equal(again, made.weights)


def test_the_arrays_that_are_given_do_not_change(votes: np.ndarray) -> None:
    before, pixels = votes.copy(), digits()[0].copy()
    student = torch.full((len(votes), 10), 0.1, requires_grad=True)
    cosup.decide(student, votes, assigner="gate", features=pixels)
    assert (votes == before).all()
    assert (pixels == digits()[0]).all()
    assert student.requires_grad
