"""Runs measure student, controls and teachers on shifted test sets, beside the test split."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.digits_manifest import write_digits, write_manifest
from helpers.sharded_config import sharded_config
from rich.console import Console
from safetensors.torch import load_file

from cosup.analysis import load_run, tables
from cosup.analysis.records import Answers
from cosup.analysis.shifted import OnShifted
from cosup.cli import call
from cosup.controls import CONTROLS
from cosup.layout import Layout
from cosup.report.page import write_report
from cosup.runs import run_config
from cosup.runs.tables import summary_table
from cosup.runs.verify import verify
from cosup.words import in_percent

HEAD = """
run: {name: shifted}
data:
  source: digits
  rotations: [0, 90]
  limit: 240
  splits: {teacher_train: 0.3, student_train: 0.4, test: 0.3}
  shifted:
    noisy: {corruption: noise, strength: 5}
    turned: {source: {name: digits, rotations: [45]}, limit: 60}
teachers:
  hierarchy: {by: domain, levels: [1, 2]}
  model: {name: linear_pixels}
  training: {steps: 40, lr: 0.03}
  external: [{name: annotator, annotations: annotator.csv, missing: abstain}]
student:
  backbone: {name: test_resnet.r160_in1k, weights: null, image_size: 32}
  training: {steps: 20, lr: 0.01, standardize: true}
rounds: {assignment: {name: gate}, loss: {name: cross_entropy}, consistency: []}
controls: [team, student_and_team, mean_ensemble, ceiling]
execution: {device: cpu, workers: 1}
"""
NETWORK_STUDENT = {
    "mode": "finetune",
    "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 16},
    "training": {"steps": 5, "batch_size": 16},
}
ALONE = [
    "data.limit=120",
    "teachers={hierarchy: {by: domain, levels: [1]}, training: {steps: 5}, external: []}",
    "student.training.steps=5",
]
"""A small run with a teacher alone."""
NETWORK = [
    "run.name=network",
    "data.limit=120",
    "teachers.model={name: cifar_resnet8, image_size: 16}",
    "teachers.training={steps: 5, batch_size: 16}",
    "student={mode: finetune, backbone: {name: cifar_resnet8, weights: null, image_size: 16}, "
    "training: {steps: 5, batch_size: 16}}",
]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, a table of some answers, and finished runs."""
    root = tmp_path_factory.mktemp("shifted")
    (root / "config.yaml").write_text(HEAD)
    answers = pd.DataFrame({"sample_id": [f"{n:04d}@0" for n in range(100)], "label": "1"})
    answers.to_csv(root / "annotator.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert call(["run", "config.yaml"]) == 0
        assert call(["run", "config.yaml", "run.name=plain", "data.shifted={}"]) == 0
    return root / "outputs"


def test_the_numbers_of_the_test_split_stay(place: Path) -> None:
    found, plain = summary(place / "shifted"), summary(place / "plain")
    assert "shifted" not in plain
    for part in ("student", "floor", "ceiling", "controls", "team"):
        assert found[part] == plain[part]
    assert not (place / "plain/shifted").exists()


def test_each_set_has_the_numbers_of_the_test_split(place: Path) -> None:
    found = summary(place / "shifted")
    assert set(found["shifted"]) == {"noisy", "turned"}
    files = Layout(place / "shifted")
    for name, numbers in found["shifted"].items():
        samples = pd.read_parquet(place / f"shifted/shifted/{name}/samples.parquet")
        assert numbers["samples"] == len(samples)
        truth = samples["answer"].astype(str).to_numpy()
        classes = np.array([str(n) for n in range(10)])
        tables = {
            "student": files.shifted(name).round(2).read(10),
            **{one: files.shifted(name).control(one).read(10) for one in found["controls"]},
        }
        right = {
            one: (classes[Answers.of(table).label] == truth).mean() for one, table in tables.items()
        }
        assert numbers["student"]["accuracy"] == pytest.approx(right["student"])
        assert set(numbers["student"]) == set(found["student"])
        assert set(numbers["controls"]) == set(found["controls"])
        for one, control in numbers["controls"].items():
            assert control["accuracy"] == pytest.approx(right[one])
        assert numbers["ceiling"]["accuracy"] == pytest.approx(right["ceiling"])
        floor = numbers["floor"]
        assert floor["teacher"] == found["floor"]["teacher"]
        by_teacher = {one["name"]: one for one in numbers["teachers"]}
        assert by_teacher[floor["teacher"]]["accuracy"] == floor["accuracy"]
        # A table knows the run's samples alone, whatever ids those of the set have.
        assert by_teacher["annotator"] == {"name": "annotator", "accuracy": None, "coverage": 0}
    assert found["shifted"]["turned"]["samples"] <= 60
    # The strongest noise hurts; both sets are of images that nobody was trained on.
    noisy = found["shifted"]["noisy"]["controls"]["team"]["accuracy"]
    assert noisy < found["controls"]["team"]["accuracy"] - 0.1


def test_the_report_has_them(place: Path) -> None:
    run = load_run(place / "shifted")
    table = tables(run)["shifted"]
    assert table["set"].unique().tolist() == ["test", "noisy", "turned"]
    found = summary(place / "shifted")
    rows = table[(table["kind"] == "student")].set_index("set")
    for name, numbers in found["shifted"].items():
        assert rows.loc[name, "accuracy"] == pytest.approx(numbers["student"]["accuracy"])
        low, high = numbers["student"]["accuracy_ci95"]
        assert (rows.loc[name, "low"], rows.loc[name, "high"]) == pytest.approx((low, high))
        lost = found["student"]["accuracy"] - numbers["student"]["accuracy"]
        assert rows.loc[name, "lost"] == pytest.approx(lost)
    noisy = OnShifted(place / "shifted", "noisy")
    assert len(noisy.predictions) == len(run.predictors()) * len(run.test)
    assert "figure-shifted" in write_report(run).read_text()
    assert "shifted" not in tables(load_run(place / "plain"))


def test_the_terminal_has_student_and_controls_on_each_set(place: Path) -> None:
    found = summary(place / "shifted")
    console = Console(width=200, record=True, file=StringIO())
    console.print(summary_table(found, place / "shifted"))
    rows = {
        line.split("│")[1].strip(): line
        for line in console.export_text().splitlines()
        if line.count("│") == 5
    }
    sets = found["shifted"].values()
    for label, numbers in (
        ("co-supervised student", [one["student"]["accuracy"] for one in (found, *sets)]),
        (CONTROLS["team"].label, [one["controls"]["team"]["accuracy"] for one in (found, *sets)]),
    ):
        cells = [cell.strip() for cell in rows[label].split("│")[2:-1]]
        assert cells == [in_percent(number) for number in numbers]


def test_listings_and_comparisons_have_them(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = summary(place / "shifted")["shifted"]
    assert call(["ls", "runs", str(place), "--json"]) == 0
    listed = {Path(one["name"]).name: one for one in json.loads(capsys.readouterr().out)}
    accuracy = {name: numbers["student"]["accuracy"] for name, numbers in found.items()}
    assert listed["shifted"]["accuracy_on_shifted"] == accuracy
    assert "accuracy_on_shifted" not in listed["plain"]
    pair = [str(place / "shifted"), str(place / "plain")]
    assert call(["compare", *pair, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["shifted"]
    assert {row["set"]: row["student"] for row in rows} == accuracy
    assert {row["run"] for row in rows} == {"shifted"}


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    assert path.exists()
    return load_file(path) if path.suffix == ".safetensors" else {}


@pytest.mark.parametrize(
    "lost",
    [
        ["noisy/round-1.safetensors", "turned/control-ceiling.safetensors"],
        ["noisy/samples.parquet", "turned/student-and-team.safetensors"],
        ["../annotations/shifted-noisy/all/00000.safetensors"],
    ],
    ids=["students", "samples and team", "annotations"],
)
def test_a_resumed_run_computes_what_is_lost(
    lost: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.parent)
    folder = place / "shifted"
    files = [folder / "shifted" / name for name in lost]
    before, tensors = summary(folder), [_tensors(file) for file in files]
    for file in files:
        file.unlink()
    assert call(["run", "config.yaml", "--resume"]) == 0
    for file, known in zip(files, tensors, strict=True):
        again = _tensors(file)
        assert again.keys() == known.keys()
        assert all(torch.equal(again[name], known[name]) for name in known)
    after = summary(folder)
    assert after["shifted"] == before["shifted"]
    assert after["student"] == before["student"]


def test_a_network_predicts_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.parent)
    more = ["teachers.external=[]", "controls=[team, ceiling]", "rounds.assignment=agreement"]
    assert call(["run", "config.yaml", *NETWORK, *more]) == 0
    found = summary(place / "network")
    assert set(found["shifted"]["noisy"]["controls"]) == {"team", "ceiling"}
    assert found["shifted"]["noisy"]["samples"] == found["data"]["samples"]["test"]
    for numbers in found["shifted"].values():
        assert 0 <= numbers["student"]["accuracy"] <= 1


def test_several_seeds_have_their_mean(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.parent)
    seeds = ["run.name=seeds", "run.seeds=[0, 1]", "controls=[]", "execution.side_by_side=1"]
    assert call(["run", "config.yaml", *ALONE, *seeds, "rounds.assignment=single"]) == 0
    found = summary(place / "seeds")
    each = [summary(place / f"seeds/seed-{n}")["shifted"]["noisy"]["student"] for n in (0, 1)]
    mean = np.mean([one["accuracy"] for one in each])
    assert found["shifted"]["noisy"]["student"]["accuracy"] == pytest.approx(mean)


def test_losses_share_what_they_share(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run takes the ceiling over from the first, with its answers to each set."""
    monkeypatch.chdir(place.parent)
    losses = "rounds={losses: [cross_entropy, reverse_cross_entropy], assignment: single}"
    more = ["run.name=losses", "controls=[team, ceiling]"]
    assert call(["run", "config.yaml", *ALONE, *more, losses]) == 0
    one, two = (
        summary(place / "losses" / name) for name in ("cross_entropy", "reverse_cross_entropy")
    )
    for name in ("noisy", "turned"):
        assert set(two["shifted"][name]["controls"]) == {"team", "ceiling"}
        assert set(one["shifted"][name]["controls"]) == {"team", "ceiling"}


def test_sharded_runs_measure_on_them(tmp_path: Path) -> None:
    """With the numbers of a run that lists its samples, of what does not depend on the student."""
    labels = write_digits(tmp_path / "images", 300)
    manifest = write_manifest(tmp_path / "rows", labels, 300, 200, truth=True)
    sections = {
        "teachers": {"hierarchy": {"by": "class", "levels": [1]}},
        "controls": ["mean_ensemble", "ceiling"],
    }
    sets = {
        "noisy": {"corruption": "noise", "limit": 20},
        "turned": {"source": {"name": "digits", "rotations": [45]}, "limit": 30},
    }
    listed = run_config(
        sharded_config(manifest, data={"shifted": sets, "sharded": False}, **sections),
        tmp_path / "listed",
    )
    plain = run_config(sharded_config(manifest, **sections), tmp_path / "plain")
    assert "shifted" not in plain
    for name, student in (("head", {}), ("network", NETWORK_STUDENT)):
        config = sharded_config(manifest, data={"shifted": sets}, student=student, **sections)
        found = run_config(config, tmp_path / name)
        if name == "head":
            for part in ("student", "floor", "ceiling", "controls", "rounds"):
                assert found[part] == plain[part]
        assert set(found["shifted"]) == set(sets)
        for one, numbers in found["shifted"].items():
            assert numbers.keys() == listed["shifted"][one].keys()
            for part in ("samples", "floor", "teachers"):
                assert numbers[part] == listed["shifted"][one][part]
            assert set(numbers["controls"]) == set(found["controls"])
        table = tables(load_run(tmp_path / name))["shifted"]
        assert table["set"].unique().tolist() == ["test", *sets]
        assert verify(str(tmp_path / name)).is_whole
        (tmp_path / name / "shifted/turned/control-ceiling.safetensors").unlink()
        (tmp_path / name / "shifted/noisy/round-1.safetensors").unlink()
        again = run_config(config, tmp_path / name, resume=True)
        assert again["shifted"] == found["shifted"]
