"""The examples of a report are the right samples, varied, with what each teacher said of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import plain
import pytest
import torch
from helpers.synthetic_run import Shape, make_run
from scipy.spatial.distance import jensenshannon

from cosup.analysis import load_run, tables
from cosup.analysis.drawing import Gallery
from cosup.analysis.examples import MOST_LISTED, _disagreement
from cosup.analysis.figures import FIGURES
from cosup.analysis.said import source_lines
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
        by_id = {row["sample_id"]: row for row in chosen}
        part = table[table["kind"] == kind]
        assert len(part) == min(MOST_LISTED, len(chosen))
        assert part["rank"].tolist() == list(range(1, len(part) + 1))
        assert part["score"].tolist() == part["annotation_confidence"].tolist()
        if chosen:
            highest = max(row["annotation_confidence"] for row in chosen)
            assert part["score"].iloc[0] == pytest.approx(highest, abs=1e-3)
        for shown in part.to_dict("records"):
            row = by_id[shown["sample_id"]]
            assert shown["teacher"] == row["assigned_teacher"]
            assert shown["true_label"] == row["true_label"]
            assert kept or shown["rejected_by"] == row["rejected_by"]


def test_student_errors(path: Path) -> None:
    table = tables(load_run(path))["examples"]
    last = len(list((path / "decisions").glob("*.parquet")))
    labels, confidence = plain.student(path, last)
    test = plain.samples(path, "test")
    wrong = {
        test["sample_id"][n]: confidence[n]
        for n, label in enumerate(labels)
        if label != test["answer"][n]
    }
    part = table[table["kind"] == "student_wrong"].reset_index(drop=True)
    assert len(part) == min(MOST_LISTED, len(wrong))
    np.testing.assert_allclose(part["score"], [wrong[one] for one in part["sample_id"]], atol=1e-6)
    assert part["score"][0] == pytest.approx(max(wrong.values()), abs=1e-3)
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
        plain.probs(file)
        for name in ("level1_0", "level1_1")
        for file in sorted((small_run / "annotations" / "student_train" / name).glob("*"))
    ]
    ids = plain.samples(small_run, "student_train")["sample_id"].tolist()
    expected = {}
    for place, (one, two) in enumerate(zip(*probs, strict=True)):
        if one.sum() and two.sum():  # SciPy returns the square root
            expected[ids[place]] = jensenshannon(one, two, base=2) ** 2
    assert part["score"].iloc[0] == pytest.approx(max(expected.values()), abs=2e-3)
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
    assert len(part) == MOST_LISTED
    assert part["score"].iloc[0] == pytest.approx(score.max(), rel=0.01)
    for row in part.to_dict("records"):  # as high as any of its class but for the ones before it
        own = score[(run.train["true_label"] == row["true_label"]).to_numpy()]
        assert row["score"] >= own.nlargest(MOST_LISTED).min() * 0.99


def test_a_single_teacher_has_no_contested_samples(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", Shape(levels=(1,))))
    table = tables(run)["examples"]
    assert "contested" not in set(table["kind"])
    assert "flow" in run.absent


def test_every_teacher_of_the_round_is_quoted(path: Path) -> None:
    """With its probability, or that it abstains; without `fused` there is no evidence."""
    table = tables(load_run(path))["examples"]
    last = len(list((path / "decisions").glob("*.parquet")))
    names = plain.read(path, f"stages/round-{last}")["teachers"]
    said = {name: plain.annotations(path, "student_train", name) for name in names}
    place = {one: n for n, one in enumerate(plain.samples(path, "student_train")["sample_id"])}
    trained = table[table["split"] == "student_train"]
    assert len(trained)
    for row in trained.to_dict("records"):
        parts = dict(part.split(": ") for part in row["sources"].split("; "))
        assert list(parts) == list(names)
        for name, text in parts.items():
            label = said[name][place[row["sample_id"]]]
            assert text.rpartition(" (")[0] == label if label else text == "abstains"
        if row["annotation"]:
            label, _, share = parts[row["teacher"]].rpartition(" (")
            assert label == row["annotation"]
            assert float(share.rstrip(")")) == pytest.approx(row["annotation_confidence"], abs=0.01)
    assert table["evidence"].isna().all()
    assert table.loc[table["split"] == "test", "sources"].isna().all()


def test_no_domain_and_no_class_fills_a_list(tmp_path: Path) -> None:
    shape = Shape([f"class {n}" for n in range(6)], ("one", "two", "three"), train=2000, test=900)
    path = make_run(tmp_path / "run", shape)
    table = tables(load_run(path))["examples"]
    for kind in ("rejected_right", "kept_wrong", "student_wrong"):
        part = table[table["kind"] == kind]
        for shown in (part.head(12), part):
            by_domain, by_class = shown["domain"].value_counts(), shown["true_label"].value_counts()
            assert by_domain.max() <= len(shown) / 3 + 1
            assert by_class.max() <= len(shown) / 6 + 2
    again = tables(load_run(path))["examples"]
    pd.testing.assert_frame_equal(table, again)


def test_a_contested_card_has_what_each_teacher_said(small_run: Path) -> None:
    table = tables(load_run(small_run))["examples"]
    names = plain.read(small_run, "stages/round-2")["teachers"]
    galleries = [view for view in FIGURES["examples"].draw(table) if isinstance(view, Gallery)]
    contested = table[table["kind"] == "contested"].set_index("sample_id")
    (cards,) = (
        view.examples for view in galleries if view.examples[0].sample in set(contested.index)
    )
    for card in cards:
        lines = dict(card.lines)
        for name in names:
            assert f"{name}: {lines[name].split(',')[0]} (" in contested.loc[card.sample, "sources"]
            assert lines[name].endswith("%")
        assert "student" in lines
        assert lines["assigned"] == contested.loc[card.sample, "teacher"]


def test_a_card_lists_few_sources_and_who_abstains() -> None:
    said = "; ".join([f"t{n}: cat (0.90)" for n in range(10)] + ["quiet: abstains", "hard: dog"])
    lines = source_lines(said, shown="t3")
    assert ("t0", "cat, 90\N{NO-BREAK SPACE}%") in lines
    assert "t3" not in dict(lines)
    assert lines[-1] == ("abstains", "quiet")
    assert any("more" in text for _, text in lines)
    assert source_lines("hard: dog") == [("hard", "dog")]
    assert source_lines(None) == source_lines("") == []
