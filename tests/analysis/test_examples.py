"""The examples of a report are the right samples in the right order."""

from pathlib import Path

import numpy as np
import pandas as pd
import plain
import pytest
import torch
from helpers.synthetic_run import Shape, make_run
from safetensors.numpy import load_file
from scipy.spatial.distance import jensenshannon

from cosup.analysis import load_run, tables
from cosup.analysis.examples import MOST_LISTED, _disagreement
from cosup.probabilities import ProbTable


def test_right_but_rejected_and_wrong_but_kept(path: Path) -> None:
    table = tables(load_run(path))["examples"]
    last = len(list((path / "decisions").glob("*.parquet")))
    decided = plain.decisions(path, last)
    for kind, right, kept in (("rejected_right", True, False), ("kept_wrong", False, True)):
        chosen = [
            row
            for row in decided
            if (row["annotation"] == row["true_label"]) == right and bool(row["kept"]) == kept
        ]
        chosen.sort(key=lambda row: -row["annotation_confidence"])
        part = table[table["kind"] == kind]
        assert part["sample_id"].tolist() == [row["sample_id"] for row in chosen[:MOST_LISTED]]
        assert part["rank"].tolist() == list(range(1, len(part) + 1))
        assert part["score"].tolist() == part["annotation_confidence"].tolist()
        for shown, row in zip(part.to_dict("records"), chosen, strict=False):
            assert shown["teacher"] == row["assigned_teacher"]
            assert shown["true_label"] == row["true_label"]
            assert kept or shown["rejected_by"] == row["rejected_by"]


def test_student_errors(path: Path) -> None:
    table = tables(load_run(path))["examples"]
    last = len(list((path / "decisions").glob("*.parquet")))
    labels, confidence = plain.student(path, last)
    test = plain.samples(path, "test")
    wrong = [n for n, label in enumerate(labels) if label != test["answer"][n]]
    wrong.sort(key=lambda place: -np.float32(confidence[place]))
    part = table[table["kind"] == "student_wrong"].reset_index(drop=True)
    np.testing.assert_allclose(part["score"], confidence[wrong[:MOST_LISTED]], atol=1e-6)
    assert set(part["sample_id"][:5]) <= set(test["sample_id"][wrong[: MOST_LISTED + 5]])
    assert part["teacher"].isna().all()
    assert set(part["split"]) == {"test"}


def test_contested_by_hand() -> None:
    """Certain and opposite annotations give 1 bit; equal ones and abstentions give 0."""
    first = torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.0, 0.0], [0.5, 0.5]])
    found = _disagreement([ProbTable.compress(first), ProbTable.compress(second)])
    # Last sample: the entropy of (3/4, 1/4) is 0.8113 bits; the mean of 0 and 1 bit is 0.5.
    assert found.tolist() == pytest.approx([1, 0, 0, 0.3113], abs=1e-4)


def test_contested_against_scipy(small_run: Path) -> None:
    table = tables(load_run(small_run))["examples"]
    part = table[table["kind"] == "contested"]
    probs = [
        load_file(file)["values"].astype(np.float64)
        for name in ("level1_0", "level1_1")
        for file in sorted((small_run / "annotations" / "student_train" / name).glob("*"))
    ]
    ids = plain.samples(small_run, "student_train")["sample_id"].tolist()
    expected = {}
    for place, (one, two) in enumerate(zip(*probs, strict=True)):
        if one.sum() and two.sum():  # SciPy returns the square root
            expected[ids[place]] = jensenshannon(one, two, base=2) ** 2
    best = sorted(expected.values(), reverse=True)[:MOST_LISTED]
    np.testing.assert_allclose(part["score"], best, atol=2e-3)
    for row in part.to_dict("records"):
        assert row["score"] == pytest.approx(expected[row["sample_id"]], abs=2e-3)


def test_the_most_contested_of_many_are_found(tmp_path: Path) -> None:
    """With more than 4,096 samples, candidates are selected by the teachers' top classes."""
    classes = [f"class {number}" for number in range(6)]
    domains = ("all",)
    run = load_run(
        make_run(tmp_path / "run", Shape(classes, domains, (1, 3), train=6000, abstains=0.0))
    )
    part = tables(run)["examples"]
    part = part[part["kind"] == "contested"]
    names = run.stages["round-2"]["teachers"]
    score = pd.Series(_disagreement([run.annotations(name) for name in names]))
    best = score.sort_values(ascending=False).to_numpy()[:MOST_LISTED]
    np.testing.assert_allclose(part["score"], best, rtol=0.01)


def test_a_single_teacher_has_no_contested_samples(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", Shape(levels=(1,))))
    table = tables(run)["examples"]
    assert "contested" not in set(table["kind"])
    assert "flow" in run.absent


def test_every_teacher_of_the_round_is_quoted(path: Path) -> None:
    """Those that abstain are left out; without `fused` there is no evidence."""
    table = tables(load_run(path))["examples"]
    last = len(list((path / "decisions").glob("*.parquet")))
    names = plain.read(path, f"stages/round-{last}")["teachers"]
    said = {name: plain.annotations(path, "student_train", name) for name in names}
    place = {one: n for n, one in enumerate(plain.samples(path, "student_train")["sample_id"])}
    trained = table[table["split"] == "student_train"]
    assert len(trained)
    for row in trained.to_dict("records"):
        answers = {name: said[name][place[row["sample_id"]]] for name in names}
        expected = [f"{name}: {label}" for name, label in answers.items() if label]
        assert row["sources"] == "; ".join(expected)
    assert table["evidence"].isna().all()
    assert table.loc[table["split"] == "test", "sources"].isna().all()
