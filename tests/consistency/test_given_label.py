"""The filter on given labels: right on cases worked by hand, and on real wrong labels."""

import pytest
import torch
from filter_cases import keep_of
from helpers.digits_task import digits_task
from helpers.user_errors import key_of, mistakes_of

from cosup.config import check_config
from cosup.consistency import GivenLabel
from cosup.errors import UserError
from cosup.evidence import Evidence


def test_samples_whose_teacher_agrees_with_the_label_are_kept() -> None:
    one, two = [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]
    annotations = torch.tensor([[one, two], [one, two], [one, two], [[0.0] * 3, two]])
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    labels = torch.tensor([0, 0, -1, 2])  # agrees, differs, unknown, its teacher abstains
    found = Evidence(torch.full((4, 3), 1 / 3), annotations, labels=labels)
    assert keep_of(GivenLabel(), found, weights).tolist() == [True, False, True, False]
    assert keep_of(GivenLabel(k=2), found, weights).tolist() == [True, False, True, False]
    assert keep_of(GivenLabel(k=3), found, weights).tolist() == [True, True, True, False]


def test_it_rejects_wrong_labels_and_keeps_right_ones_on_real_digits() -> None:
    task, _ = digits_task()
    true = task.truth.labels
    wrong = torch.rand(len(true), generator=torch.Generator().manual_seed(0)) < 0.4
    labels = torch.where(wrong, (true + 3) % 10, true)
    (_, annotations), *_ = task.levels[0].annotations.iter_dense(2**30)
    found = Evidence(annotations[:, 0], annotations, labels=labels)
    keep = keep_of(GivenLabel(), found, torch.ones(len(true), 1))
    assert (~keep)[wrong].float().mean() > 0.9
    assert keep[~wrong].float().mean() > 0.8


def test_labels_need_true_label_weight() -> None:
    tree = {
        "data": {"source": "digits"},
        "student": {"backbone": {"name": "resnet18"}},
        "rounds": {"consistency": ["given_label"]},
    }
    (error,) = mistakes_of(check_config, tree)
    assert (key_of(error), error.value) == ("rounds.consistency.0", "given_label")
    check_config({**tree, "rounds": {**tree["rounds"], "true_label_weight": 1.0}})
    with pytest.raises(UserError, match=r"given_label: Evidence.labels is None"):
        keep_of(GivenLabel(), Evidence(torch.ones(1, 2), torch.ones(1, 1, 2)), torch.ones(1, 1))
    with pytest.raises(UserError, match="k: 0"):
        GivenLabel(k=0)
