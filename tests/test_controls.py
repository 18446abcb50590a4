"""The controls: each runs on real digits, and the bounds bound."""

from dataclasses import replace

import pytest
import torch
from helpers.digits_task import class_prototypes, digits_task, new_student, recipe
from sklearn.metrics.pairwise import cosine_similarity

from cosup.control_runs import ControlRun
from cosup.controls import CONTROLS


def run_control(name, task, recipe, best):
    return CONTROLS[name].run(ControlRun(name, task, recipe, 0, best, best))


def accuracies():
    task, labels = digits_task()
    best = replace(task.levels[0])
    own = recipe(new_student())
    return {
        name: float((run_control(name, task, own, best).top()[0] == labels).float().mean())
        for name, control in CONTROLS.items()
        if control.is_trained  # this student cannot predict before it is trained
    }


@pytest.fixture(scope="module")
def found():
    return accuracies()


def test_every_control_learns_something(found):
    assert min(found.values()) > 0.3, found


def test_the_ceiling_is_above_every_weak_supervision(found):
    assert found["ceiling"] == max(found.values())


def test_the_oracle_is_above_random_assignment(found):
    assert found["oracle_assignment"] > found["random_assignment"]


def test_zero_shot_is_the_student_before_any_training() -> None:
    task, labels = digits_task()
    head = {"kind": "prototype", "scale": 20.0}
    make = new_student(prototypes=class_prototypes(), head=head)
    predicted = run_control("zero_shot", task, recipe(make), task.levels[0])
    # Independently: the nearest prototype by cosine.
    expected = cosine_similarity(task.test_inputs.numpy(), class_prototypes().numpy())
    assert torch.equal(predicted.top()[0], torch.from_numpy(expected.argmax(1)))
    torch.testing.assert_close(
        predicted.dense(), torch.from_numpy(20 * expected).softmax(1).float(), atol=1e-3, rtol=0
    )
    assert 0.6 < float((predicted.top()[0] == labels).float().mean()) < 0.95


def test_controls_repeat_exactly(found):
    assert accuracies() == found


def test_unknown_labels_are_left_out_of_the_ceiling():
    task, labels = digits_task()
    unknown = task.truth.labels.clone()
    unknown[task.truth.labels == 3] = -1
    blind = replace(task, truth=replace(task.truth, labels=unknown))
    predicted = run_control("ceiling", blind, recipe(new_student()), task.levels[0]).top()[0]
    assert not (predicted == 3).any()
    assert (predicted == labels)[labels != 3].float().mean() > 0.9
