"""Reliability of sources: sums against pandas and scikit-learn, and bad sources found and named."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chi2
from sklearn.metrics import mutual_info_score
from torch import Tensor

from cosup import sources
from cosup.sources import Tally, block_of, notes, others_speak

CLASSES = 5


def tally(
    labels: Tensor, posterior: Tensor, region: Tensor | None = None, batch: int = 64
) -> Tally:
    """Count answers [N, S] under a posterior [N, C], in batches."""
    size = len(labels)
    region = torch.zeros(size, dtype=torch.int64) if region is None else region
    block = block_of(torch.arange(size) // 2)
    found = Tally(labels.shape[1], posterior.shape[1], int(region.max()) + 1)
    for start in range(0, size, batch):
        rows = slice(start, start + batch)
        found.add(labels[rows], posterior[rows], region[rows], block[rows])
    return found


def random_case(samples: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, CLASSES, (samples, 3), generator=draw)
    posterior = torch.rand(samples, CLASSES, generator=draw).pow(4)
    region = torch.randint(0, 2, (samples,), generator=draw)
    return labels, posterior / posterior.sum(1, keepdim=True), region


def test_sums_equal_a_groupby() -> None:
    labels, posterior, region = random_case()
    found = tally(labels, posterior, region)
    rows = [
        {"source": s, "region": int(r), "class": c, "said": int(a), "q": float(q)}
        for answers, r, probs in zip(labels, region, posterior, strict=True)
        for s, a in enumerate(answers)
        if a >= 0
        for c, q in enumerate(probs)
    ]
    table = pd.DataFrame(rows)
    right = table[table["said"] == table["class"]]
    whole = table.groupby("source")["q"].sum()
    np.testing.assert_allclose(found.reliability(), right.groupby("source")["q"].sum() / whole)
    np.testing.assert_allclose(found.samples, (labels >= 0).sum(0))
    by = ["source", "region"]
    expected = right.groupby(by)["q"].sum() / table.groupby(by)["q"].sum()
    np.testing.assert_allclose(found.by_region().flatten(), expected, rtol=1e-6)
    by = ["source", "class"]
    expected = right.groupby(by)["q"].sum() / table.groupby(by)["q"].sum()
    np.testing.assert_allclose(found.by_class().flatten(), expected, rtol=1e-6)


def test_batches_do_not_matter() -> None:
    labels, posterior, region = random_case()
    one, other = (tally(labels, posterior, region, batch) for batch in (7, 1000))
    torch.testing.assert_close(one.confusion, other.confusion)
    torch.testing.assert_close(one.equal, other.equal)
    assert np.array(one.intervals(0)) == pytest.approx(np.array(other.intervals(0)))


def test_intervals_are_those_of_a_binomial() -> None:
    truth = torch.zeros(2000, dtype=torch.int64)
    labels = (torch.arange(2000) % 10 < 3).long()[:, None]
    found = Tally(1, 2)
    zeros = torch.zeros(2000, dtype=torch.int64)
    found.add(labels, torch.nn.functional.one_hot(truth, 2), zeros, block_of(torch.arange(2000)))
    interval = found.intervals(0)[0]
    assert interval is not None
    half = 1.96 * math.sqrt(0.21 / 2000)
    assert interval == pytest.approx((0.7 - half, 0.7 + half), abs=0.006)
    assert Tally(1, 2).intervals(0) == [None]


@pytest.mark.parametrize("freedom", [1, 4, 81, 4096])
def test_the_quantile_of_chi_squared(freedom: int) -> None:
    assert sources._chi_squared(freedom) == pytest.approx(chi2.ppf(0.999, freedom), rel=0.035)


def test_information_is_mutual_information() -> None:
    """`_informs` turns at the mutual information that scikit-learn measures."""
    draw = np.random.default_rng(0)
    truth = draw.integers(CLASSES, size=4000)
    for right in (0.0, 0.1, 0.3, 0.5):
        said = np.where(draw.random(4000) < right, truth, draw.integers(CLASSES, size=4000))
        counts = torch.zeros(CLASSES, CLASSES, dtype=torch.float64)
        np.add.at(counts.numpy(), (said, truth), 1)
        told = mutual_info_score(truth, said)
        bias = (CLASSES - 1) ** 2 / 8000
        enough = told - bias > sources.LITTLE * math.log(CLASSES)
        assert sources._informs(counts) == (
            enough and 8000 * told > chi2.ppf(0.999, (CLASSES - 1) ** 2)
        )


def crowd(samples: int = 600) -> tuple[Tensor, Tensor, list[str]]:
    """Return answers of good and bad sources to real classes, and their names."""
    draw = np.random.default_rng(1)
    truth = draw.integers(CLASSES, size=samples)

    def right(share: float) -> np.ndarray:
        wrong = (truth + draw.integers(1, CLASSES, size=samples)) % CLASSES
        return np.where(draw.random(samples) < share, truth, wrong)

    good, fair = right(0.8), right(0.45)
    copy = np.where(draw.random(samples) < 0.99, good, right(0.2))
    columns = {
        "good": good,
        "fair": fair,
        "copy": copy,
        "random": draw.integers(CLASSES, size=samples),
        "constant": np.full(samples, 2),
        "adversarial": (truth + 1) % CLASSES,
        "gaps": np.where(draw.random(samples) < 0.3, right(0.7), -1),
        "rare": np.where(np.arange(samples) < 10, 2, -1),
    }
    return (
        torch.from_numpy(np.stack(list(columns.values()), axis=1)),
        torch.nn.functional.one_hot(torch.from_numpy(truth), CLASSES),
        list(columns),
    )


@pytest.mark.parametrize("certain", [1.0, 0.8])
def test_bad_sources_are_named_and_good_ones_are_not(certain: float) -> None:
    labels, truth, names = crowd()
    posterior = certain * truth + (1 - certain) / CLASSES
    found = dict(zip(names, notes(tally(labels, posterior), len(names)), strict=True))
    assert {name: note for name, (note, _) in found.items()} == {
        "good": "copy",
        "fair": None,
        "copy": "copy",
        "random": "random",
        "constant": "constant",
        "adversarial": "adversarial",
        "gaps": None,
        "rare": None,  # too few samples to judge
    }
    assert [names[other] for other in found["good"][1]] == ["copy"]
    assert [names[other] for other in found["copy"][1]] == ["good"]


def test_the_student_is_no_copy() -> None:
    labels, truth, _ = crowd()
    chosen = labels[:, [0, 2]]
    assert [note for note, _ in notes(tally(chosen, truth), 1)] == [None, None]


def test_good_sources_that_agree_are_no_copies() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(CLASSES, size=1000)
    said = [
        np.where(draw.random(1000) < 0.97, truth, draw.integers(CLASSES, size=1000))
        for _ in range(2)
    ]
    posterior = torch.nn.functional.one_hot(torch.from_numpy(truth), CLASSES)
    counted = tally(torch.from_numpy(np.stack(said, axis=1)), posterior)
    assert [note for note, _ in notes(counted, 2)] == [None, None]


def test_a_source_is_judged_where_another_one_speaks() -> None:
    spoken = torch.tensor([[True, False, True], [False, True, True], [True, True, True]])
    alone = others_speak(spoken, [0, 1], student=False)
    assert alone.tolist() == [[False, True, True], [True, False, True], [True, True, True]]
    helped = others_speak(spoken, [0, 1], student=True)
    assert helped.tolist() == [[True] * 3, [True] * 3, [True] * 3]
    silent = others_speak(spoken, [0], student=False)  # the second one is not read
    assert silent.tolist() == [[False, True, True], [False] * 3, [False, True, True]]
