"""The head student respects sample weights, folds and parts, and restores its state."""

import torch
from helpers.digits_task import CLASSES, digits_task, new_student

from cosup.losses import CrossEntropy, Objective
from cosup.probabilities import ProbTable


def truth_table():
    task, _ = digits_task()
    return task, ProbTable.one_hot(task.truth.labels, CLASSES)


def test_cross_fitted_predictions_are_out_of_fold():
    # Random labels can be memorised, but not predicted for samples held out.
    task, _ = digits_task(200)
    noise = torch.randint(0, CLASSES, (200,), generator=torch.Generator().manual_seed(0))
    targets, ones = ProbTable.one_hot(noise, CLASSES), torch.ones(200)
    training = {"steps": 200, "batch_size": 200, "lr": 0.3}
    plain = new_student(training=training)(Objective(CrossEntropy()), 0)
    plain.update(task.inputs, targets, ones)
    folds = torch.arange(200) % 5
    crossed = new_student(folds, training=training, cross_fit=5)(Objective(CrossEntropy()), 0)
    crossed.update(task.inputs, targets, ones)
    by_heart = (plain.predict_own(task.inputs).top()[0] == noise).float().mean()
    held_out = (crossed.predict_own(task.inputs).top()[0] == noise).float().mean()
    assert by_heart > 0.4
    assert held_out < 0.2


def test_cross_fitted_predictions_are_in_the_order_of_samples():
    task, targets = truth_table()
    folds = torch.randint(0, 3, (len(targets),), generator=torch.Generator().manual_seed(1))
    student = new_student(folds, cross_fit=3)(Objective(CrossEntropy()), 0)
    student.update(task.inputs, targets, torch.ones(len(targets)))
    own = student.predict_own(task.inputs).top()[0]
    assert (own == task.truth.labels).float().mean() > 0.85


def test_parts_are_trained_on_their_rows_and_the_student_is_unchanged():
    task, targets = truth_table()
    student = new_student()(Objective(CrossEntropy()), 0)
    student.update(task.inputs, targets, torch.ones(len(targets)))
    before = student.predict(task.test_inputs)
    low = torch.nonzero(task.truth.labels < 5)[:, 0]
    high = torch.nonzero(task.truth.labels >= 5)[:, 0]
    parts = student.fit_parts(task.inputs, targets, [low, high])
    assert (parts.predict(0, task.test_inputs).top()[0] < 5).all()
    assert (parts.predict(1, task.test_inputs).top()[0] >= 5).all()
    assert torch.equal(student.predict(task.test_inputs).logs, before.logs)


def test_a_loaded_state_predicts_the_same():
    task, targets = truth_table()
    student = new_student()(Objective(CrossEntropy()), 0)
    student.update(task.inputs, targets, torch.ones(len(targets)))
    other = new_student()(Objective(CrossEntropy()), 1)
    other.load_state_dict(student.state_dict())
    first, second = student.predict(task.test_inputs), other.predict(task.test_inputs)
    assert torch.equal(first.logs, second.logs)
