"""Sharded runs: which assigners a manifest allows, told before anything is written."""

from pathlib import Path

import pytest
from helpers.digits_manifest import write_digits, write_manifest
from helpers.sharded_config import sharded_config
from helpers.user_errors import keys_of, mistakes_of

from cosup.runs import plan_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two manifests: in `known` samples of student_train have a label."""
    folder = tmp_path_factory.mktemp("manifests")
    labels = write_digits(folder / "images", 200)
    write_manifest(folder / "rows", labels, 260, 200)
    write_manifest(folder / "known", labels, 260, 200, truth=True)
    return folder


def test_oracles_need_a_manifest_with_labels(folder: Path) -> None:
    rounds = {"assignment": "oracle", "true_label_weight": 0.5}
    found = keys_of(mistakes_of(plan_config, sharded_config(folder / "rows", rounds=rounds)))
    assert found == ["rounds.assignment", "rounds.true_label_weight"]
    assert plan_config(sharded_config(folder / "known", rounds=rounds)).shards is not None


@pytest.mark.parametrize("assigner", ["raven", "single"])
def test_an_assigner_that_cannot_use_the_teachers_is_refused(folder: Path, assigner: str) -> None:
    levels = [1] if assigner == "raven" else [1, 2]
    teachers = {"hierarchy": {"by": "class", "levels": levels}}
    config = sharded_config(folder / "rows", teachers=teachers, rounds={"assignment": assigner})
    (error,) = mistakes_of(plan_config, config)
    assert assigner in str(error)
