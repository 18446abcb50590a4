"""The student learns from the teachers' labelled samples beside annotations, without a label of
student_train; the weight is chosen by predictions of samples that were not trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.digits_task import digits, digits_task, new_student, recipe
from helpers.user_errors import keys_of, mistakes_of
from torch import Tensor

import cosup
from cosup.assignment import Oracle
from cosup.config import check_config
from cosup.layout import Layout
from cosup.levels import Labelled, Task
from cosup.losses import CrossEntropy, Objective
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance, Update, folds_of
from cosup.rounds import run_rounds, with_labelled
from cosup.runs.choose import pick, standings
from cosup.runs.choose_weight import WEIGHTS

TREE: dict[str, Any] = {
    "run": {"name": "labelled", "loggers": []},
    "data": {"source": "digits", "limit": 240, "rotations": [0, 90]},
    "teachers": {
        "hierarchy": {"by": "domain", "levels": [1, 2]},
        "model": {"name": "linear_pixels", "size": 4},
        "training": {"steps": 30},
    },
    "student": {
        "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 16},
        "training": {"steps": 30},
    },
    "rounds": {"labelled": True, "assignment": {"name": "mean"}},
    "controls": ["labels", "student_and_team"],
    "execution": {"device": "cpu"},
}


def joined(labels: Tensor | None = None) -> tuple[Task, Tensor]:
    """The digits' task with its 300 teacher samples as labelled ones."""
    task, test = digits_task()
    pixels, known = digits()
    own = torch.from_numpy(pixels[:300])
    assert isinstance(task.inputs, Tensor)
    found = torch.from_numpy(known[:300]) if labels is None else labels
    return replace(task, labelled=Labelled(torch.cat([task.inputs, own]), found)), test


def test_labelled_samples_follow_those_of_student_train() -> None:
    task, _ = joined(torch.arange(300) % 10 - 1)
    samples = len(task.truth.labels)
    student = new_student()(Objective(CrossEntropy()), 0)
    targets = ProbTable.one_hot(task.truth.labels, 10)
    weights = torch.rand(samples)
    update = with_labelled(Update(student, task.inputs, targets, weights, Guidance()), task)
    assert len(update.inputs) == len(update.targets) == len(update.weights) == samples + 300
    assert update.targets.dense(slice(samples, None)).abs().sum() == 0
    assert torch.equal(update.targets.dense(slice(samples)), targets.dense())
    assert torch.equal(update.weights[:samples], weights)
    assert torch.equal(update.weights[samples:], (task.labelled.labels >= 0).float())  # type: ignore[union-attr]
    assert update.guidance is not None
    assert update.guidance.labels is not None
    assert (update.guidance.labels[:samples] == -1).all()
    assert torch.equal(update.guidance.labels[samples:], torch.arange(300) % 10 - 1)


def test_labels_help_where_annotations_are_poor() -> None:
    """And their own predictions are cross-fitted: no better than those of the test samples."""
    task, labels = joined()
    folds = folds_of(torch.arange(len(task.truth.labels) + 300), 3, 0)
    make = new_student(folds=folds, cross_fit=3)
    found = {}
    for weight in (0.001, 3.0):
        objective = Objective(CrossEntropy(), 1.0, weight)
        *_, last = run_rounds(task, recipe(make, Oracle(), objective=objective), seed=0)
        assert len(last.train_probs) == len(task.truth.labels)
        assert last.labelled_probs is not None
        assert task.labelled is not None
        own = (last.labelled_probs.top()[0] == task.labelled.labels).double().mean()
        found[weight] = float((last.test_probs.top()[0] == labels).double().mean()), float(own)
    assert found[3.0][0] > found[0.001][0]
    assert found[3.0][1] < found[3.0][0] + 0.03


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> cosup.Run:
    return cosup.run(TREE, output=tmp_path_factory.mktemp("labelled") / "run", quiet=True)


def test_the_weight_is_chosen_and_told(run: cosup.Run) -> None:
    choice = run.summary["labelled_weight"]
    assert [item["weight"] for item in choice["candidates"]] == list(WEIGHTS)
    best = max(item["accuracy"] for item in choice["candidates"])
    chosen = next(c["accuracy"] for c in choice["candidates"] if c["weight"] == choice["weight"])
    assert best - chosen < 0.05
    assert choice["samples"] == run.summary["data"]["samples"]["teacher_train"]


def test_team_and_student_are_combined_by_cross_fitted_predictions(run: cosup.Run) -> None:
    """The student that is kept has seen the samples that the exponents are fitted to."""
    files = Layout(Path(run.path)).round(len(run.summary["rounds"]))
    rows = run.summary["data"]["samples"]["teacher_train"]
    assert len(files.labelled.read(10)) == rows
    assert run.summary["team"]["fitted_on"] == "teacher_train"


def test_pick_takes_the_smallest_weight_within_noise() -> None:
    right = torch.zeros(3, 100, dtype=torch.float64)
    right[0, :50], right[1, :80], right[2, :81] = 1, 1, 1
    # One sample more, beside the same ones: there is no noise between them.
    assert pick(*standings(right), [True] * 3) == 2
    right[2, 40:81], right[2, 60:] = 1, 0
    assert pick(*standings(right), [True] * 3) == 1


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rounds": {"labelled": True, "true_label_weight": 1.0}}, "rounds.labelled"),
        ({"data": {"source": "digits", "share_train": True}}, "rounds.labelled"),
        ({"student": {**TREE["student"], "cross_fit": 0}}, "student.cross_fit"),
        ({"rounds": {"labelled": True, "labelled_weight": 0}}, "rounds.labelled_weight"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(changes: dict[str, Any], key: str) -> None:
    assert key in keys_of(mistakes_of(check_config, {**TREE, **changes}, "test"))
