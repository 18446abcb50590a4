"""`weight: best_constant` of a sharded run: the constant that a listed run chooses."""

from pathlib import Path

import pytest
from helpers.digits_manifest import write_digits, write_manifest
from helpers.sharded_config import sharded_config

from cosup.runs import run_config


def test_the_constant_is_the_one_of_a_listed_run(tmp_path: Path) -> None:
    """Its candidates reach the same accuracies on validation, and leave no file of shards."""
    labels = write_digits(tmp_path / "images", 300)
    manifest = write_manifest(tmp_path / "rows", labels, 450, 300)
    loss = {"name": "adaptive_confidence", "weight": "best_constant", "constants": [0.0, 0.9]}
    sections = {
        "rounds": {"loss": loss},
        "controls": [],
        "teachers": {"hierarchy": {"by": "class", "levels": [1]}},
        "student": {"training": {"steps": 60, "lr": 0.02, "standardize": True}},
    }
    found = run_config(sharded_config(manifest, **sections), tmp_path / "run")
    in_memory = sharded_config(manifest, data={"sharded": False}, **sections)
    expected = run_config(in_memory, tmp_path / "listed")
    choice, other = found["loss_choice"], expected["loss_choice"]
    assert (choice["constant"], choice["chosen_on"]) == (other["constant"], "validation")
    reached, listed = ([one["accuracy"] for one in each["candidates"]] for each in (choice, other))
    assert reached == pytest.approx(listed, abs=0.03)  # two of 75 samples, by rounding
    assert abs(reached[0] - reached[1]) > 0.1
    assert found["student"]["accuracy"] == pytest.approx(expected["student"]["accuracy"], abs=0.03)
    folders = {path.parent.parent.name for path in (tmp_path / "run/shards").rglob("*.parquet")}
    assert not {name for name in folders if name.startswith("constant-")}
