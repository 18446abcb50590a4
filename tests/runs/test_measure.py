"""Abstaining is not erring: accuracies where a teacher answers, and the choice of the best one."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from cosup.metrics import lower_bound, pgr, shares
from cosup.probabilities import ProbTable
from cosup.runs.measure import Score, best_teacher, score
from cosup.runs.summary import TestSplit, student_numbers


def table(labels: list[int], classes: int = 2) -> ProbTable:
    """Return certain answers; -1 abstains."""
    probs = torch.zeros(len(labels), classes)
    for row, label in enumerate(labels):
        if label >= 0:
            probs[row, label] = 1
    return ProbTable.compress(probs)


@pytest.mark.parametrize(("right", "answered"), [(0, 5), (3, 5), (40, 60), (60, 60)])
def test_the_lower_bound_is_wilsons(right: int, answered: int) -> None:
    expected = binomtest(right, answered).proportion_ci(0.95, method="wilson").low
    assert lower_bound(right, answered) == pytest.approx(expected, abs=1e-6)


def test_an_abstention_is_no_error() -> None:
    labels = torch.tensor([0, 0, 1, 1, -1])
    found = score(table([0, 1, -1, -1, 0]), labels)
    assert found == Score(right=1, answered=2, samples=4)
    assert (found.accuracy, found.coverage) == (0.5, 0.5)
    assert Score(0, 0, 4).accuracy is None


def test_gaps_do_not_cost_an_annotator_the_first_place() -> None:
    """The sizes of an annotator who left out a fifth, beside a complete but worse one."""
    gaps, complete = Score(592, 796, 1000), Score(677, 1000, 1000)
    assert best_teacher({"complete": complete, "gaps": gaps}) == "gaps"


def test_few_answers_do_not_win() -> None:
    scores = {"lucky": Score(3, 3, 1000), "good": Score(600, 900, 1000)}
    assert best_teacher(scores) == "good"
    crowd = {"lucky": Score(3, 3, 1000), "busy": Score(90, 100, 1000)}  # none answers half
    assert best_teacher(crowd) == "busy"
    assert best_teacher({"one": Score(0, 0, 0), "two": Score(0, 0, 0)}) == "one"


def test_columns_with_gaps_are_measured_on_their_own_samples() -> None:
    draw = np.random.default_rng(0)
    right = draw.random((200, 3)) < 0.6
    counted = np.stack([np.ones(200), draw.random(200) < 0.5, np.zeros(200)], axis=1) > 0
    groups = np.arange(200) // 4
    found, whole = shares(right, groups, counted=counted), shares(right, groups)
    there = counted[:, 1]
    assert found.mean[1] == pytest.approx(right[there, 1].mean())
    assert found.gain[1] == pytest.approx(right[there, 0].mean() - right[there, 1].mean())
    part = shares(right[there], groups[there])
    assert found.low[1] == pytest.approx(part.low[1], abs=0.03)
    assert found.high[1] == pytest.approx(part.high[1], abs=0.03)
    assert (found.mean[0], found.low[0], found.high[0]) == (
        whole.mean[0],
        whole.low[0],
        whole.high[0],
    )
    assert np.isnan([found.mean[2], found.low[2], found.gain[2], found.gain_high[2]]).all()


def split(samples: int) -> TestSplit:
    labels = torch.arange(samples) % 2
    zeros = torch.zeros(samples, dtype=torch.int64)
    return TestSplit(labels, zeros, torch.arange(samples), ("a", "b"), ("all",))


def test_pgr_compares_where_the_floor_answers() -> None:
    test = split(400)
    truth = test.labels.tolist()
    floor = [
        -1 if row >= 200 else label if row % 4 else 1 - label for row, label in enumerate(truth)
    ]
    student = [label if row % 10 else 1 - label for row, label in enumerate(truth)]
    numbers = student_numbers(test, table(student), table(floor), table(truth), 0)
    half = np.mean([one == true for one, true in zip(student[:200], truth, strict=False)])
    assert numbers["pgr"] == pytest.approx(pgr(0.75, float(half), 1.0))


def test_without_an_answer_to_test_samples_there_is_no_pgr() -> None:
    test = split(40)
    truth = test.labels.tolist()
    numbers = student_numbers(test, table(truth), table([-1] * 40), table(truth), 0)
    assert (numbers["pgr"], numbers["pgr_ci95"]) == (None, None)
    assert numbers["pgr_reason"]
    assert numbers["accuracy"] == 1
