"""Runs with `crowd_kit`: annotators who answer a part each, specialists of classes, a team."""

import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.user_errors import error_of

import cosup
from cosup.layout import Layout

TREE: dict[str, Any] = {
    "run": {"name": "crowd", "loggers": []},
    "data": {"source": "digits", "limit": 240},
    "teachers": {
        "hierarchy": {"by": "class", "levels": [1, 2]},
        "model": {"name": "linear_pixels", "size": 4},
        "training": {"steps": 10},
        "external": [{"name": "ada", "simulate": {"accuracy": 0.9, "coverage": 0.5}}],
    },
    "student": {
        "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 16},
        "training": {"steps": 10},
    },
    "rounds": {"assignment": {"name": "crowd_kit", "method": "mace"}},
    "controls": ["team"],
    "execution": {"device": "cpu"},
}


def test_a_run_records_the_posterior_and_is_the_same_again(tmp_path: Path) -> None:
    found = cosup.run(TREE, output=tmp_path / "run")
    (only,) = found.summary["rounds"]
    assert only["assigner"] == "crowd_kit"
    assert only["teachers"][-1] == "ada"
    files = Layout(found.path).round(1)
    state, decisions = files.assigner.read(), files.decisions.read()
    posterior = state["posterior"]
    assert decisions["annotation"].astype(int).tolist() == posterior.argmax(1).tolist()
    assert decisions["annotation_confidence"].tolist() == pytest.approx(
        posterior.amax(1).tolist(), abs=2e-3
    )
    assert state["accuracy"].argmax() == 2
    assert found.summary["controls"]["team"]["accuracy"] is not None
    again = cosup.run(TREE, output=tmp_path / "again")
    assert again.summary["rounds"] == found.summary["rounds"]


def test_crowd_kit_is_asked_for_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "crowdkit", None)
    error = error_of(cosup.run, TREE, output=tmp_path)
    assert "cosup[crowd]" in str(error)
    assert not list(tmp_path.iterdir())
