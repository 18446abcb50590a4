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


def test_a_pgr_that_a_seed_lacks_has_no_mean_but_a_reason() -> None:
    """The mean of the seeds that have one would be a choice by the result."""
    result = aggregate([summary(0, 0.5, None), summary(1, 0.5, 0.4), summary(2, 0.5, 0.6)])
    assert result["student"]["pgr"] is None
    assert result["student"]["pgr_ci95"] is None
    assert "1 of 3 seeds" in result["student"]["pgr_reason"]
    assert result["over_seeds"]["student.pgr"]["values"] == [None, 0.4, 0.6]


def test_one_seed_keeps_its_own_interval() -> None:
    assert aggregate([summary(0, 0.5, 0.4)])["student"]["pgr_ci95"] == [0.0, 1.0]


def test_pgr_against_the_team_and_of_controls() -> None:
    runs = [summary(seed, 0.5, 0.4) for seed in range(2)]
    for run, team, control in zip(runs, (0.2, 0.4), (0.3, None), strict=True):
        run["student"]["pgr_team"] = {"value": team, "ci95": [0, 1], "reason": None}  # type: ignore[index]
        run["controls"] = {"team": {"accuracy": 0.4, "pgr": control}}
    result = aggregate(runs)
    assert result["student"]["pgr_team"]["value"] == pytest.approx(0.3)
    low, high = stats.t.interval(0.95, 1, loc=0.3, scale=stats.sem([0.2, 0.4]))
    assert result["student"]["pgr_team"]["ci95"] == pytest.approx([low, high], rel=1e-3)
    assert result["controls"]["team"]["pgr"] is None


def test_seeds_that_chose_different_recipes_are_averaged_over_what_they_share() -> None:
    gate, fused = summary(0, 0.5, 0.4), summary(1, 0.7, 0.6)
    gate["choice"], fused["choice"] = {"chosen": "gate"}, {"chosen": "fused"}
    gate["rounds"] = [{"round": 1, "level": 0, "kept": 0.1}, {"round": 2, "level": 1, "kept": 0.5}]
    fused["rounds"] = [{"round": n, "level": 1, "kept": 0.3 * n} for n in (1, 2, 3)]
    gate["controls"] = {name: {"accuracy": 0.4, "pgr": 0.1} for name in ("team", "plain_loss")}
    fused["controls"] = {"team": {"accuracy": 0.6, "pgr": 0.3}}
    fused["controls_absent"] = {"plain_loss": "it is its loss"}
    result = aggregate([gate, fused])
    assert result["controls"] == {"team": pytest.approx({"accuracy": 0.5, "pgr": 0.2})}
    assert "1 of 2 seeds" in result["controls_absent"]["plain_loss"]
    assert [item["kept"] for item in result["rounds"]] == pytest.approx([0.7])
    assert result["choice"]["chosen"] == ["gate", "fused"]
    assert list(gate["controls"]) == ["team", "plain_loss"], "the seed's own summary is left alone"
