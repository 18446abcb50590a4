"""Runs with `crowd_layer`: its matrices are recorded, and its annotations serve heads, networks,
folds, refinement and labelled samples."""

from pathlib import Path
from typing import Any

import pytest
import torch

import cosup
from cosup.errors import RunError
from cosup.layout import Layout
from cosup.student.head import HeadStudent

TREE: dict[str, Any] = {
    "run": {"name": "crowd", "loggers": []},
    "data": {"source": "digits", "limit": 240, "rotations": [0, 90]},
    "teachers": {
        "hierarchy": {"by": "domain", "levels": [1, 2]},
        "model": {"name": "linear_pixels", "size": 4},
        "training": {"steps": 10},
    },
    "student": {
        "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 16},
        "training": {"steps": 10},
        "cross_fit": 2,
    },
    "rounds": {
        "assignment": {"name": "crowd_layer", "epochs": 4, "lr": 0.01},
        "refine": "product",
        "labelled": True,
        "labelled_weight": 0.5,
    },
    "controls": ["team"],
    "execution": {"device": "cpu"},
}


def test_a_resumed_run_gives_the_same_numbers_and_records_the_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With cross-fitting, refinement and labelled samples."""
    whole = cosup.run(TREE, output=tmp_path / "whole")
    update, calls = HeadStudent.update, 0

    def killed(self: HeadStudent, *args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RunError("killed")
        update(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(HeadStudent, "update", killed)
        with pytest.raises(RunError, match="killed"):
            cosup.run(TREE, output=tmp_path / "again")
    resumed = cosup.run(TREE, output=tmp_path / "again", resume=True)
    for key in ("rounds", "controls", "student"):
        assert resumed.summary[key] == whole.summary[key]
    assert {one["level"] for one in whole.summary["rounds"]} == {1}
    assert whole.summary["controls"]["team"]["accuracy"] is not None
    assert cosup.load_run(whole.path).missing == []
    state = Layout(whole.path).round(1).assigner.read()
    assert state["confusion"].shape == (2, 10, 10)
    torch.testing.assert_close(state["confusion"].sum(2), torch.ones(2, 10))


def test_networks_and_tables_that_abstain(tmp_path: Path) -> None:
    """Two annotators of hard labels, who answer a part each, teach a network."""
    annotators = [
        {"name": name, "simulate": {"accuracy": 0.8, "coverage": coverage}}
        for name, coverage in (("ada", 0.5), ("bob", 0.7))
    ]
    tree = {
        **TREE,
        "teachers": {"hierarchy": None, "external": annotators},
        "student": {**TREE["student"], "mode": "finetune", "training": {"steps": 4}},
        "rounds": {"assignment": TREE["rounds"]["assignment"]},
        "controls": [],
    }
    found = cosup.run(tree, output=tmp_path)
    (only,) = found.summary["rounds"]
    assert only["teachers"] == ["ada", "bob"]
    # Nobody answers about 15 of 100 samples, which nobody teaches.
    assert 0.7 < only["kept"] < 0.95
