"""Verdict and findings have the right wording and numbers; only this file pins them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cosup.analysis import Run, findings, load_run, tables, verdict
from cosup.analysis.domains import MEAN, SUPERVISION_DOMAINS_FIGURE
from cosup.analysis.results import is_significant
from cosup.words import listed, percent, plural, points, span

DOMAINS = ("photo", "sketch", "clip<art>")
MINUS = "\N{MINUS SIGN}"


def overview(**rows: tuple[str, float, float, float]) -> pd.DataFrame:
    """Return an overview from who=(kind, accuracy, gain_low, gain_high) and a student at 0.8."""
    everything = {"student": ("student", 0.8, 0.0, 0.0), **rows}
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
            for who, (kind, accuracy, low, high) in everything.items()
        ]
    )


def lines(small_run: Path, table: pd.DataFrame, **others: pd.DataFrame) -> list[str]:
    return verdict(load_run(small_run), {"overview": table, **others})


def test_significant_and_not(small_run: Path) -> None:
    found = lines(
        small_run,
        overview(
            level0_0=("teacher", 0.6, 0.15, 0.25),
            mean_ensemble=("control", 0.79, -0.01, 0.03),
            best_teacher=("control", 0.9, -0.12, -0.08),
        ),
    )
    assert found[0] == (
        "The co-supervised student reaches an accuracy of 80.0 % on the test split (95 % CI 79.0 "
        "to 81.0 %)."
    )
    assert found[1] == (
        "It outperforms the best single teacher (level0_0, 60.0 %) by 20.0 points (95 % CI 15.0 to "
        "25.0)."
    )
    (ensemble,) = (line for line in found if "(79.0 %)" in line)
    assert ensemble.startswith("It does not differ significantly from")
    assert f"+1.0 point (95 % CI {MINUS}1.0 to 3.0)" in ensemble
    (better,) = (line for line in found if "(90.0 %)" in line)
    assert better.startswith("It underperforms")
    assert "10.0 points" in better
    assert any("PGR) is not defined without the control ceiling" in line for line in found)


def test_zero_shot_is_compared_first(small_run: Path) -> None:
    table = overview(
        best_teacher=("control", 0.7, 0.05, 0.15), zero_shot=("control", 0.6, 0.1, 0.3)
    )
    line = lines(small_run, table)[1]
    assert "zero-shot" in line
    assert "(60.0 %) by 20.0 points (95 % CI 10.0 to 30.0)" in line


def test_an_interval_that_includes_zero_is_not_significant() -> None:
    row: dict[str, Any] = {"gain_low": 0.0, "gain_high": 0.02}
    assert not is_significant(row)
    assert is_significant({"gain_low": 0.001, "gain_high": 0.02})
    assert is_significant({"gain_low": -0.02, "gain_high": -0.001})


@pytest.mark.parametrize(
    ("oracle", "ceiling", "words"),
    [
        ((0.88, -0.1, -0.06), (0.9, -0.12, -0.08), "Routing is the main limit"),
        ((0.81, -0.02, 0.01), (0.9, -0.12, -0.08), "annotations is the main limit"),
        ((0.81, -0.02, 0.01), (0.81, -0.02, 0.01), "does not differ significantly"),
        ((0.81, -0.02, 0.01), (0.7, 0.05, 0.15), "exceeds its ceiling"),
        (None, (0.9, -0.12, -0.08), "cannot be separated"),
    ],
)
def test_main_limit(
    small_run: Path,
    oracle: tuple[float, float, float] | None,
    ceiling: tuple[float, float, float],
    words: str,
) -> None:
    rows = {"level0_0": ("teacher", 0.6, 0.15, 0.25), "ceiling": ("control", *ceiling)}
    if oracle is not None:
        rows["oracle_assignment"] = ("control", *oracle)
    sentences = lines(small_run, overview(**rows))
    assert words in sentences[-1]
    assert percent(ceiling[0]) in sentences[-1]


def test_pgr_equals_the_summary(small_run: Path) -> None:
    run = load_run(small_run)
    student = run.summary["student"]
    line = next(line for line in verdict(run, tables(run)) if "PGR" in line)
    assert percent(student["pgr"]) in line
    assert span(*student["pgr_ci95"]) in line


def test_every_table_has_a_finding_with_its_numbers(small_run: Path) -> None:
    run = load_run(small_run)
    found = tables(run)
    sentences = findings(run, found)
    assert set(sentences) == set(found)
    for text in sentences.values():
        assert text.endswith(".")
        assert "nan" not in text
        assert re.search(r"\d", text), text
    confusion = found["confusion"]
    wrong = confusion[confusion["true"].astype(str) != confusion["predicted"].astype(str)]
    most = wrong.loc[wrong["samples"].idxmax()]
    assert f"{most['true']} predicted as {most['predicted']}" in sentences["confusion"]
    load = found["load"][found["load"]["round"] == 2]
    assert percent(load["share"].max()) in sentences["load"]
    assert percent(load["share"].min()) in sentences["load"]
    whole = found["filters"].iloc[-1]
    for column in ("share", "precision", "recall", "noise_caught"):
        assert percent(whole[column]) in sentences["filters"]


def grid(**rows: tuple[str, float, float, float]) -> pd.DataFrame:
    """Return accuracies by domain from who=(kind, accuracy in each of three domains)."""
    return pd.DataFrame(
        [
            {"who": who, "kind": kind, "domain": name, "samples": 50, "accuracy": value}
            for who, (kind, *values) in rows.items()
            for name, value in zip((*DOMAINS, MEAN), (*values, np.mean(values)), strict=True)
        ]
    )


def sentence(run: Run, table: pd.DataFrame) -> str:
    return SUPERVISION_DOMAINS_FIGURE.sentence(run, table)


def test_domains_sentence(small_run: Path) -> None:
    run = load_run(small_run)
    student, floor = ("student", 0.9, 0.8, 0.4), ("teacher", 0.6, 0.7, 0.5)
    zero_shot = ("control", 0.85, 0.4, 0.1)
    assert sentence(run, grid(student=student, level0_0=floor)) == (
        "Mean over the 3 domains: the student 70.0 % and the floor 60.0 %. Over the floor the "
        "student gains most on photo (+30.0 points, to 90.0 %) and least on clip<art> "
        "(\N{MINUS SIGN}10.0 points, to 40.0 %)."
    )
    assert sentence(run, grid(student=student, zero_shot=zero_shot, level0_0=floor)) == (
        "Mean over the 3 domains: the student 70.0 %, zero-shot 45.0 % and the floor 60.0 %. Over "
        "zero-shot the student gains most on sketch (+40.0 points, to 80.0 %) and least on photo "
        "(+5.0 points, to 90.0 %)."
    )
    alike = grid(student=("student", 0.5, 0.5, 0.5), level0_0=("teacher", 0.25, 0.25, 0.25))
    assert sentence(run, alike).endswith("Over the floor it gains +25.0 points in each.")
    assert sentence(run, grid(student=student)) == "Mean over the 3 domains: the student 70.0 %."


def test_domains_sentence_has_the_tables_numbers(small_run: Path) -> None:
    run = load_run(small_run)
    table = run.predictions
    domain = run.test["domain"].astype(str).to_numpy()[table["position"]]
    by_domain = table["correct"].groupby([table["kind"], table["who"], domain], observed=True)
    by_domain = by_domain.mean()
    floor = json.loads((small_run / "stages" / "prepared.json").read_text())["floor"]["teacher"]
    student = by_domain["student", "student"]
    gained = student - by_domain["teacher", floor]
    sentences = findings(run, tables(run))["supervision_domains"]
    assert f"the student {100 * student.mean():.1f} %" in sentences
    best, worst = gained.idxmax(), gained.idxmin()
    for text, name in (("most", best), ("least", worst)):
        assert f"{text} on {name} ({100 * gained[name]:+.1f} points" in sentences.replace(
            "\N{MINUS SIGN}", "-"
        )


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
