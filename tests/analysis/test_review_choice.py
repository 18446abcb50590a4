"""Choosing images to review: the chances are as stated, and what the answers tell is right."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from cosup.analysis.pool import Pool, pool_from_table, pool_table, random_numbers
from cosup.analysis.review import (
    CONTESTED,
    choose,
    contest,
    estimates,
    inclusion,
    regression,
)
from cosup.data.answers import RANDOM

CLASSES = [str(digit) for digit in range(10)]


def made_pool(size: int = 80, sources: int = 3, classes: int = 4, seed: int = 0) -> Pool:
    """A pool of random answers, a fifth of them missing."""
    draw = np.random.default_rng(seed)
    said = draw.integers(-1, classes, (size, sources))
    ids = [f"s{number}" for number in range(size)]
    return Pool(
        ids,
        np.arange(size),
        [f"t{number}" for number in range(sources)],
        said,
        np.where(said >= 0, draw.random((size, sources)), 0.0),
        draw.integers(0, classes, size),
        random_numbers(ids, seed),
    )


def drawn_again(pool: Pool, seed: int) -> Pool:
    return replace(pool, numbers=random_numbers(pool.sample_ids, seed))


def fresh(pool: Pool) -> list[str]:
    return [""] * len(pool)


def test_contest_by_hand() -> None:
    """Two images of one class, one of another: sources and classes have equal parts."""
    likely = np.array([[0.5, 1.0], [1.0, 1.0], [0.5, 0.0]])
    said = np.array([[0, 0], [0, 0], [1, -1]])
    pool = replace(
        made_pool(3, 2), said=said, likely=np.where(said >= 0, likely, 0), label=np.array([0, 0, 1])
    )
    wide, narrow = np.sqrt(0.26), 0.1
    first = np.array([wide, narrow, wide]) / (2 * wide + narrow)
    second = np.array([narrow, narrow, 0.0]) / (2 * narrow)
    both = first + second
    expected = np.array([*both[:2] / both[:2].sum(), 1.0]) / 2
    np.testing.assert_allclose(contest(pool), expected)


def test_every_class_of_the_labels_has_an_equal_part() -> None:
    pool = made_pool()
    parts = np.bincount(pool.label, weights=contest(pool))
    np.testing.assert_allclose(parts, 0.25)


@pytest.mark.parametrize("number", [1, 7, 30, 79, 80, 200])
def test_chances_sum_to_the_number_drawn(number: int) -> None:
    score = np.random.default_rng(1).gamma(0.3, size=80)
    found = inclusion(score, number)

    def excess(factor: float) -> float:
        return float(np.minimum(1, factor * score).sum() - number)

    if number >= 80:
        assert (found == 1).all()
    else:
        factor = brentq(excess, 0, 2 / score.min())
        np.testing.assert_allclose(found, np.minimum(1, factor * score), atol=1e-6)


def test_half_are_random_and_a_later_review_continues_the_draw() -> None:
    pool = made_pool()
    first = choose(pool, fresh(pool), 20)
    assert (first.count(RANDOM), first.count(CONTESTED)) == (10, 10)
    then, at_once = choose(pool, first, 20), choose(pool, fresh(pool), 40)
    assert sum(map(bool, then)) == 40
    # Contested images of the first review may come up at random in the second.
    assert then.count(RANDOM) >= at_once.count(RANDOM)
    assert all(after for before, after in zip(first, then, strict=True) if before)
    lowest = np.argsort(pool.numbers[:, 0])[: then.count(RANDOM)]
    assert [then[place] for place in lowest] == [RANDOM] * len(lowest)


def test_no_more_images_than_there_are() -> None:
    pool = made_pool(10)
    assert sum(map(bool, choose(pool, fresh(pool), 100))) == 10


def test_no_contested_image_is_of_a_group_with_a_random_one() -> None:
    pool = replace(made_pool(), groups=np.repeat(np.arange(20), 4))
    found = np.array(choose(pool, fresh(pool), 20))
    random = set(pool.groups[found == RANDOM])
    assert random
    assert not random & set(pool.groups[found == CONTESTED])


def test_images_are_drawn_as_often_as_the_estimates_assume() -> None:
    """Sequential Poisson sampling has the stated chances in the limit; here nearly."""
    pool, times = made_pool(200), 600
    often = np.zeros((2, len(pool)))
    for seed in range(times):
        found = np.array(choose(drawn_again(pool, seed), fresh(pool), 40))
        often += [found == RANDOM, found == CONTESTED]
    assert abs(often[0] / times - 0.1).max() < 4 * np.sqrt(0.1 * 0.9 / times)
    # 20 contested images beside the random ones: about 22 of the order are reached.
    chance = 0.9 * inclusion(contest(pool), 22)
    assert abs(often[1] / times - chance).mean() < 0.015


def test_the_regression_estimate_is_that_of_least_squares() -> None:
    draw = np.random.default_rng(2)
    expected = draw.random(60)
    values = (draw.random(60) < expected).astype(float)
    slope, start = np.polyfit(expected, values, 1)
    found, low, high = regression(values, expected, 0.7, np.ones(60))
    assert 0 < slope < 1
    assert found == pytest.approx(start + slope * 0.7)
    assert low < found < high


def test_a_sample_without_an_error_has_an_interval() -> None:
    share, low, high = regression(np.ones(50), np.full(50, 0.9), 0.9, np.ones(50))
    assert share == 1
    assert 0.9 < low < 0.98 < high


def average(pool: Pool, truth: np.ndarray, times: int, number: int) -> np.ndarray:
    """The mean of the estimates over many draws [S]."""
    rows = []
    for seed in range(times):
        again = drawn_again(pool, seed)
        reasons = choose(again, fresh(again), number)
        known = np.where(np.array(reasons) != "", truth, -1)
        rows.append([one.share for one in estimates(again, reasons, known)])
    return np.array(rows)


def test_estimates_do_not_depend_on_wrong_expectations() -> None:
    """The probabilities of the pool are made up, and say nothing of the truth."""
    pool = made_pool(300)
    truth = np.random.default_rng(3).integers(0, 4, 300)
    true = [(pool.said == truth[:, None])[pool.said[:, t] >= 0, t].mean() for t in range(3)]
    found = average(pool, truth, 200, 60)
    error = found.std(0) / np.sqrt(len(found))
    assert (abs(found.mean(0) - true) < 4 * error + 0.01).all()


def test_without_answers_nothing_is_said() -> None:
    pool = made_pool()
    found = estimates(pool, choose(pool, fresh(pool), 10), np.full(len(pool), -1))
    assert [one.samples for one in found] == [0, 0, 0]
    assert {one.share for one in found} == {None}


def test_a_pool_survives_as_a_table() -> None:
    pool = made_pool()
    again, reasons = pool_from_table(
        pool_table(pool, choose(pool, fresh(pool), 10), CLASSES), CLASSES
    )
    assert reasons == choose(pool, fresh(pool), 10)
    assert list(again.names) == list(pool.names)
    for name in ("said", "likely", "label", "numbers", "groups"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pool, name))


@pytest.fixture(scope="module")
def digits() -> tuple[Pool, np.ndarray]:
    """Real digits: three annotators close to each other, and a student who learned from them.

    The posterior is a naive Bayes that takes all annotators for equally good, so nothing in the
    pool knows the truth, nor who is best.
    """
    pixels, truth = load_digits(return_X_y=True)
    draw = np.random.default_rng(4)
    said = []
    for share in (0.74, 0.66, 0.6):
        wrong = (truth + draw.integers(1, 10, len(truth))) % 10
        said.append(np.where(draw.random(len(truth)) < share, truth, wrong))
    votes = np.stack(said, axis=1)
    first = np.array([np.bincount(row, minlength=10).argmax() for row in votes])
    student = cross_val_predict(
        LogisticRegression(C=0.1), pixels / 16, first, method="predict_proba", cv=3
    )
    log = np.log(student.clip(1e-3))
    for column in votes.T:
        log += np.log(np.where(np.arange(10) == column[:, None], 0.6, 0.4 / 9))
    posterior = np.exp(log - log.max(1, keepdims=True))
    posterior /= posterior.sum(1, keepdims=True)
    answers = np.concatenate([votes, student.argmax(1)[:, None]], axis=1)
    ids = [str(number) for number in range(len(truth))]
    pool = Pool(
        ids,
        np.arange(len(truth)),
        ["a", "b", "c", "student"],
        answers,
        np.take_along_axis(posterior, answers, axis=1),
        posterior.argmax(1),
        random_numbers(ids, 0),
    )
    return pool, truth


def reviewed(pool: Pool, truth: np.ndarray, reasons: Sequence[str]) -> np.ndarray:
    return np.where(np.array(reasons) != "", truth, -1)


def test_a_hundred_answers_on_real_images(digits: tuple[Pool, np.ndarray]) -> None:
    """The intervals cover the truth, and the best source is found more often than by a hundred
    images at random and counting."""
    pool, truth = digits
    true = (pool.said == truth[:, None]).mean(0)
    times, covered, width, found, counted = 60, np.zeros(4), np.zeros(4), 0, 0
    for seed in range(times):
        again = drawn_again(pool, seed)
        reasons = choose(again, fresh(again), 100)
        made = estimates(again, reasons, reviewed(pool, truth, reasons))
        low, high = (np.array([getattr(one, end) for one in made]) for end in ("low", "high"))
        covered += (low <= true) & (true <= high)
        width += high - low
        found += int(np.argmax([one.share or 0 for one in made[:3]]) == 0)
        rows = np.argsort(again.numbers[:, 0])[:100]
        counted += int((pool.said[rows, :3] == truth[rows, None]).mean(0).argmax() == 0)
    assert (covered / times >= 0.93).all()
    assert found >= 0.97 * times
    assert counted <= found
    plain = 2 * 1.96 * np.sqrt(true * (1 - true) / 100)
    assert (width / times < 0.75 * plain).all()
