"""The candidates of `rounds.choose` and the limits of a run, from records written by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
from helpers.synthetic_run import Shape, make_run
from rich.console import Console

from cosup.analysis import findings, load_run, tables
from cosup.metrics import paired_comparison
from cosup.report.page import page_html
from cosup.report.terminal import report_text
from cosup.seeds import seed_for

CHOICE: dict[str, Any] = {
    "chosen": "plain",
    "by": "validation",
    "samples": 300,
    "candidates": [
        {
            "name": "plain",
            "rounds": {"assignment": {"name": "mean"}, "consistency": [], "loss": "cross_entropy"},
            "accuracy": 0.71,
            "rejected": None,
        },
        {
            "name": "filtered",
            "rounds": {
                "assignment": {"name": "gate"},
                "consistency": [{"name": "teacher_student"}],
            },
            "accuracy": 0.715,
            "rejected": None,
        },
        {"name": "judged", "rounds": {}, "accuracy": None, "rejected": "its judge is weaker"},
    ],
}


def with_choice(path: Path, **changes: Any) -> dict[str, Any]:
    """Return tables and findings of a run with this choice in its summary."""
    file = path / "summary.json"
    choice = {**CHOICE, **changes}
    file.write_text(json.dumps({**json.loads(file.read_text()), "choice": choice}))
    run = load_run(path)
    made = tables(run)
    return {"table": made["candidates"], "sentence": findings(run, made)["candidates"]}


def test_candidates_are_those_of_the_summary(tmp_path: Path) -> None:
    found = with_choice(make_run(tmp_path / "run", Shape()))
    table = found["table"]
    assert table["candidate"].tolist() == ["plain", "filtered", "judged"]
    assert table["chosen"].tolist() == [True, False, False]
    assert table["accuracy"].tolist() == pytest.approx([0.71, 0.715, np.nan], nan_ok=True)
    assert table["rejected"].tolist() == ["", "", "its judge is weaker"]
    settings = table["settings"].tolist()
    assert settings[1] == "assignment gate, consistency teacher_student"
    assert "consistency none" in settings[0]
    sentence = found["sentence"]
    for fact in ("plain", "71.0 %", "300 samples", "validation", "filtered", "71.5 %", "simpler"):
        assert fact in sentence


def test_candidates_by_a_score_without_labels(tmp_path: Path) -> None:
    scored = [{"name": "a", "rounds": {}, "score": 1.5}, {"name": "b", "rounds": {}, "score": 0.5}]
    found = with_choice(
        make_run(tmp_path / "run", Shape()), by="score", samples=None, chosen="a", candidates=scored
    )
    assert found["table"]["score"].tolist() == [1.5, 0.5]
    assert "reads no label" in found["sentence"]
    assert "simpler" not in found["sentence"]


def test_a_run_that_chose_nothing_has_no_candidates(small_run: Path) -> None:
    run = load_run(small_run)
    assert "candidates" not in tables(run)
    assert "candidates" not in page_html(run, tables(run))


def test_the_page_and_the_terminal_list_the_candidates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run(tmp_path / "run", Shape())
    with_choice(path)
    run = load_run(path)
    page = page_html(run, tables(run))
    Console(width=160).print(report_text(run))
    for text in (page, capsys.readouterr().out):
        for fact in ("filtered", "71.5", "its judge is weaker"):
            assert fact in text


def test_limits_are_paired_differences_of_the_controls(small_run: Path) -> None:
    """Annotations are measured from perfect routing up, the rest from the student."""
    table = tables(load_run(small_run))["limits"].set_index("limit")
    truth = np.array(plain.samples(small_run, "test")["answer"].tolist())
    groups = plain.samples(small_run, "test")["group"].to_numpy()
    student = np.array(plain.student(small_run, 2)[0]) == truth
    oracle, ceiling = (
        np.array(plain.control(small_run, name)[0]) == truth
        for name in ("oracle_assignment", "ceiling")
    )
    assert oracle.mean() > student.mean()
    seed = seed_for(0, "bootstrap")
    for limit, better, over in (
        ("routing", oracle, student),
        ("annotations", ceiling, oracle),
    ):
        row, wanted = table.loc[limit], paired_comparison(better, over, groups, seed=seed)
        shown = [row["gain"], row["low"], row["high"]]
        assert shown == pytest.approx([wanted.difference, wanted.low, wanted.high])
        assert row["accuracy"] == pytest.approx(better.mean())
        assert row["missing"] == ""
    assert table.loc["annotations", "over"] == "oracle_assignment"
    assert "plain_loss" in table.loc["loss", "missing"]
