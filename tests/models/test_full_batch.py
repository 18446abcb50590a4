"""Heads by L-BFGS: at the minimum, each by itself, and only with losses that have one."""

import numpy as np
import pytest
import torch
from helpers.digits_task import CLASSES, digits_task
from sklearn.linear_model import LogisticRegression

from cosup.config import check_config
from cosup.errors import UserError
from cosup.losses import CrossEntropy, Objective
from cosup.models.fit import fit_heads, predict_heads
from cosup.models.head_fit import HeadFit
from cosup.models.section import HeadSection
from cosup.models.training_section import TrainingSection
from cosup.probabilities import ProbTable


def digit_fit(members, steps=200, weights=None, **training):
    task, _ = digits_task(600)
    return HeadFit(
        features=task.inputs,
        targets=ProbTable.one_hot(task.truth.labels, CLASSES),
        members=members,
        head=HeadSection(kind="linear"),
        training=TrainingSection(steps=steps, optimizer="lbfgs", **training),
        objective=Objective(CrossEntropy()),
        seed=0,
        weights=weights,
    )


def test_the_minimum_is_that_of_scikit_learn():
    """With C = 1 / (n weight_decay), and samples of weight 0 left out."""
    task, _ = digits_task(600)
    weights = (torch.arange(600) % 4).float()
    fit = digit_fit([torch.arange(600)], weights=weights, weight_decay=1e-2)
    [found] = predict_heads(fit_heads(fit), task.test_inputs)
    inputs, labels = task.inputs.numpy(), task.truth.labels.numpy()
    model = LogisticRegression(C=1 / (float(weights.sum()) * 1e-2), max_iter=5000, tol=1e-8)
    model.fit(inputs.astype(np.float64), labels, weights.numpy())
    expected = model.predict_proba(task.test_inputs.numpy())
    np.testing.assert_allclose(found.dense().numpy(), expected, atol=5e-3)


def test_a_head_does_not_depend_on_the_others():
    half, rest = torch.arange(300), torch.arange(300, 600)
    bank = fit_heads(digit_fit([half, rest], standardize=True))
    for place, rows in enumerate((half, rest)):
        alone = fit_heads(digit_fit([rows], standardize=True)).state_dict()
        for name, tensor in bank.select(place).state_dict().items():
            assert torch.equal(tensor, alone[name]), name


def test_few_iterations_reach_what_many_steps_do():
    task, labels = digits_task(600)
    fit = digit_fit([torch.arange(600)], steps=30, standardize=True)
    [found] = predict_heads(fit_heads(fit), task.test_inputs)
    assert float((found.top()[0] == labels).float().mean()) > 0.9


def test_steps_are_reported_up_to_their_number():
    steps = []
    fit_heads(digit_fit([torch.arange(600)], steps=5), on_step=lambda step, *_: steps.append(step))
    assert steps == [1, 2, 3, 4, 5]


def config(rounds, **training):
    return {
        "data": {"source": "digits"},
        "teachers": {
            "hierarchy": {"by": "domain", "levels": [1]},
            "model": {"name": "linear_pixels"},
            "training": {"steps": 5},
        },
        "student": {
            "backbone": {"name": "resnet18", "weights": "random"},
            "training": {"steps": 5, "optimizer": "lbfgs", **training},
        },
        "rounds": rounds,
    }


FIXED = {"assignment": "mean", "loss": "cross_entropy"}


@pytest.mark.parametrize(
    ("rounds", "training", "key"),
    [
        (FIXED, {"steps": None, "epochs": 3}, "student.training.epochs"),
        (FIXED, {"warmup": 0.1}, "student.training.warmup"),
        ({**FIXED, "loss": "adaptive_confidence"}, {}, "rounds.loss"),
        ({"choose": "auto"}, {}, "rounds.choose"),
    ],
)
def test_settings_that_do_not_combine(rounds, training, key):
    with pytest.raises(UserError) as error:
        check_config(config(rounds, **training))
    assert [".".join(one.key) for one in error.value.errors] == [key]


def test_settings_that_combine():
    check_config(config(FIXED))
    check_config(config({"choose": "auto", "loss": "cross_entropy"}))
