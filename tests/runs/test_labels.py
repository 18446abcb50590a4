"""Labels out: what `labels.parquet` says, and that it is better than what it was made from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cosup.analysis import load_run, tables
from cosup.analysis.labels import SOURCES, FinalLabels, review_rank
from cosup.config import check_config
from cosup.layout import Layout
from cosup.layout.schemas import LABEL_COLUMNS
from cosup.runs import run_config


def tree(output: Path, **changes: Any) -> dict[str, Any]:
    """Two annotators, one of whom leaves gaps, and two weak specialists of rotated digits."""
    return {
        "run": {"output": str(output)},
        "data": {"source": "digits", "rotations": [0, 90], "limit": 1000},
        "teachers": {
            "hierarchy": {"by": "domain", "levels": [2]},
            "model": {"name": "linear_pixels", "size": 4},
            "training": {"steps": 60, "lr": 0.02},
            "external": [
                {"name": "ann", "simulate": {"accuracy": 0.7, "seed": 1}},
                {"name": "ben", "simulate": {"accuracy": 0.6, "coverage": 0.6, "seed": 2}},
            ],
        },
        "student": {
            "backbone": {"name": "test_resnet.r160_in1k", "weights": None, "image_size": 32},
            "training": {"steps": 60, "lr": 0.02, "standardize": True},
        },
        "rounds": {"assignment": {"name": "fused"}},
        "controls": [],
        "execution": {"device": "cpu", "workers": 1},
        **changes,
    }


def run(path: Path, **changes: Any) -> dict[str, Any]:
    return run_config(check_config(tree(path.parent, **changes)), path)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("labels") / "fused"
    return path, run(path)


def test_every_sample_has_a_label(fused: tuple[Path, dict[str, Any]]) -> None:
    path, summary = fused
    files = Layout(path)
    table, decisions = files.labels.read(), files.round(3).decisions.read()
    assert list(table.columns) == list(LABEL_COLUMNS)
    assert table["sample_id"].tolist() == decisions["sample_id"].tolist()
    assert table["label"].notna().all()
    assert table["probability"].between(table["runner_up_probability"], 1).all()
    assert (table["label"].astype(str) != table["runner_up"].astype(str)).all()
    said = table["source"] != "student"
    assert set(table["source"].unique()) <= set(SOURCES)
    assert table.loc[table["source"] == "teacher", "teacher"].notna().all()
    assert table.loc[~said, "teacher"].isna().all()
    text = pd.read_csv(files.labels_csv.path, dtype={"label": str})
    assert text["label"].tolist() == table["label"].astype(str).tolist()
    assert text["review_rank"].tolist() == table["review_rank"].tolist()
    assert summary["labels"]["samples"] == len(table)


def test_labels_are_better_than_their_sources(fused: tuple[Path, dict[str, Any]]) -> None:
    path, summary = fused
    numbers = summary["labels"]
    best = max(one["accuracy_where_answered"] for one in summary["sources"].values())
    assert numbers["accuracy"] > best
    assert numbers["estimated_right"] == pytest.approx(numbers["accuracy"], abs=0.06)
    assert sum(one["samples"] for one in numbers["by_class"].values()) == numbers["samples"]
    table = Layout(path).labels.read().merge(Layout(path).samples.read(), on="sample_id")
    wrong = table["label"].astype(str) != table["true_label"].astype(str)
    first = table["review_rank"] <= len(table) // 5
    assert wrong[first].mean() > 2 * wrong[~first].mean()


def test_the_report_shows_the_labels_to_look_at_first(fused: tuple[Path, dict[str, Any]]) -> None:
    path, _ = fused
    found = load_run(path)
    shown = tables(found)["review_list"]
    labels = found.files.labels.read().sort_values("review_rank").head(24)
    for name in ("sample_id", "label", "probability", "runner_up", "review_rank"):
        assert shown[name].tolist() == labels[name].tolist()
    assert set(shown["sample_id"]) <= set(found.thumbnails)
    wrong = shown["label"].astype(str) != shown["true_label"].astype(str)
    assert wrong.mean() > 2 * (1 - found.summary["labels"]["accuracy"])


def test_the_student_is_cross_fitted_for_the_labels_alone(tmp_path: Path) -> None:
    """Where no round reads such predictions: the run's own numbers stay as they are."""
    rounds = {"assignment": {"name": "mean"}}
    student = tree(tmp_path)["student"]
    found = {
        folds: run(tmp_path / str(folds), rounds=rounds, student={**student, "cross_fit": folds})
        for folds in ("auto", 0)
    }
    for one in found.values():
        one["sources"].pop("student")  # it is judged by its cross-fitted predictions
    for name in ("rounds", "student", "sources", "teachers"):
        assert found["auto"][name] == found[0][name], name
    last = [Layout(tmp_path / str(folds)).round(1) for folds in ("auto", 0)]
    assert torch.equal(last[0].train.read(10).logs, last[1].train.read(10).logs)
    assert [one.cross_fitted.exists() for one in last] == [True, False]
    own, held_out = (file.read(10).top()[0] for file in (last[0].train, last[0].cross_fitted))
    assert not torch.equal(own, held_out)
    assert found["auto"]["labels"]["accuracy"] > found[0]["labels"]["accuracy"]


def test_a_resumed_run_keeps_its_labels(fused: tuple[Path, dict[str, Any]]) -> None:
    path, summary = fused
    before = Layout(path).labels.path.read_bytes()
    Layout(path).labels.path.unlink()
    for stage in ("labels", "summary"):
        Layout(path).stage(stage).path.unlink()
    config = check_config(tree(path.parent))
    assert run_config(config, path, resume=True)["labels"] == summary["labels"]
    assert Layout(path).labels.path.read_bytes() == before
    assert json.loads(Layout(path).summary.path.read_text())["labels"] == summary["labels"]


def test_whose_class_a_label_is() -> None:
    posterior = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.5, 0.3, 0.2], [0.4, 0.3, 0.3]])
    first, second, third, none = *torch.eye(3), torch.zeros(3)
    annotations = torch.stack(
        [
            torch.stack([first, first]),  # both teachers; the second speaks more
            torch.stack([first, second]),  # one teacher, not the student
            torch.stack([none, second]),  # the student alone
            torch.stack([second, third]),  # nobody has it first
        ]
    )
    weights = torch.tensor([[0.2, 0.8], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    student = torch.stack([first, second, first, torch.tensor([0.3, 0.4, 0.3])])
    found = FinalLabels.of(posterior, annotations, weights, student)
    assert found.label.tolist() == [0, 0, 0, 0]
    assert [SOURCES[place] for place in found.source] == ["both", "teacher", "student", "both"]
    assert found.teacher.tolist() == [1, 0, -1, -1]
    assert found.runner_up.tolist() == [1, 1, 1, 1]


def test_the_least_probable_is_first_in_a_review() -> None:
    rank = review_rank(np.array([0.9, 0.5, 0.5, 1.0]), np.array([0.1, 0.2, 0.4, 0.0]))
    assert rank.tolist() == [3, 2, 1, 4]
