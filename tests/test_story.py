"""The README's worked story of real digits: run with labels and without, and its result used."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from helpers.story import NEW, make_story
from PIL import Image

import cosup
from cosup.cli import call

SOURCES = ["low", "high", "old", "rules", "ada", "ben", "cy"]
LIMIT = 300
SMALL = [f"data.limit={LIMIT}", "teachers.training.steps=100", "student.training.steps=100"]
SMALL += ["rounds={assignment: fused, targets: hard}", "execution.threads=1"]
QUICK = "student.backbone={name: test_resnet.r160_in1k, weights: null, image_size: 32}"
"""A network of random weights, where the student's accuracy is not the point."""


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
    summary = run("no_labels.yaml", QUICK)
    assert set(summary["sources"]) == {*SOURCES[2:], "student"}
    assert all(0 < one["reliability"] < 1 for one in summary["sources"].values())
    assert summary["student"]["accuracy"] is None
    assert summary["measured_reason"]
    assert len(pd.read_parquet("outputs/no_labels/labels.parquet")) == LIMIT


@pytest.mark.slow
def test_what_a_run_made_is_used(
    story: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """New images are predicted by the student, its team and plain timm; labels and votes go out."""
    monkeypatch.chdir(story)
    run("my.yaml", "run.name=used", "controls=[]", "rounds.repeat=1", QUICK)
    used, images = "outputs/used", "new_scans"
    for command in (
        ["init", ".", "-o", "first.yaml"],
        ["validate", "first.yaml"],
        ["predict", used, images, "-o", "new.csv"],
        ["predict", used, images, "--team", "--package", "rules", "-o", "new_team.csv"],
        ["annotate", used, images, "--package", "rules", "-o", "new_votes.csv"],
        ["export", "labels", used, "--format", "label-studio"],
        ["export", "student", used, "--format", "torch_export"],
    ):
        assert call(command) == 0, capsys.readouterr().err
    names = [f"scan_{number:03d}.png" for number in range(NEW)]
    table, team = pd.read_csv("new.csv"), pd.read_csv("new_team.csv")
    assert [Path(path).name for path in table["path"]] == names
    assert {name for asked in team["asked"] for name in asked.split(", ")} <= set(SOURCES)
    assert set(pd.read_csv("new_votes.csv")["worker"]) == {"low", "high", "old", "rules"}

    model = timm.create_model(f"local-dir:{used}/student", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    pixels = [prepare(Image.open(path).convert("RGB")) for path in table["path"]]
    with torch.inference_mode():
        plain = model(torch.stack(pixels)).softmax(1)
    student = cosup.load_run(used).student()
    torch.testing.assert_close(
        plain, student.predict(list(table["path"]), batch_size=NEW), atol=1e-5, rtol=0
    )
    found = [student.classes[place] for place in plain.argmax(1).tolist()]
    assert found == [str(label) for label in table["label"]]
