"""The README's worked story, made of real digits and run by its config, with labels and without."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.story import make_story

from cosup.cli import call

SOURCES = ["low", "high", "old", "rules", "ada", "ben", "cy"]
SMALL = ["data.limit=500", "teachers.training.steps=100", "student.training.steps=100"]
SMALL += ["rounds={assignment: fused, targets: hard}", "execution.threads=1"]


@pytest.fixture(scope="module", autouse=True)
def no_rules_of_others() -> Iterator[None]:
    """Forget the module `rules` before and after: other projects have one of this name."""
    sys.modules.pop("rules", None)
    yield
    sys.modules.pop("rules", None)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("story")
    make_story(folder)
    return folder


def run(config: str, *changes: str) -> dict[str, Any]:
    """Run a config in the working directory; return its summary."""
    assert call(["run", config, *SMALL, *changes]) == 0
    found: dict[str, Any] = json.loads(Path(f"outputs/{config[:-5]}/summary.json").read_text())
    return found


def test_it_is_valid_and_planned_at_the_first_try(
    story: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(story)
    for config in ("my.yaml", "no_labels.yaml"):
        for command in ("validate", "plan"):
            assert call([command, config]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert all(name in printed for name in SOURCES)
    assert not (story / "outputs" / "my").exists()


@pytest.mark.slow
def test_a_run_estimates_every_source_and_measures_the_student(
    story: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No label of student_train is known, and a few images are labelled to measure."""
    monkeypatch.chdir(story)
    summary = run("my.yaml", "run.name=my", "controls=[team, labels, ceiling]")
    assert set(summary["sources"]) == {*SOURCES, "student"}
    estimated = {name: summary["sources"][name]["reliability"] for name in SOURCES}
    # The annotators are made to be right in 85, 74 and 60 % of their answers.
    assert estimated["ada"] > estimated["ben"] > estimated["cy"]
    assert estimated["low"] < estimated["ada"], "it knows half of the digits"
    assert summary["student"]["accuracy"] > 0.5
    assert set(summary["controls"]) == {"team", "labels"}
    assert set(summary["controls_absent"]) == {"ceiling"}
    labels = pd.read_parquet("outputs/my/labels.parquet")
    assert len(labels) == summary["data"]["samples"]["student_train"]


@pytest.mark.slow
def test_the_same_without_any_label(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(story)
    summary = run("no_labels.yaml")
    assert set(summary["sources"]) == {*SOURCES[2:], "student"}
    assert all(0 < one["reliability"] < 1 for one in summary["sources"].values())
    assert summary["student"]["accuracy"] is None
    assert summary["measured_reason"]
    assert len(pd.read_parquet("outputs/no_labels/labels.parquet")) == 500
