"""Verdict and findings: each claim has its number, and is made only where the interval bears it."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cosup.analysis import findings, load_run, tables, verdict
from cosup.analysis.phrases import listed, percent, plural, points, span
from cosup.analysis.verdict import more_than_noise

MINUS = "\N{MINUS SIGN}"


def overview(**rows: tuple[str, float, float, float]) -> pd.DataFrame:
    """who=(kind, accuracy, gain_low, gain_high); the student gets 0.8."""
    everyone = {"student": ("student", 0.8, 0.0, 0.0), **rows}
    return pd.DataFrame(
        [
            {
                "who": who,
                "kind": kind,
                "accuracy": accuracy,
                "low": accuracy - 0.01,
                "high": accuracy + 0.01,
                "pgr": float("nan"),
                "gain": 0.8 - accuracy,
                "gain_low": low,
                "gain_high": high,
                "p_value": 0.5,
            }
            for who, (kind, accuracy, low, high) in everyone.items()
        ]
    )


def lines(made: Path, table: pd.DataFrame, **others: pd.DataFrame) -> list[str]:
    return verdict(load_run(made), {"overview": table, **others})


def test_more_than_noise_and_less(made: Path) -> None:
    said = lines(
        made,
        overview(
            level0_0=("teacher", 0.6, 0.15, 0.25),
            mean_ensemble=("control", 0.79, -0.01, 0.03),
            best_teacher=("control", 0.9, -0.12, -0.08),
        ),
    )
    assert (
        said[0] == "The student gets 80.0 % right on the test split (95 % interval 79.0 to 81.0 %)."
    )
    assert said[1] == (
        "It beats the floor, teacher level0_0 (60.0 %) by 20.0 points (95 % interval 15.0 to "
        "25.0), which is more than noise."
    )
    ensemble = next(line for line in said if "mean of the teachers" in line)
    assert "+1.0 point (95 % interval" in ensemble
    assert ensemble.endswith("no difference that the test samples can show.")
    assert any(line.startswith("It falls short of a student taught by the best") for line in said)
    assert any("no PGR: without the control ceiling" in line for line in said)


def test_an_interval_that_touches_zero_shows_nothing() -> None:
    row: dict[str, Any] = {"gain_low": 0.0, "gain_high": 0.02}
    assert not more_than_noise(row)
    assert more_than_noise({"gain_low": 0.001, "gain_high": 0.02})
    assert more_than_noise({"gain_low": -0.02, "gain_high": -0.001})


@pytest.mark.parametrize(
    ("oracle", "ceiling", "words"),
    [
        ((0.88, -0.1, -0.06), (0.9, -0.12, -0.08), "limits it most is routing"),
        ((0.81, -0.02, 0.01), (0.9, -0.12, -0.08), "limits it most are the annotations"),
        ((0.81, -0.02, 0.01), (0.81, -0.02, 0.01), "nothing that the test samples can show"),
        ((0.81, -0.02, 0.01), (0.7, 0.05, 0.15), "above its ceiling"),
        (None, (0.9, -0.12, -0.08), "can't be told apart"),
    ],
)
def test_what_limits_it(
    made: Path,
    oracle: tuple[float, float, float] | None,
    ceiling: tuple[float, float, float],
    words: str,
) -> None:
    rows = {"level0_0": ("teacher", 0.6, 0.15, 0.25), "ceiling": ("control", *ceiling)}
    if oracle is not None:
        rows["oracle_assignment"] = ("control", *oracle)
    said = lines(made, overview(**rows))
    assert words in said[-1]
    assert percent(ceiling[0]) in said[-1]


def test_pgr_is_the_summarys(made: Path) -> None:
    run = load_run(made)
    student = run.summary["student"]
    line = next(line for line in verdict(run, tables(run)) if "PGR" in line)
    assert percent(student["pgr"]) in line
    assert span(*student["pgr_ci95"]) in line


def test_every_table_has_a_finding_with_its_numbers(made: Path) -> None:
    run = load_run(made)
    found = tables(run)
    said = findings(run, found)
    assert set(said) == set(found)
    for text in said.values():
        assert text.endswith(".")
        assert "nan" not in text
        assert re.search(r"\d", text), text
    confusion = found["confusion"]
    wrong = confusion[confusion["true"].astype(str) != confusion["predicted"].astype(str)]
    most = wrong.loc[wrong["samples"].idxmax()]
    assert f"{most['true']} taken for {most['predicted']}" in said["confusion"]
    load = found["load"][found["load"]["round"] == 2]
    assert percent(load["share"].max()) in said["load"]
    assert percent(load["share"].min()) in said["load"]
    whole = found["filters"].iloc[-1]
    for column in ("share", "precision", "recall", "noise_caught"):
        assert percent(whole[column]) in said["filters"]


def test_numbers_in_words() -> None:
    assert percent(0.8924) == "89.2 %"
    assert (points(0.148), points(0.01), points(-0.01, signed=True)) == (
        "14.8 points",
        "1.0 point",
        f"{MINUS}1.0 point",
    )
    assert points(-0.0001, signed=True) == points(0.0001, signed=True) == "0.0 points"
    assert points(0.02, signed=True) == "+2.0 points"
    assert span(-0.016, -0.00001) == f"{MINUS}1.6 to 0.0"
    assert (plural(1, "class"), plural(3, "class"), plural(1436, "sample")) == (
        "1 class",
        "3 classes",
        "1,436 samples",
    )
    assert (listed(["a"]), listed(["a", "b", "c"])) == ("a", "a, b and c")
    assert listed(list("abcdefg"), 2) == "a, b and 5 more"
