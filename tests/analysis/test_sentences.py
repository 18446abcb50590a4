"""Verdict and findings have the right wording and numbers; only this file pins them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.synthetic_run import Shape, make_run

from cosup.analysis import Run, findings, load_run, tables, verdict
from cosup.analysis.results import is_significant
from cosup.analysis.supervision_domains import MEAN, SUPERVISION_DOMAINS_FIGURE
from cosup.controls import CONTROLS
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


Limit = tuple[str, str, float, float, float, float]


def limits(**measured: Limit) -> pd.DataFrame:
    """Return limits from name=(control, over, accuracy, gain, low, high); the others not run."""
    controls = {"filters": "no_filter", "loss": "plain_loss", "routing": "loss_oracle"}
    rows = []
    for name in ("filters", "loss", "routing", "annotations"):
        row: dict[str, Any] = {
            "limit": name,
            "missing": f"{controls.get(name, 'ceiling')}: not run",
        }
        nothing = ("", "", *[float("nan")] * 4)
        row["missing"] = "" if name in measured else row["missing"]
        keys = ("control", "over", "accuracy", "gain", "low", "high")
        rows.append(row | dict(zip(keys, measured.get(name, nothing), strict=True)))
    return pd.DataFrame(rows)


FLOOR = ("teacher", 0.6, 0.15, 0.25)
CEILING = ("control", 0.9, -0.12, -0.08)


def test_student_best(small_run: Path) -> None:
    table = overview(level0_0=FLOOR, mean_ensemble=("control", 0.7, 0.05, 0.15), ceiling=CEILING)
    measured = limits(
        filters=("no_filter", "student", 0.81, 0.01, -0.01, 0.03),
        routing=("loss_oracle", "student", 0.82, 0.02, 0.01, 0.03),
        annotations=("ceiling", "loss_oracle", 0.9, 0.08, 0.06, 0.1),
    )
    use, why, *rest = lines(small_run, table, limits=measured)
    assert use.startswith("Use the student: 80.0 % right (95 % CI 79.0 to 81.0 %)")
    assert "10.0 points more than a student taught by the mean of the teachers" in use
    assert "(70.0 %; 95 % CI 5.0 to 15.0)" in use
    assert "gains 20.0 points over the best single source" in why
    assert "level0_0 (60.0 %; 95 % CI 15.0 to 25.0)" in why
    assert "annotations" in why
    assert "90.0 %" in why
    assert "8.0 points" in why
    assert "plain_loss" in why  # not run
    assert "no_filter" not in why  # run, and within noise
    assert any("outperforms the best single teacher (level0_0, 60.0 %)" in line for line in rest)


def test_the_ceiling_and_the_oracle_are_nothing_to_use(small_run: Path) -> None:
    """They read the true labels, so the head compares with neither."""
    table = overview(
        level0_0=FLOOR, ceiling=CEILING, oracle_assignment=("control", 0.89, -0.11, -0.07)
    )
    use, why, *rest = lines(small_run, table, limits=limits())
    assert use.startswith("Use the student")
    assert "level0_0" in use
    assert "(60.0 %; " in use
    assert "falls short" not in why
    assert not any("no bound" in line for line in rest)


def test_a_teacher_best(small_run: Path) -> None:
    table = overview(level0_0=("teacher", 0.85, -0.08, -0.02), ceiling=CEILING)
    use, why, *_ = lines(small_run, table, limits=limits())
    assert use.startswith("Use the teacher level0_0: 85.0 % right")
    assert "5.0 points more than the student (80.0 %; 95 % CI 2.0 to 8.0)" in use
    assert "not labelled" not in use  # it can be asked about new images
    assert "falls short of the teacher level0_0 by 5.0 points (95 % CI 2.0 to 8.0)" in why
    for name in ("no_filter", "plain_loss", "loss_oracle"):
        assert name in why


def test_an_annotator_best_and_the_student_too_weak_to_follow(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", Shape())
    file = path / "teachers" / "level1_0.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": "table"}))
    rows = {
        "level1_0": ("teacher", 0.9, -0.13, -0.07),
        "best_teacher": ("control", 0.85, -0.08, -0.02),
        "ceiling": ("control", 0.88, -0.11, -0.05),
        "oracle_assignment": ("control", 0.79, -0.01, 0.03),
    }
    use, why, *rest = lines(path, overview(**rows), limits=limits())
    assert use.startswith("Use the labels of level1_0: 90.0 % right")
    assert "level1_0 has not labelled" in use
    assert "a student taught by the best single teacher (85.0 %)" in use
    assert "trained on the true labels it reaches 88.0 %" in why
    assert "student.backbone" in why
    assert any("(79.0 %) is no bound here" in line and "85.0 %" in line for line in rest)


@pytest.mark.parametrize(
    ("control", "limit", "setting"),
    [
        ("no_filter", "filters", "rounds.consistency: []"),
        ("plain_loss", "loss", "rounds.loss: cross_entropy"),
    ],
)
def test_a_setting_that_harms(
    small_run: Path, control: str, limit: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever control is highest is named, and its setting is what to try."""
    known_as(monkeypatch, control)
    table = overview(**{"level0_0": FLOOR, control: ("control", 0.88, -0.1, -0.06)})
    other = "loss" if limit == "filters" else "filters"
    measured = limits(
        **{
            limit: (control, "student", 0.88, 0.08, 0.06, 0.1),
            other: ("mean_ensemble", "student", 0.83, 0.03, 0.01, 0.05),
        }
    )
    use, why, *_ = lines(small_run, table, limits=measured)
    assert setting in use
    assert "88.0 % right" in use
    assert "8.0 points more than the student" in use
    assert "falls short" in why
    assert f"its {limit} cost" in why
    assert f"Try {'no filters' if limit == 'filters' else 'cross-entropy'} ({setting})" in why


@pytest.mark.parametrize(
    ("control", "use_what"),
    [
        ("team", "Use the team"),
        ("labels", "Train the student on the teachers' own labelled samples"),
        ("student_and_team", f"Use {CONTROLS['student_and_team'].sentence}"),
    ],
)
def test_team_labels_or_both_best(
    small_run: Path, control: str, use_what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_as(monkeypatch, control)
    table = overview(**{"level0_0": FLOOR, control: ("control", 0.88, -0.1, -0.06)})
    use, why, *_ = lines(small_run, table, limits=limits())
    assert use.startswith(use_what)
    assert "88.0 % right" in use
    assert ("falls short" in why) == (control != "student_and_team")
    assert ("over the best single source" in why) == (control == "student_and_team")


def known_as(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have a control of this name, which reads no true label."""
    if name not in CONTROLS:
        sentence = name.replace("_", " ")
        known = replace(CONTROLS["mean_ensemble"], name=name, sentence=sentence, advice="")
        monkeypatch.setitem(CONTROLS, name, known)


def test_a_gap_within_noise(small_run: Path) -> None:
    table = overview(level0_0=FLOOR, mean_ensemble=("control", 0.81, -0.03, 0.01))
    use, why, *rest = lines(small_run, table, limits=limits())
    assert use.startswith("Use the student or a student taught by the mean of the teachers")
    assert "80.0 % right" in use
    assert f"81.0 % on the test split, no difference beyond noise ({MINUS}1.0 point;" in use
    assert f"95 % CI {MINUS}3.0 to 1.0" in use
    assert "falls short" not in why
    lower = overview(level0_0=("teacher", 0.79, -0.01, 0.03))
    use, why, *_ = lines(small_run, lower, limits=limits())
    assert use.startswith("Use the student: 80.0 % right")
    assert f"(79.0 %; +1.0 point, 95 % CI {MINUS}1.0 to 3.0)" in use
    assert "does not gain over the teacher level0_0" in why
    (ensemble,) = (line for line in rest if "(81.0 %)" in line)
    assert "does not differ significantly from" in ensemble


def test_a_teacher_alone_without_controls(small_run: Path) -> None:
    use, why, *rest = lines(small_run, overview(level0_0=FLOOR))
    assert use.startswith("Use the student")
    assert "20.0 points more than the teacher level0_0" in use
    assert "20.0 points" in why
    assert any("PGR) is not defined without the control ceiling" in line for line in rest)


def test_without_true_labels_the_head_still_says_what_to_use(tmp_path: Path) -> None:
    controls = ("best_teacher", "mean_ensemble")
    run = load_run(make_run(tmp_path / "run", Shape(labels=False, controls=controls)))
    use, why, *rest = verdict(run, tables(run))
    assert percent(run.summary["student"]["accuracy"]) in use
    assert "ceiling" in why  # what is lacking for a diagnosis
    assert not any(line.startswith(("Routing", "Annotations")) for line in rest)
    assert any("No true label of student_train is known" in line for line in rest)


def test_a_filter_whose_judge_is_weaker_is_told(tmp_path: Path) -> None:
    path = make_run(
        tmp_path / "run", Shape(overrides=["rounds.consistency=[{name: teacher_student}]"])
    )
    file = path / "stages" / "round-2.json"
    for student, told in ((0.37, True), (0.8, False)):
        judge = {"student": student, "annotations": 0.72}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"judge": judge}))
        run = load_run(path)
        found = [
            line for line in verdict(run, tables(run)) if "37.0 %" in line and "72.0 %" in line
        ]
        assert bool(found) == told
        assert all("round 2" in line for line in found)


def test_zero_shot_is_compared_first(small_run: Path) -> None:
    table = overview(
        best_teacher=("control", 0.7, 0.05, 0.15), zero_shot=("control", 0.6, 0.1, 0.3)
    )
    line = lines(small_run, table)[2]
    assert "zero-shot" in line
    assert "(60.0 %) by 20.0 points (95 % CI 10.0 to 30.0)" in line


def test_an_interval_that_includes_zero_is_not_significant() -> None:
    row: dict[str, Any] = {"gain_low": 0.0, "gain_high": 0.02}
    assert not is_significant(row)
    assert is_significant({"gain_low": 0.001, "gain_high": 0.02})
    assert is_significant({"gain_low": -0.02, "gain_high": -0.001})


def test_pgr_equals_the_summary(small_run: Path) -> None:
    run = load_run(small_run)
    student = run.summary["student"]
    line = next(line for line in verdict(run, tables(run)) if "PGR" in line)
    assert percent(student["pgr"]) in line
    assert span(*student["pgr_ci95"]) in line


def test_a_pgr_that_is_not_told_has_its_reason(tmp_path: Path) -> None:
    """Four test groups say nothing about a gap; an older summary without a reason is too."""
    path = make_run(tmp_path / "run", Shape(test=8))
    file = path / "summary.json"
    summary = json.loads(file.read_text())
    summary["student"] |= {"pgr": None, "pgr_ci95": None, "pgr_reason": "the gap is within noise"}
    file.write_text(json.dumps(summary))
    run = load_run(path)
    found = tables(run)
    found["overview"]["pgr"] = np.nan
    assert any("PGR" in line and "within noise" in line for line in verdict(run, found))
    summary["student"] |= {"pgr": -237.0}
    del summary["student"]["pgr_reason"]
    file.write_text(json.dumps(summary))
    assert not any("237" in line for line in verdict(load_run(path), found))


def test_every_table_has_a_finding_with_its_numbers(small_run: Path) -> None:
    run = load_run(small_run)
    found = tables(run)
    sentences = findings(run, found)
    assert set(sentences) == set(found)
    assert not run.absent
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
    table = table[table["label"].notna()]
    domain = domain[table.index]
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
