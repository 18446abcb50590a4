"""Summaries over seeds equal SciPy."""

import numpy as np
import pytest
from scipy import stats

from cosup.runs.repeat import aggregate


def summary(seed: int, accuracy: float, pgr: float | None) -> dict[str, object]:
    return {
        "run": "x",
        "seed": seed,
        "student": {"accuracy": accuracy, "pgr": pgr, "pgr_ci95": [0.0, 1.0]},
        "rounds": [{"round": 1, "kept": accuracy}],
    }


def test_mean_deviation_and_interval() -> None:
    values = [0.5, 0.6, 0.9]
    result = aggregate([summary(seed, value, value) for seed, value in enumerate(values)])
    over = result["over_seeds"]["student.accuracy"]
    assert result["student"]["accuracy"] == pytest.approx(np.mean(values))
    assert over["deviation"] == pytest.approx(np.std(values, ddof=1))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert over["ci95"] == pytest.approx([low, high], rel=1e-3)
    assert result["student"]["pgr_ci95"] == over["ci95"]
    assert result["rounds"][0] == {"round": 1, "kept": pytest.approx(np.mean(values))}
    assert result["seed"] == [0, 1, 2]


def test_a_missing_pgr_is_left_out_of_the_mean() -> None:
    result = aggregate([summary(0, 0.5, None), summary(1, 0.5, 0.4), summary(2, 0.5, 0.6)])
    assert result["student"]["pgr"] == pytest.approx(0.5)
    assert result["over_seeds"]["student.pgr"]["values"] == [None, 0.4, 0.6]
