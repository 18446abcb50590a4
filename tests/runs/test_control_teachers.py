"""The generalists of controls get the budget of the specialists of all levels."""

from typing import Any

import numpy as np
import pytest

from cosup.config import check_config
from cosup.config.teachers import TeachersSection
from cosup.controls import BAGGED, GENERALIST
from cosup.data.load import load_data
from cosup.runs.control_teachers import control_teachers, why_no_generalists
from cosup.teachers.base import training_rows
from cosup.teachers.hierarchy import plan_hierarchy


def found(levels: list[int]) -> Any:
    return found_for({"hierarchy": {"by": "class", "levels": levels}})


def found_for(teachers: dict[str, Any]) -> Any:
    config = check_config(
        {
            "data": {"source": "digits", "limit": 300},
            "teachers": {"training": {"steps": 100}, **teachers},
            "student": {"backbone": {"name": "test_resnet", "weights": None}},
            "controls": [GENERALIST, BAGGED],
        }
    )
    data = load_data(config.data, 0, 1, None)
    hierarchy = plan_hierarchy(config.teachers, data.classes, data.domains, 0)
    return control_teachers(config, hierarchy, data), data


def test_the_generalist_has_the_steps_of_all_specialists() -> None:
    """2 + 4 + 8 specialists of 100 steps each; the generalist of the first level does not count."""
    groups, _ = found([1, 2, 4, 8])
    (spec,) = groups[GENERALIST]
    assert spec.generalist
    assert spec.training.steps == 1400


def test_bagged_generalists_share_that_budget() -> None:
    groups, _ = found([1, 2, 4, 8])
    specs = groups[BAGGED]
    assert len({spec.name for spec in specs}) == len(specs) == 8
    assert {spec.training.steps for spec in specs} == {1400 // 8}


def test_bagged_generalists_train_on_bootstrap_samples() -> None:
    groups, data = found([1, 4])
    specs = groups[BAGGED]
    rows = data.rows("teacher_train")
    samples = [training_rows(spec, data) for spec in specs]
    for sample in samples:
        assert len(sample) == len(rows)
        assert set(sample) < set(rows)
        assert 0.5 < len(set(sample)) / len(rows) < 0.75  # 1 - 1/e of them on average
        assert (np.diff(sample) >= 0).all()
    assert not np.array_equal(samples[0], samples[1])


def test_without_specialists_there_is_no_budget() -> None:
    assert found([1])[0] == {}


def listed(**own: dict[str, Any]) -> dict[str, Any]:
    """Return three listed teachers, of which the one of the high digits has settings of its own."""
    low = {"name": "low", "scope": {"class": list(range(5))}, "model": SMALL}
    high = {"name": "high", "scope": {"class": list(range(5, 10))}, "model": SMALL, **own}
    return {"hierarchy": {"by": "explicit", "teachers": [[{"name": "all"}], [low, high]]}}


SMALL = {"name": "linear_pixels", "size": 4}


def test_a_generalist_is_made_as_the_specialists_are() -> None:
    """They may train for different times: it gets the sum."""
    groups, _ = found_for(listed(training={"steps": 30}))
    (spec,) = groups[GENERALIST]
    assert spec.model.size == 4
    assert spec.training.steps == 130


@pytest.mark.parametrize(
    "own", [{"model": {"name": "linear_pixels", "size": 6}}, {"training": {"steps": 9, "lr": 0.5}}]
)
def test_specialists_of_different_models_have_no_common_budget(own: dict[str, Any]) -> None:
    teachers = listed(**own)
    groups, _ = found_for(teachers)
    assert groups == {}
    section = TeachersSection.model_validate(teachers)
    level = plan_hierarchy(section, list("0123456789"), ["all"], 0)[-1]
    assert why_no_generalists(level)
    assert not why_no_generalists(level[:1])
