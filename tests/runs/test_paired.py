"""Paired comparisons of runs equal SciPy and cases worked by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from cosup.probabilities import ProbTable
from cosup.runs.directory import RunDirectory
from cosup.runs.paired import (
    Correct,
    compare_pairs,
    compare_seeds,
    is_significant_pair,
    load_correct,
    save_correct,
)
from cosup.runs.summary import TestSplit as Split


def random_run(seed: int, share: float, count: int = 400, groups: int = 100) -> Correct:
    rng = np.random.default_rng(seed)
    right = torch.from_numpy(rng.random(count) < share)
    return Correct(right, torch.arange(count) % groups)


def test_over_seeds_the_interval_is_the_paired_t_interval() -> None:
    first = [random_run(seed, 0.8) for seed in range(4)]
    second = [random_run(seed + 10, 0.6) for seed in range(4)]
    result = compare_seeds(first, second, seed=0)
    one, two = (np.array([float(c.correct.double().mean()) for c in s]) for s in (first, second))
    oracle = stats.ttest_rel(one, two).confidence_interval(0.95)
    assert result["ci95"] == pytest.approx([oracle.low, oracle.high], abs=1e-4)
    assert result["difference"] == pytest.approx(np.mean(one) - np.mean(two))
    assert result["deviation"] == pytest.approx(np.std(one - two, ddof=1))
    assert result["by_seed"] == pytest.approx(list(one - two))
    assert result["better_on"] == 4
    assert result["metric"] == "student.accuracy"


def test_over_samples_the_interval_is_near_the_normal_interval() -> None:
    first, second = random_run(0, 0.8, groups=400), random_run(1, 0.7, groups=400)
    low, high = compare_seeds([first], [second], seed=0)["ci95_samples"]
    difference = first.correct.double() - second.correct.double()
    mean = float(difference.mean())
    half = 1.96 * float(difference.std()) / len(difference) ** 0.5
    assert [low, high] == pytest.approx([mean - half, mean + half], abs=0.006)


def test_seeds_with_the_same_test_samples_do_not_narrow_the_interval() -> None:
    """Repeating the same answers nine times adds no evidence on the samples."""
    first, second = random_run(0, 0.8), random_run(1, 0.7)
    one = compare_seeds([first], [second], seed=0)
    many = compare_seeds([first] * 9, [second] * 9, seed=0)
    assert many["ci95_samples"] == pytest.approx(one["ci95_samples"])
    assert many["difference"] == pytest.approx(one["difference"])


def test_a_single_seed_has_no_interval_over_seeds() -> None:
    result = compare_seeds([random_run(0, 0.9)], [random_run(1, 0.5)], seed=0)
    assert (result["ci95"], result["deviation"], result["better_on"]) == (None, None, 1)
    assert is_significant_pair(result)


def test_every_pair_is_compared_with_the_later_run_first() -> None:
    runs = {name: [random_run(seed, share)] for seed, (name, share) in enumerate(NAMED.items())}
    pairs = compare_pairs(runs, seed=0)
    assert [(p["first"], p["second"]) for p in pairs] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert pairs[0]["difference"] > 0 > pairs[1]["difference"]
    assert compare_pairs({"a": [random_run(0, 0.5)]}, seed=0) == []


NAMED = {"a": 0.5, "b": 0.9, "c": 0.1}


@pytest.mark.parametrize(
    ("over_seeds", "samples", "more"),
    [
        (None, [0.1, 0.2], True),
        (None, [-0.1, 0.2], False),
        ([0.01, 0.3], [0.1, 0.2], True),
        ([-0.01, 0.3], [0.1, 0.2], False),
        ([0.01, 0.3], [-0.1, 0.2], False),
        ([-0.3, -0.1], [-0.2, -0.1], True),
        ([0.0, 0.0], [0.0, 0.0], False),
        ([0.1, 0.2], [-0.2, -0.1], False),
    ],
)
def test_is_significant_pair_means_every_interval_on_one_side(
    over_seeds: list[float] | None, samples: list[float], more: bool
) -> None:
    assert is_significant_pair({"ci95": over_seeds, "ci95_samples": samples}) is more


def test_correct_answers_are_recorded_and_abstentions_are_wrong(tmp_path: Path) -> None:
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.0, 0.0], [0.6, 0.4]])
    test = Split(
        torch.tensor([0, 0, 0, 0]),
        torch.zeros(4, dtype=torch.int64),
        torch.tensor([3, 3, 1, 0]),
        ("a", "b"),
        ("all",),
    )
    save_correct(RunDirectory(tmp_path), test, ProbTable.compress(probs))
    kept = load_correct(tmp_path)
    assert kept.correct.tolist() == [True, False, False, True]
    assert kept.groups.tolist() == [3, 3, 1, 0]
    assert kept.accuracy == 0.5
