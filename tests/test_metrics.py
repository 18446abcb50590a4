"""Every metric against scikit-learn where it does not use it, or against a hand-worked case."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    log_loss,
    precision_score,
    recall_score,
)

from cosup.evidence import Scopes, Truth
from cosup.metrics import (
    accuracy,
    agreement,
    assignment_accuracy,
    brier,
    effective_teachers,
    expected_calibration_error,
    intervals,
    kappa,
    kept_precision,
    kept_recall,
    negative_log_likelihood,
    no_gap,
    over_seeds,
    paired_comparison,
    per_group_accuracy,
    pgr,
    pgr_interval,
    spread,
    t_975,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_accuracy_is_sklearns_and_leaves_out_unknown_labels(rng: np.random.Generator) -> None:
    labels, predicted = rng.integers(0, 4, (2, 200))
    assert accuracy(predicted, labels) == pytest.approx(accuracy_score(labels, predicted))
    assert accuracy(torch.tensor([1, 1, 0]), torch.tensor([1, 0, -1])) == 0.5
    assert math.isnan(accuracy(np.array([-1]), np.array([-1])))


def test_per_group_accuracy_names_the_groups_that_have_samples() -> None:
    found = per_group_accuracy(
        np.array([0, 1, 1, 0]), np.array([0, 1, 0, -1]), np.array([0, 2, 2, 1]), ["a", "b", "c"]
    )
    assert found == {"a": 1.0, "c": 0.5}


def test_pgr_is_the_share_of_the_gap_and_none_without_one() -> None:
    assert pgr(0.5, 0.6, 0.9) == pytest.approx(0.25)
    assert pgr(0.5, 0.4, 0.9) == pytest.approx(-0.25)
    assert pgr(0.9, 0.6, 0.9) is None


def test_pgr_interval_agrees_with_the_delta_method(rng: np.random.Generator) -> None:
    """Fieller's ratio of means: for a wide gap, its normal approximation holds."""
    floor, student, ceiling = (rng.random(3000) < p for p in (0.4, 0.6, 0.9))
    low, high = pgr_interval(floor, student, ceiling) or (math.nan, math.nan)
    gain = student.astype(float) - floor
    gap = ceiling.astype(float) - floor
    ratio = gain.mean() / gap.mean()
    error = np.std(gain - ratio * gap) / gap.mean() / math.sqrt(3000)
    wanted = norm.interval(0.95, ratio, error)
    np.testing.assert_allclose((low, high), wanted, atol=0.1 * error)


def test_pgr_interval_draws_groups_together(rng: np.random.Generator) -> None:
    """Four copies of each scan add no information: the same draws, the same interval."""
    correct = [rng.random(300) < p for p in (0.4, 0.6, 0.9)]
    alone = pgr_interval(*correct, groups=np.arange(300), samples=500)
    copies = [np.repeat(part, 4) for part in correct]
    together = pgr_interval(*copies, groups=np.repeat(np.arange(300), 4), samples=500)
    assert together == pytest.approx(alone)
    narrow = pgr_interval(*copies, samples=500)
    assert alone is not None
    assert narrow is not None
    assert (alone[1] - alone[0]) == pytest.approx(2 * (narrow[1] - narrow[0]), rel=0.25)


def test_many_groups_are_drawn_in_blocks_with_the_same_intervals(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = rng.random(8000) < 0.7, rng.random(8000) < 0.6
    groups = np.arange(8000) // 2
    exact = paired_comparison(first, second, groups)
    monkeypatch.setattr(intervals, "MOST_GROUPS", 1000)
    blocks = paired_comparison(first, second, groups)
    assert blocks.difference == exact.difference
    assert blocks.high - blocks.low == pytest.approx(exact.high - exact.low, rel=0.12)
    alone = paired_comparison(first, second)  # every sample for itself
    assert alone.high - alone.low == pytest.approx(exact.high - exact.low, rel=0.15)


def test_pgr_interval_is_seeded_and_none_where_the_gap_may_be_nothing() -> None:
    floor = np.array([True] * 10 + [False] * 10)
    assert pgr_interval(floor, floor, floor) is None
    hardly = floor.copy()
    hardly[-1] = True  # one more of twenty: a third of the draws don't hold it
    assert pgr_interval(floor, floor, hardly) is None
    wide = np.ones(20, dtype=bool)
    assert pgr_interval(floor, floor, wide, seed=1) == pgr_interval(floor, floor, wide, seed=1)
    assert pgr_interval(floor, floor, wide) == (0, 0)


def test_no_gap_says_why_and_agrees_with_the_interval(rng: np.random.Generator) -> None:
    """A PGR has an interval exactly where no reason against it is given."""
    for size, gain in itertools.product((20, 100, 1000), (-0.1, 0.0, 0.05, 0.3)):
        floor, ceiling = rng.random(size) < 0.5, rng.random(size) < 0.5 + gain
        reason = no_gap(floor, ceiling)
        assert (reason is None) == (pgr_interval(floor, floor, ceiling) is not None)
        if reason is not None:
            assert f"{100 * floor.mean():.1f} %" in reason
            assert ("noise" in reason) == (ceiling.mean() > floor.mean())


def test_paired_comparison_is_the_mean_difference_with_its_standard_error(
    rng: np.random.Generator,
) -> None:
    first = rng.normal(1.0, 1.0, 2000)
    second = rng.normal(0.8, 1.0, 2000)
    found = paired_comparison(first, second)
    difference = first - second
    assert found.difference == pytest.approx(difference.mean())
    error = difference.std() / math.sqrt(2000)
    np.testing.assert_allclose(
        (found.low, found.high), norm.interval(0.95, difference.mean(), error), atol=0.1 * error
    )
    nothing = paired_comparison([], [])  # type: ignore[arg-type]
    assert math.isnan(nothing.difference)


def test_agreement_is_accuracy_and_kappa_corrects_for_chance(
    rng: np.random.Generator,
) -> None:
    first = rng.integers(0, 5, 300)
    second = np.where(rng.random(300) < 0.6, first, rng.integers(0, 7, 300))
    assert agreement(first, second) == pytest.approx(accuracy_score(first, second))
    # Worked from counts: (observed - chance) / (1 - chance).
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / 300
    shares = [(np.sum(first == c) / 300, np.sum(second == c) / 300) for c in range(7)]
    chance = sum(one * two for one, two in shares)
    assert kappa(first, second) == pytest.approx((observed - chance) / (1 - chance))
    # By hand: 0.7 agree; chance is 0.5 * 0.6 + 0.5 * 0.4.
    one, two = np.repeat([0, 1], 5), np.array([0, 0, 0, 0, 1, 0, 0, 1, 1, 1])
    assert kappa(one, two) == pytest.approx((0.7 - 0.5) / 0.5)
    assert kappa(torch.from_numpy(first), torch.from_numpy(first)) == pytest.approx(1)
    assert math.isnan(kappa(np.zeros(3), np.zeros(3)))
    assert math.isnan(kappa(np.zeros(0), np.zeros(0)))


def test_likelihood_and_brier_are_sklearns(rng: np.random.Generator) -> None:
    probs, labels = rng.dirichlet([0.5] * 4, 200), rng.integers(0, 4, 200)
    wanted = log_loss(labels, probs, labels=range(4))
    assert negative_log_likelihood(probs, labels) == pytest.approx(wanted)
    one_hot = np.eye(4)[labels]
    assert brier(probs, labels) == pytest.approx(((probs - one_hot) ** 2).sum(1).mean())
    two = rng.dirichlet([1, 1], 200)
    wanted = 2 * brier_score_loss(labels % 2, two[:, 1])
    assert brier(torch.from_numpy(two), labels % 2) == pytest.approx(wanted)
    assert negative_log_likelihood(np.array([[0.5, 0.5], [1, 0]]), np.array([0, -1])) == (
        pytest.approx(math.log(2))
    )


def test_calibration_error_is_the_weighted_gap_of_each_bin(rng: np.random.Generator) -> None:
    probs, labels = rng.dirichlet([0.4] * 3, 500), rng.integers(0, 3, 500)
    confidence, right = probs.max(1), probs.argmax(1) == labels
    worked = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            worked += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(probs, labels) == pytest.approx(worked)
    sure = np.eye(3)[labels]
    assert expected_calibration_error(sure, labels) == 0


def test_assignment_accuracy_is_the_specialists_weight_that_is_in_scope() -> None:
    scopes = Scopes.of([[0, 1], [2], None, None], 3, [[0], None, [1], None], 2)
    truth = Truth(torch.tensor([0, 0, 2, -1]), torch.tensor([0, 1, 1, 0]))
    weights = torch.tensor(
        [[1.0, 0, 0, 0], [0.5, 0.25, 0.25, 0], [0.1, 0.25, 0.15, 0.5], [0, 0, 1, 0]]
    )
    # Sample 0: in scope of teacher 0; sample 1: of 2; sample 2: of 1 and 2; 3: unknown. Teacher 3
    # knows everything, so half of sample 2 doesn't count.
    assert assignment_accuracy(weights, scopes, truth) == pytest.approx((1 + 0.25 + 0.4) / 2.5)


def test_without_weight_on_specialists_there_is_no_assignment_accuracy() -> None:
    """An annotator whose scope is everything can't be assigned wrongly."""
    truth = Truth(torch.tensor([0, 1]), torch.tensor([0, 0]))
    everyone = Scopes.of([None, None], 2)
    assert assignment_accuracy(torch.eye(2), everyone, truth) is None
    mixed = Scopes.of([None, [0]], 2)
    assert assignment_accuracy(torch.tensor([[1.0, 0], [1, 0]]), mixed, truth) is None
    assert assignment_accuracy(torch.tensor([[1.0, 0], [0, 1]]), mixed, truth) == 0


def test_kept_precision_and_recall_are_sklearns(rng: np.random.Generator) -> None:
    labels, annotated = rng.integers(-1, 3, 300), rng.integers(-1, 3, 300)
    keep = (rng.random(300) < 0.5) & (annotated >= 0)
    known = labels >= 0
    right = (annotated == labels)[known]
    precision = precision_score(right, keep[known])
    assert kept_precision(keep, annotated, labels) == pytest.approx(precision)
    recall = recall_score(right, keep[known])
    assert kept_recall(torch.from_numpy(keep), annotated, labels) == pytest.approx(recall)
    assert math.isnan(kept_precision(np.zeros(300, dtype=bool), annotated, labels))


def test_effective_teachers_counts_from_one_to_all() -> None:
    assert effective_teachers(torch.eye(3)[[1, 1, 1]]) == pytest.approx(1)
    assert effective_teachers(torch.eye(4)) == pytest.approx(4)
    assert effective_teachers(torch.full((5, 2), 0.5)) == pytest.approx(2)
    assert 1 < effective_teachers(torch.eye(2)[[0, 0, 0, 1]]) < 2


def test_quantiles_of_students_t_are_those_of_its_closed_forms_and_of_tables() -> None:
    assert t_975(1) == pytest.approx(math.tan(0.475 * math.pi))
    assert t_975(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)))
    tabled = {3: 3.182, 5: 2.571, 10: 2.228, 20: 2.086, 40: 2.021, 120: 1.980}
    assert {degrees: round(t_975(degrees), 3) for degrees in tabled} == tabled


def test_spread_is_the_t_interval_of_the_mean() -> None:
    found = spread([1.0, 2.0, None, 3.0, float("nan")])
    half = 4.302653 / math.sqrt(3)  # the deviation is 1
    assert found["mean"] == pytest.approx(2)
    assert found["deviation"] == pytest.approx(1)
    assert found["ci95"] == pytest.approx([2 - half, 2 + half])


def test_spread_of_few_values() -> None:
    assert spread([None, 0.5]) == {
        "mean": 0.5,
        "deviation": None,
        "ci95": None,
        "values": [None, 0.5],
    }
    assert spread([None])["mean"] is None


def test_over_seeds_is_the_t_test_where_seeds_have_samples_of_their_own() -> None:
    values = [0.61, 0.68, 0.64, 0.7]
    oracle = stats.ttest_1samp(values, 0.6)
    found = over_seeds([value - 0.6 for value in values], np.zeros(9), same_samples=False)
    interval = oracle.confidence_interval(0.95)
    assert [found.low + 0.6, found.high + 0.6] == pytest.approx([interval.low, interval.high])
    assert found.p_value == pytest.approx(oracle.pvalue)
    assert found.deviation == pytest.approx(np.std(values, ddof=1))


def test_over_seeds_adds_squared_half_widths_and_its_p_value_is_of_its_interval() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        values = rng.normal(0.04, 0.02, size=3)
        draws = rng.normal(0, rng.uniform(0, 0.04), size=2000)
        found = over_seeds(values.tolist(), draws, same_samples=True)
        t_half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
        half = np.hypot(t_half, stats.norm.ppf(0.975) * draws.std())
        assert [found.low, found.high] == pytest.approx([found.mean - half, found.mean + half])
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)
    none = np.zeros(9)
    assert over_seeds([0.0, 0.0], none, same_samples=True).p_value == 1
    assert over_seeds([0.1, 0.1], none, same_samples=True).p_value == pytest.approx(0)


def test_seeds_that_agree_by_accident_do_not_hide_the_chance_of_samples() -> None:
    draws = np.random.default_rng(0).normal(0.1, 0.06, size=2000)
    found = over_seeds([0.1, 0.1], draws, same_samples=False)
    half = stats.norm.ppf(0.975) * draws.std()
    assert [found.low, found.high] == pytest.approx([0.1 - half, 0.1 + half])
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.1 / draws.std()))


@pytest.mark.parametrize("deviations", [(0.05, 0.5, 0.5), (0.2, 0.5, 0.5), (0.0, 0.5, 0.0)])
def test_over_seeds_covers_crossed_seeds_and_samples(
    deviations: tuple[float, float, float],
) -> None:
    """Of 400 made experiments, with effects of seeds, samples and both, at least 93 % cover."""
    rng = np.random.default_rng(1)
    hits = []
    weights = rng.multinomial(100, [0.01] * 100, size=300)  # of the bootstrap
    for _ in range(400):
        by_seed, by_sample, both = (
            rng.normal(0, deviation, size)
            for deviation, size in zip(deviations, ((3, 1), (1, 100), (3, 100)), strict=True)
        )
        values = by_seed + by_sample + both
        draws = weights @ values.mean(0) / 100
        found = over_seeds(values.mean(1).tolist(), draws, same_samples=True)
        hits.append(found.low <= 0 <= found.high)
    assert np.mean(hits) > 0.93
