"""Tables of unusual runs: no labels, label noise, episodes, many classes and teachers."""

from pathlib import Path

import numpy as np
import pandas as pd
import plain
import pytest
from helpers.synthetic_run import Shape, make_run

from cosup.analysis import TABLES, findings, load_run, tables, verdict, write_tables
from cosup.analysis.arrays import count_groups
from cosup.analysis.figures import FIGURES
from cosup.analysis.stages import RunTeacher
from cosup.analysis.teachers import scope_in_words


def test_without_labels_the_other_tables_are_complete(tmp_path: Path) -> None:
    controls = ("best_teacher", "mean_ensemble")
    run = load_run(make_run(tmp_path / "run", Shape(labels=False, controls=controls)))
    found = tables(run)
    assert set(run.absent) == {"annotation_accuracy"}
    assert run.absent["annotation_accuracy"] == "no true label of student_train is known"
    rounds, filters = found["rounds"], found["filters"]
    assert rounds[["assignment_accuracy", "annotation_accuracy", "kept_precision"]].isna().all(None)
    assert rounds["student_accuracy"].notna().all()
    assert filters[["precision", "recall"]].isna().all(None)
    assert (filters["rejected"] > 0).any()
    assert set(found["assignment"]["by"]) == {"domain"}
    assert set(found["examples"]["kind"]) <= {"contested", "student_wrong"}
    assert found["classes"]["assigned_accuracy"].isna().all()
    sentences = verdict(run, found)
    assert found["overview"]["pgr"].isna().all()
    assert not any("nan" in line for line in [*sentences, *findings(run, found).values()])


def test_share_of_noise_rejected_by_the_filters(small_run: Path) -> None:
    table = tables(load_run(small_run))["filters"]
    decided = pd.read_parquet(small_run / "decisions" / "round-2.parquet")
    noisy = decided[decided["given_label"].astype(str) != decided["true_label"].astype(str)]
    row = table[(table["round"] == 2) & (table["filter"] == "all")].iloc[0]
    assert row["noise_caught"] == pytest.approx(1 - noisy["kept"].mean())
    assert row["noise_caught"] == pytest.approx(
        plain.read(small_run, "stages/round-2")["noise_rejected"]
    )


def test_count_groups_by_hand() -> None:
    """Two samples of (a, x), one of (b, x), one of (b, y), and one without a first key."""
    first, second = np.array([0, 1, 0, 1, -1]), np.array([0, 0, 0, 1, 1])
    value, counts = np.array([True, True, False, True, True]), np.array([1, 0, 1, 1, 1], bool)
    keys = {"one": (first, ["a", "b"]), "two": (second, ["x", "y"])}
    table = count_groups(keys, {"mean": (value, None), "some": (value, counts)})
    assert table["one"].tolist() == ["a", "b", "b"]
    assert table["two"].tolist() == ["x", "x", "y"]
    assert table["samples"].tolist() == [2, 1, 1]
    assert table["mean"].tolist() == [0.5, 1, 1]
    assert table["some"].fillna(-1).tolist() == [0.5, -1, 1]


def test_episodes(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", Shape(ways=3, test=60))
    run = load_run(path)
    found = tables(run)
    assert run.few_shot
    assert run.answers == ["way 1", "way 2", "way 3"]
    assert found["teachers"]["accuracy_inside"].isna().all()
    assert set(found["student_teachers"]["where"]) == {"all"}
    assert "domains" in run.absent
    assert found["classes"]["name"].tolist() == [f"novel {number}" for number in range(5)]
    test = plain.samples(path, "test")
    teacher = path / "checkpoints" / "teacher-level0_0.safetensors"
    right = np.array(plain.top(teacher, run.answers)[0]) == test["answer"].to_numpy()
    assert found["teachers"]["accuracy"].iloc[0] == pytest.approx(right.mean())
    # A way is a class of its episode: take the class of any sample with that answer.
    labels = plain.student(path, 2)[0]
    counted = {}
    for group, label, truth in zip(test["group"], labels, test["true_label"], strict=True):
        episode = test[test["group"] == group]
        predicted = episode.loc[episode["answer"] == label, "true_label"].iloc[0]
        counted[truth, predicted] = counted.get((truth, predicted), 0) + 1
    table = found["confusion"].astype({"true": str, "predicted": str})
    shown = {(row["true"], row["predicted"]): row["samples"] for row in table.to_dict("records")}
    assert shown == counted
    assert findings(run, found)
    assert verdict(run, found)


@pytest.mark.slow
def test_many_teachers_and_classes(tmp_path: Path) -> None:
    shape = Shape(
        classes=[f"class {number}" for number in range(300)],
        domains=("all",),
        levels=(1, 40),
        train=300,
        test=300,
    )
    run = load_run(make_run(tmp_path / "run", shape))
    found = tables(run)
    sentences = findings(run, found)
    assert all(len(table.columns) < 20 for table in found.values())  # long format
    assert len(found["load"]) == 41
    assert len(found["assignment"]) <= 2 * 300
    assert all(len(text) < 400 for text in [*sentences.values(), *verdict(run, found)])


def test_tables_are_written_and_read_back(small_run: Path, tmp_path: Path) -> None:
    found = tables(load_run(small_run))
    assert set(found) == {name for name in TABLES if name in found or not FIGURES[name].optional}
    write_tables(found, tmp_path / "tables")
    assert len(list((tmp_path / "tables").iterdir())) == 2 * len(found)
    for name, table in found.items():
        back = pd.read_parquet(tmp_path / "tables" / f"{name}.parquet")
        expected = table.astype(object).where(table.notna(), None)
        pd.testing.assert_frame_equal(back.astype(object).where(back.notna(), None), expected)
        text = pd.read_csv(tmp_path / "tables" / f"{name}.csv", keep_default_na=False)
        assert list(text.columns) == list(table.columns)
        assert len(text) == len(table)
    text = (tmp_path / "tables" / "classes.csv").read_text(encoding="utf-8")
    assert "猫" in text
    assert "<b>owl</b>" in text


@pytest.mark.parametrize(
    ("classes", "domains", "words"),
    [
        (None, None, "all"),
        ((0,), None, "class 0"),
        ((0, 1, 2, 3), None, "classes 0-3"),
        ((0, 2), None, "classes 0 and 2"),
        (None, (1,), "domain sketch"),
        ((1,), (0, 1), "class 1; domains photo and sketch"),
        ((0, 2, 4, 5, 6, 7), None, "classes 0, 2, 4, 5, 6 and 1 more"),
    ],
)
def test_scopes_in_words(
    classes: tuple[int, ...] | None, domains: tuple[int, ...] | None, words: str
) -> None:
    teacher = RunTeacher("one", 0, "linear_pixels", classes, domains, 1)
    assert scope_in_words(teacher, [str(n) for n in range(8)], ["photo", "sketch"]) == words


def test_parents(large_run: Path) -> None:
    table = tables(load_run(large_run))["teachers"]
    parent = {row["teacher"]: row["parent"] for row in table.to_dict("records")}
    assert pd.isna(parent["level0_0"])
    assert parent["level1_2"] == "level0_0"
    # 70 classes form blocks of 24, 23, 23 and of 12, 12, 12, 12, 11, 11. The third of six (classes
    # 24 to 35) is inside the second of three (24 to 46); the fourth (36 to 47) is inside none.
    assert parent["level2_2"] == "level1_1"
    assert pd.isna(parent["level2_3"])
