"""Tests of label noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.user_errors import error_of, section_error_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cosup.data.load import load_data
from cosup.data.noise import CIFAR100_GROUPS, noisy_labels, transitions
from cosup.data.section import DataSection, NoiseSection
from cosup.data.table import ImageData
from cosup.errors import MISSING

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
DIGITS = [str(digit) for digit in range(10)]


def section(**noise: Any) -> NoiseSection:
    return NoiseSection.model_validate(noise)


def load(noise: dict[str, Any] | None, seed: int = 0, **data: Any) -> ImageData:
    settings = {"source": "digits", "rotations": [0], "noise": noise, **data}
    return load_data(DataSection.model_validate(settings), seed, 1, None)


@settings(max_examples=40, deadline=None)
@given(
    rate=st.floats(0, 0.99),
    classes=st.integers(2, 12),
    seed=st.integers(0, 99),
)
def test_symmetric_noise_meets_its_rate_and_is_uniform(
    rate: float, classes: int, seed: int
) -> None:
    labels = np.arange(6000) % classes
    noisy = noisy_labels(
        section(kind="symmetric", rate=rate), labels, [str(c) for c in range(classes)], seed
    )
    assert ((noisy >= 0) & (noisy < classes)).all()
    wrong = noisy != labels
    # Six standard deviations of a binomial share.
    assert abs(wrong.mean() - rate) < 6 * np.sqrt(rate * (1 - rate) / 6000) + 1e-9
    shift = np.bincount((noisy - labels)[wrong] % classes, minlength=classes)
    assert shift[0] == 0
    expected = wrong.sum() / (classes - 1)
    assert (abs(shift[1:] - expected) < 6 * np.sqrt(expected) + 6).all()


def test_the_usual_map_of_cifar10() -> None:
    labels = np.repeat(np.arange(10), 3000)
    noisy = noisy_labels(section(kind="asymmetric", rate=0.4, map="cifar10"), labels, CIFAR10, 0)
    expected = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
    for label in range(10):
        own = noisy[labels == label]
        assert set(own.tolist()) == {label, expected.get(label, label)}
        if label in expected:
            assert abs((own != label).mean() - 0.4) < 6 * np.sqrt(0.24 / 3000)


def test_the_usual_map_of_cifar100_turns_within_the_superclasses() -> None:
    """torchvision's order of the hundred names is the alphabetical one."""
    names = sorted(name for group in CIFAR100_GROUPS for name in group)
    assert len(set(names)) == 100
    assert [len(group) for group in CIFAR100_GROUPS] == [5] * 20
    matrix = transitions(section(kind="asymmetric", rate=0.3, map="cifar100"), names)
    np.testing.assert_allclose(np.diag(matrix), 0.7)
    target = (matrix - np.diag(np.diag(matrix))).argmax(1)
    taken_for = {name: names[target[place]] for place, name in enumerate(names)}
    # Worked by hand from the list of superclasses.
    assert taken_for["beaver"] == "dolphin"
    assert taken_for["whale"] == "beaver"
    assert taken_for["sweet_pepper"] == "apple"
    assert taken_for["lawn_mower"] == "rocket"
    assert taken_for["tractor"] == "lawn_mower"
    assert taken_for["train"] == "bicycle"
    # A permutation without fixed points, whose orbits are the superclasses.
    assert sorted(taken_for.values()) == names
    for group in CIFAR100_GROUPS:
        name = group[0]
        assert {name := taken_for[name] for _ in range(5)} == set(group)


def test_next_and_named_maps() -> None:
    turned = transitions(section(kind="asymmetric", rate=0.25, map="next"), ["a", "b", "c"])
    np.testing.assert_allclose(turned, [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]])
    # YAML reads classes called by numbers as numbers.
    one = transitions(section(kind="asymmetric", rate=0.5, map={1: 7}), DIGITS)
    assert one[1, 7] == one[1, 1] == 0.5
    assert (np.delete(one, 1, 0) == np.delete(np.eye(10), 1, 0)).all()


def test_a_matrix_given_or_read(tmp_path: Path) -> None:
    rows = [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.333, 0.333, 0.333]]
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",")
    labels = np.repeat(np.arange(3), 4000)
    drawn = [
        noisy_labels(section(kind="matrix", matrix=matrix), labels, ["a", "b", "c"], 1)
        for matrix in (rows, str(tmp_path / "t.csv"))
    ]
    assert (drawn[0] == drawn[1]).all()
    for label, row in enumerate(rows):
        share = np.bincount(drawn[0][labels == label], minlength=3) / 4000
        assert (share[np.asarray(row) == 0] == 0).all()
        np.testing.assert_allclose(share, np.asarray(row) / sum(row), atol=0.05)


def test_trainers_alone_are_given_noise_and_the_truth_stays() -> None:
    splits = {"teacher_train": 0.3, "student_train": 0.4, "validation": 0.1, "test": 0.2}
    clean = load(None, splits=splits)
    data = load({"kind": "symmetric", "rate": 0.3}, splits=splits)
    everything = np.arange(len(data))
    assert data.table.drop(columns="given").equals(clean.table.drop(columns="given"))
    assert (clean.given(everything) == clean.truth(everything).labels).all()
    assert data.fingerprint == clean.fingerprint
    for split in splits:
        rows = data.rows(split)
        noisy = data.noisy(rows)
        assert (noisy == (data.given(rows) != data.truth(rows).labels)).all()
        trains = split.endswith("train")
        assert (abs(float(noisy.float().mean()) - 0.3) < 0.1) if trains else not noisy.any()
        # What teachers are trained from is another set; what measures is the same.
        same = data.split_fingerprint(split) == clean.split_fingerprint(split)
        assert same == (not trains)


def test_the_seed_decides() -> None:
    noise = {"kind": "symmetric", "rate": 0.2}
    fixed = section(**noise)
    labels = np.arange(500) % 10
    first, again, other = (noisy_labels(fixed, labels, DIGITS, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert load(noise).table.equals(load(noise).table)


def test_unknown_labels_stay_unknown() -> None:
    labels = np.array([-1, 3, -1])
    noisy = noisy_labels(section(kind="symmetric", rate=0.99), labels, DIGITS, 0)
    assert noisy[[0, 2]].tolist() == [-1, -1]


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_rates_outside_0_to_1(rate: float) -> None:
    with pytest.raises(ValidationError, match="rate"):
        section(kind="symmetric", rate=rate)


@pytest.mark.parametrize(
    ("noise", "key", "value"),
    [
        ({"kind": "symmetric"}, "rate", MISSING),
        ({"kind": "asymmetric", "rate": 0.1}, "map", MISSING),
        ({"kind": "matrix"}, "matrix", MISSING),
        ({"kind": "matrix", "rate": 0.1, "matrix": [[1]]}, "rate", 0.1),
        ({"kind": "symmetric", "rate": 0.1, "map": "next"}, "map", "next"),
    ],
)
def test_settings_that_do_not_go_together(noise: dict[str, Any], key: str, value: object) -> None:
    error = section_error_of(section, **noise)
    assert (error.key, error.value) == ((key,), value)


@pytest.mark.parametrize(
    ("noise", "key", "value", "part"),
    [
        ({"kind": "asymmetric", "rate": 0.1, "map": "cifar10"}, "map", "truck", ""),
        ({"kind": "asymmetric", "rate": 0.1, "map": {"1": "x"}}, "map", "x", ""),
        ({"kind": "matrix", "matrix": [[1, 0], [0, 1]]}, "matrix", MISSING, "2 x 2"),
        ({"kind": "matrix", "matrix": [[1, 0], [1]]}, "matrix", MISSING, "differ in length"),
        (
            {"kind": "matrix", "matrix": [*np.eye(10)[:9].tolist(), [0.2] * 10]},
            "matrix",
            [0.2] * 10,
            "row 10 (class '9') sums to 2",
        ),
        (
            {"kind": "matrix", "matrix": [[2, -1] + [0] * 8, *np.eye(10)[1:].tolist()]},
            "matrix",
            [2, -1] + [0] * 8,
            "row 1 (class '0') sums to 1 and has the minimum -1",
        ),
        ({"kind": "matrix", "matrix": "none.csv"}, "matrix", "none.csv", "no file"),
        ({"kind": "matrix", "matrix": __file__}, "matrix", __file__, "CSV of numbers"),
    ],
)
def test_maps_and_matrices_that_do_not_fit(
    noise: dict[str, Any], key: str, value: object, part: str
) -> None:
    error = error_of(load, noise)
    assert error.key == ("data", "noise", key)
    assert error.value == value
    assert part in error.problem
    if key == "map":
        assert error.allowed == ", ".join(DIGITS)
    if part == "2 x 2":
        assert error.allowed == "10 x 10"
