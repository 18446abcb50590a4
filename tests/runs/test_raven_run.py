"""Runs with `raven`: its teachers are those of the finest level, and there must be several."""

from pathlib import Path
from typing import Any

import pytest
from helpers.user_errors import error_of

import cosup
from cosup.cli import call
from cosup.layout import Layout

TREE: dict[str, Any] = {
    "run": {"name": "raven", "loggers": []},
    "data": {"source": "digits", "limit": 480, "rotations": [0, 90]},
    "teachers": {
        "hierarchy": {"by": "domain", "levels": [1, 2]},
        "model": {"name": "linear_pixels", "size": 4},
        "training": {"steps": 30},
        "calibrate": "temperature",
        "calibration_share": 0.5,
    },
    "student": {
        "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 16},
        "training": {"steps": 30},
    },
    "rounds": {"assignment": {"name": "raven", "epochs": 6, "lr": 0.1, "weight_lr": 0.5}},
    "controls": ["team", "random_assignment"],
    "execution": {"device": "cpu"},
}


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_run_records_the_weights_and_tells_the_temperatures(
    per_sample: bool, tmp_path: Path
) -> None:
    assignment = {**TREE["rounds"]["assignment"], "per_sample": per_sample}
    found = cosup.run({**TREE, "rounds": {"assignment": assignment}}, output=tmp_path)
    summary = found.summary
    assert [one["level"] for one in summary["rounds"]] == [1]
    weights = Layout(found.path).round(1).assigner.read()
    assert weights["weights"].shape == (2,)
    assert float(weights["weights"].sum()) == pytest.approx(1)
    assert float(weights["weights"][0]) != float(weights["weights"][1])
    assert ("own" in weights) == per_sample
    assert summary["controls"]["team"]["accuracy"] is not None
    temperatures = [teacher["temperature"] for teacher in summary["teachers"]]
    assert all(0.05 < one < 20 and one != 1 for one in temperatures)
    assert call(["report", str(found.path)]) == 0
    page = (found.path / "report" / "index.html").read_text()
    assert f"{temperatures[0]:.2f} of all" in page


def test_one_teacher_is_refused(tmp_path: Path) -> None:
    teachers = {**TREE["teachers"], "hierarchy": {"by": "domain", "levels": [1]}}
    error = error_of(cosup.run, {**TREE, "teachers": teachers}, output=tmp_path)
    assert "raven" in str(error)
    assert not list(tmp_path.iterdir())
