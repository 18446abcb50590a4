"""`CoSupervision`: rounds on arrays in scikit-learn's manner, on digits with simulated annotators.

tests/runs/test_array_rounds.py has its numbers beside those of finished runs.
"""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crowdkit.aggregation import DawidSkene as CrowdKit
from helpers.digits_task import BLOCKS, annotate, digits, digits_task, new_student, recipe
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from cosup import CoSupervision, Scopes
from cosup.assignment import Block, DawidSkene
from cosup.consistency import LocalGlobal, TeacherStudent
from cosup.errors import RunError, UserError
from cosup.losses import AdaptiveConfidence, Objective
from cosup.rounds import run_rounds

QUICK = {"steps": 60, "lr": 0.03}
RIGHT = (0.9, 0.7, 0.6, 0.5)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return digits()[1]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return digits()[0]


@pytest.fixture(scope="module")
def votes(truth: np.ndarray) -> np.ndarray:
    """Answers [1797, 4] of simulated annotators; a fifth is missing."""
    rng = np.random.default_rng(0)
    right = rng.random((len(truth), 4)) < RIGHT
    said = np.where(right, truth[:, None], rng.integers(0, 10, right.shape))
    return np.where(rng.random(right.shape) < 0.2, -1, said)


@pytest.fixture(scope="module")
def fitted(pixels: np.ndarray, votes: np.ndarray) -> CoSupervision:
    return CoSupervision(**QUICK).fit(pixels[:1200], votes[:1200])


FAILS = {
    "check_fit_score_takes_y": "annotations are called so, not y",
    "check_classifiers_classes": "the class -1 is no answer",
    "check_supervised_y_2d": "[N, 1] is one source, and no mistake",
}


def test_it_is_an_estimator() -> None:
    model = CoSupervision(assigner="mean", cross_fit=0, steps=30, lr=0.2)
    found = check_estimator(model, expected_failed_checks=FAILS, on_skip=None)
    status = {each["check_name"]: each["status"] for each in found}
    assert {name for name, each in status.items() if each == "xfail"} == set(FAILS)
    assert len(status) > 40


def test_it_learns_more_than_its_sources_know(
    fitted: CoSupervision, pixels: np.ndarray, votes: np.ndarray, truth: np.ndarray
) -> None:
    right = float(np.mean(fitted.labels_ == truth[:1200]))
    assert right > 0.97
    assert fitted.probabilities_.max(1).mean() == pytest.approx(right, abs=0.02)
    np.testing.assert_allclose(fitted.probabilities_.sum(1), 1, atol=1e-5)
    assert fitted.score(pixels[1200:], truth[1200:]) > 0.9
    probs = fitted.predict_proba(pixels[1200:])
    assert probs.shape == (597, 10)
    assert (fitted.classes_[probs.argmax(1)] == fitted.predict(pixels[1200:])).all()


def test_reliability_is_estimated_without_labels(
    fitted: CoSupervision, votes: np.ndarray, truth: np.ndarray
) -> None:
    table, said = fitted.reliability_, votes[:1200]
    assert list(table.index) == [*fitted.scopes_.names, "student"]
    true = [(said[said[:, t] >= 0, t] == truth[:1200][said[:, t] >= 0]).mean() for t in range(4)]
    np.testing.assert_allclose(table["reliability"][:4], true, atol=0.03)
    np.testing.assert_allclose(table["coverage"][:4], (said >= 0).mean(0), atol=1e-6)
    assert ((table["low"] < table["reliability"]) & (table["reliability"] < table["high"])).all()
    assert table["note"].isna().all()


def test_a_copy_is_named(pixels: np.ndarray, votes: np.ndarray) -> None:
    copied = np.column_stack([votes, votes[:, 0]])
    table = CoSupervision(student=None).fit(None, copied).reliability_
    assert table["note"].fillna("").tolist() == ["copy", "", "", "", "copy"]
    assert table["copy_of"].iloc[4] == "teacher_0"


def test_decisions_have_a_row_per_round_and_sample(fitted: CoSupervision) -> None:
    table = fitted.decisions_
    assert table["round"].tolist() == [1] * 1200 + [2] * 1200 + [3] * 1200
    assert table["sample_id"].tolist() == [*range(1200)] * 3
    last = table[table["round"] == 3]
    assert (last["annotation"].to_numpy() == fitted.labels_).mean() > 0.97
    assert set(table["assigned_teacher"]) <= set(fitted.scopes_.names)


FILTERS: list[Any] = [TeacherStudent(), LocalGlobal()]
SETTINGS: list[Any] = [
    {"name": "teacher_student", "mode": "rank"},
    {"name": "local_global", "against": "global"},
]


@pytest.mark.parametrize(("by_name", "rounds"), [(True, 1), (False, 2)])
def test_rounds_are_those_of_the_recipe(by_name: bool, rounds: int) -> None:
    """Class specialists, filters that train students, a loss that adapts: to the last digit."""
    task, _ = digits_task()
    level = task.levels[1]
    annotations, test = level.annotations.annotations, task.test_inputs
    training = {"steps": 60, "batch_size": 64, "lr": 0.03, "standardize": True}
    filters = {"teacher_student": TeacherStudent(), "local_global": LocalGlobal()}
    objective = Objective(AdaptiveConfidence())
    made = recipe(new_student(training=training), Block(), filters, objective, repeat=rounds)
    alone = type(task)((level,), task.inputs, test, task.truth, 10, task.inputs)
    *_, wanted = run_rounds(alone, made, seed=7)
    model = CoSupervision(
        assigner="block" if by_name else Block(),
        filters=SETTINGS if by_name else FILTERS,
        loss="adaptive_confidence" if by_name else AdaptiveConfidence(),
        rounds=rounds,
        steps=60,
        batch_size=64,
        lr=0.03,
        random_state=7,
        device="cpu",
    ).fit(task.inputs.numpy(), annotations.numpy(), BLOCKS)
    last = model.decisions_[model.decisions_["round"] == rounds]
    assert last["kept"].tolist() == wanted.kept.keep.tolist()
    named = [model.scopes_.names[t] for t in wanted.assigned.weights.argmax(1).tolist()]
    assert last["assigned_teacher"].tolist() == named
    head = wanted.student
    for name, tensor in model.head_.state_dict().items():
        assert torch.equal(tensor.float(), head[name]), name
    np.testing.assert_allclose(model.predict_proba(test), wanted.test_probs.dense(), atol=1e-3)


def test_without_a_student_the_assigner_is_crowd_kits(votes: np.ndarray) -> None:
    settings = {"name": "dawid_skene", "iterations": 8, "tolerance": 0, "smoothing": 0}
    model = CoSupervision(assigner=settings, student=None).fit(None, votes)
    tasks, workers = np.nonzero(votes >= 0)
    table = pd.DataFrame({"task": tasks, "worker": workers, "label": votes[tasks, workers]})
    peer = CrowdKit(n_iter=9, tol=0).fit(table).probas_
    assert peer is not None
    wanted = peer.sort_index()[range(10)]
    np.testing.assert_allclose(model.probabilities_[wanted.index], wanted.to_numpy(), atol=1e-4)
    assert list(model.reliability_.index) == list(model.scopes_.names)
    long = CoSupervision(assigner=settings, student=None).fit(None, table)
    rows = model.probabilities_[: len(long.probabilities_)]
    np.testing.assert_allclose(long.probabilities_, rows, atol=1e-4)
    with pytest.raises(UserError, match="student"):
        model.predict(np.zeros((2, 3)))


def test_a_new_fit_forgets_the_one_before(pixels: np.ndarray, votes: np.ndarray) -> None:
    model = CoSupervision("mean", steps=5, cross_fit=0).fit(pixels[:50], votes[:50])
    assert model.predict(pixels[:3]).shape == (3,)
    model.set_params(student=None).fit(None, votes[:50])
    with pytest.raises(UserError, match="student"):
        model.predict(pixels[:3])


NAMES = np.array([f"digit {c}" for c in range(10)], dtype=object)


def forms(pixels: np.ndarray, votes: np.ndarray) -> dict[str, tuple[Any, Any]]:
    """The same features and votes in every form; a name in place of each number if it has names."""
    index = [f"scan{n}" for n in range(len(votes))]
    named = np.where(votes < 0, None, NAMES[votes])
    wide = pd.DataFrame(named, index=index, columns=["ada", "ben", "cy", "dee"])
    frame = pd.DataFrame(pixels, index=index).rename(columns=str)
    tasks, workers = np.nonzero(votes >= 0)
    ids, people = np.array(index)[tasks], np.array(wide.columns)[workers]
    long = pd.DataFrame({"task": ids, "worker": people, "label": named[tasks, workers]})
    missing = np.where(votes < 0, np.nan, votes)
    return {
        "floats": (pixels.astype(np.float64), missing),
        "lists": (pixels.tolist(), votes.tolist()),
        "tensors": (torch.from_numpy(pixels), torch.from_numpy(votes)),
        "bfloat16": (torch.from_numpy(pixels).bfloat16(), torch.from_numpy(votes).bfloat16()),
        "one-hot": (pixels, np.eye(11)[votes][..., :10]),
        "nullable": (pixels, pd.DataFrame(missing).astype("Int64")),
        "names": (pixels, named),
        "wide": (frame, wide),
        "wide, shuffled": (frame, wide.sample(frac=1, random_state=0)),
        "wide, in order": (pixels, wide),
        "long": (frame, long.sample(frac=1, random_state=0)),
    }


@pytest.mark.parametrize("form", list(forms(np.zeros((2, 1)), np.zeros((2, 4), dtype=int))))
def test_every_form_of_annotations_gives_the_same(
    form: str, pixels: np.ndarray, votes: np.ndarray
) -> None:
    rows = slice(0, 300)
    model = CoSupervision(assigner="dawid_skene", cross_fit=0, steps=20, lr=0.03)
    wanted = clone(model).fit(pixels[rows], votes[rows])
    features, annotations = forms(pixels[rows], votes[rows])[form]
    found = model.fit(features, annotations)
    np.testing.assert_allclose(found.probabilities_, wanted.probabilities_, atol=1e-5)
    named = form in ("names", "long") or form.startswith("wide")
    assert found.classes_.tolist() == (NAMES.tolist() if named else [*range(10)])
    assert (found.labels_ == (NAMES[wanted.labels_] if named else wanted.labels_)).all()
    if form.startswith("wide") or form == "long":
        assert found.scopes_.names == ("ada", "ben", "cy", "dee")
        assert found.decisions_["sample_id"].iloc[2] == "scan2"


def test_scopes_are_written_in_classes(pixels: np.ndarray) -> None:
    """Specialists of named classes, of which some are never given: as with class numbers."""
    rows = slice(300, 600)
    probs = torch.stack([annotate(block, slice(0, 300), rows) for block in BLOCKS], 1)
    settings = {"assigner": "block", "cross_fit": 0, "steps": 20, "lr": 0.03}
    wanted = CoSupervision(**settings).fit(pixels[rows], probs, BLOCKS)
    scopes = [[NAMES[c] for c in block or ()] for block in BLOCKS]
    named = CoSupervision(**settings, classes=list(NAMES)).fit(pixels[rows], probs, scopes)
    assert (named.labels_ == NAMES[wanted.labels_]).all()
    assert torch.equal(named.scopes_.classes, Scopes.of(BLOCKS, 10).classes)
    few = np.array([["a", None], ["b", "c"], ["a", "c"], ["b", None]], dtype=object)
    model = CoSupervision("mean", student=None).fit(None, few, [["a", "b"], ["c", "d"]])
    assert model.classes_.tolist() == ["a", "b", "c", "d"]
    assert model.scopes_.classes.tolist() == [
        [True, True, False, False],
        [False, False, True, True],
    ]


def test_the_same_random_state_gives_the_same_numbers(
    pixels: np.ndarray, votes: np.ndarray
) -> None:
    def fit(state: Any) -> np.ndarray:
        model = CoSupervision(steps=10, cross_fit="auto", random_state=state)
        return model.fit(pixels[:200], votes[:200]).predict_proba(pixels[200:300])

    assert np.array_equal(fit(3), fit(3))
    assert not np.array_equal(fit(3), fit(4))
    assert np.array_equal(fit(np.random.RandomState(3)), fit(np.random.RandomState(3)))


def test_fit_changes_no_setting(pixels: np.ndarray, votes: np.ndarray) -> None:
    assigner = DawidSkene()
    model = CoSupervision(assigner, [TeacherStudent()], AdaptiveConfidence(), steps=5, rounds=2)
    before, copy = model.get_params(deep=False), clone(model)
    model.fit(pixels[:100], votes[:100])
    assert model.get_params(deep=False) == before
    assert assigner.confusion_ is None
    assert isinstance(model.assigner_, DawidSkene)
    assert model.assigner_.confusion_ is not None
    assert not hasattr(copy, "assigner_")
    assert copy.set_params(steps=7).get_params()["steps"] == 7
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(pixels), model.predict_proba(pixels))


def test_it_is_the_last_step_of_a_pipeline(
    pixels: np.ndarray, votes: np.ndarray, truth: np.ndarray
) -> None:
    model = make_pipeline(StandardScaler(), CoSupervision("mean", standardize=False, **QUICK))
    model.fit(pixels[:400], votes[:400])
    assert model.score(pixels[400:], truth[400:]) > 0.8


def test_groups_stay_in_one_fold(pixels: np.ndarray, votes: np.ndarray, truth: np.ndarray) -> None:
    """A student that is trained without the group of its own class cannot name the class."""
    rows = slice(0, 400)
    found = [
        CoSupervision(steps=40, lr=0.05).fit(pixels[rows], votes[rows], groups=groups).reliability_
        for groups in (None, truth[rows])
    ]
    apart, together = (table.loc["student", "reliability"] for table in found)
    assert apart > 0.8
    assert together < 0.3


def test_it_is_not_fitted_before_fit(pixels: np.ndarray) -> None:
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(CoSupervision(), method)(pixels)


def test_filters_that_keep_nothing_end_the_fit(pixels: np.ndarray) -> None:
    apart = np.array([[0, 1]] * 50)
    with pytest.raises(RunError, match="unanimity"):
        CoSupervision("mean", ["unanimity"], **QUICK).fit(pixels[:50], apart)


VOTES = np.array([[0, 1], [2, -1], [1, 1], [0, 0], [2, 2], [1, 0]])
FEATURES = np.arange(24.0).reshape(6, 4)
FRAME = pd.DataFrame(FEATURES, index=list("abcdef")).rename(columns=str)
LONG = pd.DataFrame({"task": [0, 0, 1], "worker": ["x", "x", "y"], "label": [0, 1, 1]})
BAD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("annotations", {}, {"annotations": VOTES[:5]}),
    ("annotations", {}, {"annotations": VOTES[0:1]}),
    ("annotations", {}, {"annotations": VOTES[:, :, None, None]}),
    ("annotations", {}, {"annotations": np.full((6, 2), -1)}),
    ("annotations", {}, {"annotations": np.zeros((6, 2), dtype=int)}),
    ("annotations", {}, {"annotations": VOTES + 0.5}),
    ("annotations", {}, {"annotations": None}),
    ("annotations", {}, {"annotations": [[0, 1], [1]]}),
    ("annotations", {}, {"annotations": [["a", 1]] * 6}),
    ("annotations", {}, {"annotations": np.full((6, 2, 3), 0.5)}),
    ("annotations", {"classes": [0, 1]}, {}),
    ("annotations", {"classes": ["a", "b"]}, {"annotations": np.full((6, 2, 3), 1 / 3)}),
    ("annotations", {}, {"annotations": LONG}),
    ("annotations", {}, {"features": FRAME, "annotations": pd.DataFrame(VOTES)}),
    ("annotations", {}, {"annotations": LONG.iloc[1:].assign(task=[0, 9])}),
    ("features", {}, {"features": None}),
    ("scopes", {}, {"scopes": [[0, 1]]}),
    ("scopes", {}, {"scopes": [[0, 1], ["cat"]]}),
    ("scopes", {}, {"scopes": Scopes.of([None, None, None], 3)}),
    ("annotations", {}, {"scopes": Scopes.of([None, None], 2)}),
    ("groups", {}, {"groups": [0, 1, 2]}),
    ("groups", {}, {"groups": [0.5] * 6}),
    ("provenance.0", {}, {"provenance": (np.ones((2, 3)), np.ones((2, 2)))}),
    ("provenance", {"assigner": {"name": "gate", "prior": "provenance"}}, {}),
    ("assigner", {"assigner": "oracle"}, {}),
    ("filters", {"filters": ["given_label"]}, {}),
    ("assigner.name", {"assigner": "dawid"}, {}),
    ("filters", {"filters": "confidence"}, {}),
    ("loss", {"loss": "fitnet"}, {}),
    ("loss.name", {"loss": "mse"}, {}),
    ("student", {"student": "forest"}, {}),
    ("student", {"student": None, "assigner": "block"}, {"features": None}),
    ("student", {"student": None, "filters": ["local_global"]}, {"features": None}),
    (
        "features",
        {"student": None, "assigner": {"name": "fused", "regions": "learnt"}},
        {"features": None},
    ),
    ("steps", {"steps": 0}, {}),
    ("lr", {"lr": -1.0}, {}),
    ("rounds", {"rounds": 0}, {}),
    ("targets", {"targets": "sharp"}, {}),
    ("cross_fit", {"cross_fit": 1}, {}),
    ("cross_fit", {"cross_fit": 0}, {}),
    ("device", {"device": "tpu"}, {}),
]


@pytest.mark.parametrize(("argument", "settings", "change"), BAD)
def test_what_is_wrong_is_named(
    argument: str, settings: dict[str, Any], change: dict[str, Any]
) -> None:
    model = CoSupervision(**{"steps": 2, **settings})
    with pytest.raises(UserError) as error:
        model.fit(**{"features": FEATURES, "annotations": VOTES, **change})
    assert [".".join(one.key) for one in error.value.errors] == [argument]
    assert not hasattr(model, "classes_")


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(UserError) as error:
        CoSupervision(steps=-1, lr="fast", rounds="some").fit(FEATURES, VOTES)
    assert {one.key[0] for one in error.value.errors} == {"steps", "lr", "rounds"}
