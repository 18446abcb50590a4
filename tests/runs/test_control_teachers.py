"""The generalists of controls get the budget of the specialists of all levels."""

from typing import Any

import numpy as np

from cosup.config import check_config
from cosup.controls import BAGGED, GENERALIST
from cosup.data.table import load_data
from cosup.runs.control_teachers import control_teachers
from cosup.teachers.base import training_rows
from cosup.teachers.hierarchy import plan_hierarchy


def found(levels: list[int], **training: Any) -> Any:
    config = check_config(
        {
            "data": {"source": "digits", "limit": 300},
            "teachers": {
                "hierarchy": {"by": "class", "levels": levels},
                "training": {"steps": 100, **training},
            },
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
    (spec,), section = groups[GENERALIST]
    assert spec.generalist
    assert section.training.steps == 1400


def test_bagged_generalists_share_that_budget() -> None:
    groups, _ = found([1, 2, 4, 8])
    specs, section = groups[BAGGED]
    assert len({spec.name for spec in specs}) == len(specs) == 8
    assert section.training.steps == 1400 // 8


def test_bagged_generalists_train_on_bootstrap_samples() -> None:
    groups, data = found([1, 4])
    specs, _ = groups[BAGGED]
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
