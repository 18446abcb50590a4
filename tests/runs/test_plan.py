"""`cosup plan` shows where the samples of a first project go, and what is not used of them.

On real scans (scikit-learn's digits), few of them labelled, with a table of annotations.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cosup.cli import call
from cosup.runs import costs

CONFIG = """\
run: {name: first, output: runs}
data: {source: images, root: pics, labels: labels.csv}
teachers: {hierarchy: null, external: [{name: ann, annotations: ann.csv}]}
student: {backbone: {name: test_resnet.r160_in1k, weights: null, image_size: 32}}
rounds: {assignment: {name: fused}}
execution: {device: cpu, workers: 1}
"""
COUNT, LABELLED = 60, 20


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write images of two digits, labels of a third of them, and annotations of all."""
    monkeypatch.chdir(tmp_path)
    digits = load_digits(n_class=2)
    Path("pics").mkdir()
    for row in range(COUNT):
        pixels = (digits.images[row] * 15.9).astype(np.uint8)
        Image.fromarray(pixels).save(f"pics/{row:03d}.png")
    lines = [f"{row:03d}.png,{digits.target[row]}" for row in range(COUNT)]
    Path("ann.csv").write_text("\n".join(["sample_id,label", *lines]))
    labels = [f"{line},c{row}" for row, line in enumerate(lines[:LABELLED])]
    Path("labels.csv").write_text("\n".join(["sample_id,label,camera", *labels]))
    Path("c.yaml").write_text(CONFIG)
    return tmp_path


def planned(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, list[str]]:
    """Return the lines of a plan by their first word."""
    assert call(["plan", "c.yaml", *overrides]) == 0
    found: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        head, _, text = line.partition(" ")
        found.setdefault(head, []).append(text.strip())
    return found


def test_labelled_and_unlabelled_samples_of_each_split(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(capsys)
    (samples, *_) = plan["samples"]
    assert "teacher_train 0," in samples
    assert "student_train 40 (unlabelled)" in samples
    assert "validation 8, test 12" in samples
    assert "warning" not in plan
    (note,) = plan["note"]
    assert "'camera'" in note
    shares = "data.splits={teacher_train: 0.25, student_train: 0.25}"
    plan = planned(capsys, shares)
    assert "student_train 45 (40 unlabelled)" in plan["samples"][0]
    unread, untested = sorted(plan["warning"])
    assert "teacher_train" in unread
    assert "test" in untested
    assert any("10 labelled samples" in note for note in plan["note"])


def test_the_decoding_threads_of_actors(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Ray" not in planned(capsys)
    plan = planned(capsys, "execution.backend=ray")
    assert "auto" in plan["Ray"][0]
    assert any("measured" in line for line in plan[""])  # where the line goes on
    threads = ["execution.teachers.num_cpus=6", "execution.features.num_cpus=0.5"]
    plan = planned(capsys, "execution.backend=ray", *threads)
    assert "teachers 6; features 1; student auto" in plan["Ray"][0]
    plan = planned(capsys, "execution.backend=ray", *threads, "execution.student.num_cpus=2")
    assert not any("measured" in line for line in [*plan["Ray"], *plan.get("", [])])


def test_the_plan_as_json_has_the_data_of_the_text(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["plan", "c.yaml", "--json", "-q"]) == 0
    plan = json.loads(capsys.readouterr().out)
    splits = plan["samples"]["splits"]
    assert splits["student_train"] == {"samples": COUNT - LABELLED, "unlabelled": COUNT - LABELLED}
    assert splits["validation"]["samples"] + splits["test"]["samples"] == LABELLED
    assert plan["samples"]["classes"] == ["0", "1"]
    assert plan["run"] == {"place": "runs/first", "exists": False, "seeds": [0], "losses": []}
    (table,) = plan["tables"]
    assert table["teacher"] == "ann"
    assert (table["counts"]["rows"], table["counts"]["unmatched"]) == (COUNT, 0)
    (teacher,) = plan["teachers"]
    assert (teacher["name"], teacher["classes"], teacher["steps"]) == ("ann", None, None)
    assert plan["features"]["missing"] == plan["features"]["images"] == COUNT
    assert plan["rounds"]["assigner"] == "fused"
    assert plan["device"]["name"] == "cpu"
    (note,) = plan["notes"]
    assert note["is_warning"] is False
    assert note["text"] in planned(capsys)["note"]


def test_costs_are_beside_what_there_is_and_too_little_of_it_is_a_warning(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(["plan", "c.yaml", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)["costs"]
    assert 0.2e9 < found["memory"] < 4e9
    assert 0 < found["disk"] < found["free_disk"]
    assert found["seconds"] > 0
    assert "warning" not in planned(capsys)
    monkeypatch.setattr(costs, "usable_memory", lambda: 10**6)
    plan = planned(capsys)
    assert any("memory" in text for text in plan["warning"])
    assert "costs" in plan


def test_memory_of_the_assigner_and_of_searches_for_neighbours_counts(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def memory(*overrides: str) -> int:
        assert call(["plan", "c.yaml", "--json", "-q", *overrides]) == 0
        found: int = json.loads(capsys.readouterr().out)["costs"]["memory"]
        return found

    plain = memory("rounds.assignment=mean")
    assert memory("rounds.assignment=crowd_kit") > plain
    refine = "rounds.refine={name: product, neighbours: 5}"
    assert memory("rounds.assignment=mean", refine) > plain + 50e6  # cosines at a time


def test_a_misspelt_split_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("labels.csv").read_text().replace("camera", "split").replace(",c", ",tset")
    Path("labels.csv").write_text(text)
    assert call(["plan", "c.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data.splits" in line
    assert "'tset0'" in line
    assert "did you mean 'test'?" in line
    assert not Path("runs").exists()
