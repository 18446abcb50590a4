"""Configs written in Python: what they may hold, and that they extend others and take overrides."""

from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.user_errors import error_of, key_of, mistakes_of

from cosup.config import load_config
from cosup.config.yaml import to_yaml
from cosup.errors import UserError

TREE: dict[str, Any] = {
    "run": {"name": "tiny"},
    "data": {"source": "digits", "limit": 200, "rotations": [0, 90]},
    "teachers": {"hierarchy": {"by": "class", "levels": [1, 2]}},
    "student": {"backbone": {"name": "resnet18", "weights": None}},
    "controls": ["best_teacher", "ceiling"],
}


class Source(Enum):
    DIGITS = "digits"


def test_values_of_python_are_those_of_yaml() -> None:
    hierarchy = {"by": "class", "levels": np.array([1, 2])}
    written = {
        **TREE,
        "teachers": {**TREE["teachers"], "hierarchy": hierarchy},
        "run": {"name": "tiny", "output": Path("outputs")},
        "data": {"source": Source.DIGITS, "limit": np.int64(200), "rotations": (0, np.float32(90))},
        "controls": {"ceiling", "best_teacher"},
        "execution": load_config(TREE).execution,
    }
    assert load_config(written) == load_config(TREE)
    assert isinstance(written["controls"], set), "what is given stays as it is"


def test_values_that_no_config_can_hold_are_named() -> None:
    with pytest.raises(UserError) as caught:
        load_config({**TREE, "rounds": {"loss": print, "repeat": 1j}})
    assert {key_of(error) for error in caught.value.errors} == {"rounds.loss", "rounds.repeat"}
    endless: dict[str, Any] = {}
    endless["run"] = endless
    assert error_of(load_config, endless).where == "config"


def test_a_mapping_extends_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = {"base": "quickstart", "data": {"limit": 400}}
    assert load_config(mine) == load_config("quickstart", "data.limit=400")
    Path("base.yaml").write_text(to_yaml(TREE))
    assert load_config({"base": "base.yaml"}) == load_config(TREE)
    assert "none.yaml" in str(error_of(load_config, {"base": "none.yaml"}))


def test_a_config_takes_overrides() -> None:
    config = load_config(TREE)
    assert load_config(config) is config
    assert load_config(config, "run.seed=4") == load_config(TREE, "run.seed=4")
    (error,) = mistakes_of(load_config, config, ["run.seed=4"])
    assert error.value == ["run.seed=4"]
