"""The review list has the right samples in the right order, and what each teacher said of them."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import plain
import pytest

from cosup.analysis import load_run, tables
from cosup.analysis.drawing import Gallery
from cosup.analysis.figures import FIGURES, findings
from cosup.layout import Layout


@pytest.fixture
def labelled(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run with labels: every third sample has another class than its true."""
    path = tmp_path / "run"
    shutil.copytree(small_run, path)
    run = load_run(path)
    classes, size = run.classes, len(run.train)
    code = run.train["true_label"].astype(str).map(classes.index).to_numpy()
    code = np.where(np.arange(size) % 3 == 0, (code + 1) % len(classes), code)
    names = np.array(classes)
    table = pd.DataFrame(
        {
            "sample_id": run.train["sample_id"].astype("str"),
            "label": pd.Categorical(names[code], classes),
            "probability": np.float32(0.6),
            "source": "both",
            "teacher": pd.Categorical([run.teacher_names[0]] * size, run.teacher_names),
            "kept": True,
            "rejected_by": pd.Categorical([None] * size, ["local_global"]),
            "runner_up": pd.Categorical(names[(code + 1) % len(classes)], classes),
            "runner_up_probability": np.float32(0.3),
            "review_rank": np.random.default_rng(0).permutation(size) + 1,
        }
    )
    Layout(path).labels.write(table)
    return path


def test_the_first_by_rank_with_what_each_teacher_said(labelled: Path) -> None:
    run = load_run(labelled)
    table = tables(run)["review_list"]
    assert table["review_rank"].tolist() == list(range(1, 25))
    labels = run.files.labels.read().set_index("review_rank").loc[range(1, 25)]
    assert table["sample_id"].tolist() == labels["sample_id"].tolist()
    place = {name: row for row, name in enumerate(run.train["sample_id"])}
    asked = run.stages[f"round-{run.rounds[-1]}"]["teachers"]
    said = {name: plain.annotations(labelled, "student_train", name) for name in asked}
    file = run.files.round(run.rounds[-1]).train.path
    student, _ = plain.top(file, run.classes)
    for row in table.to_dict("records"):
        at = place[row["sample_id"]]
        parts = dict(part.split(": ") for part in row["sources"].split("; "))
        named = {name: text.rpartition(" (")[0] for name, text in parts.items()}
        assert named == {name: label[at] for name, label in said.items()}  # "": abstains
        assert row["student_label"] == student[at]


def test_the_drawing_and_the_sentence_count_the_same(labelled: Path) -> None:
    run = load_run(labelled)
    made = tables(run)
    (view,) = FIGURES["review_list"].draw(made["review_list"])
    assert isinstance(view, Gallery)
    assert [one.sample for one in view.examples] == made["review_list"]["sample_id"].tolist()
    shown = made["review_list"]
    wrong = int((shown["label"].astype(str) != shown["true_label"].astype(str)).sum())
    assert f"{wrong} " in findings(run, made)["review_list"]


def test_a_run_without_labels_has_no_list(small_run: Path) -> None:
    run = load_run(small_run)
    assert "review_list" not in tables(run)
    assert "review_list" not in run.absent
