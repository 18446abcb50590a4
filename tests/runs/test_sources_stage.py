"""The stage `sources` of real runs: estimates near the truth, and bad annotators told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.annotated_folder import NAMES, write_digits

from cosup.analysis import load_run, tables, verdict
from cosup.cli import call

CONFIG = """\
run: {name: sources, output: runs}
data: {source: image_folder, root: own, splits: {teacher_train: 0.2, student_train: 0.6, test: 0.2}}
teachers:
  hierarchy: null
  external: [ANNOTATORS]
student:
  backbone: {name: test_resnet.r160_in1k, weights: null, image_size: 32}
  training: {steps: 40, lr: 0.01, standardize: true}
rounds: {assignment: {name: ASSIGNER}, consistency: [], loss: {name: cross_entropy}}
controls: []
execution: {device: cpu, workers: 1}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of digits, and tables of annotators good and bad."""
    root, draw = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    ids, true = write_digits(root, NAMES, 120)

    def right(share: float) -> np.ndarray:
        wrong = (true + draw.integers(1, 4, size=len(true))) % 4
        return np.where(draw.random(len(true)) < share, true, wrong)

    ann = right(0.85)
    said = {
        "ann": ann,
        "ben": np.where(draw.random(len(true)) < 0.8, right(0.75), -1),
        "cem": right(0.7),
        "copy": ann,
        "rand": draw.integers(4, size=len(true)),
        "const": np.full(len(true), 2),
        "adv": np.where(draw.random(len(true)) < 0.9, (true + 1) % 4, true),
    }
    place = np.arange(len(true)) % 2
    parts = {f"part{number}": np.where(place == number, ann, -1) for number in (0, 1)}
    for name, labels in {**said, **parts}.items():
        table = pd.DataFrame({"sample_id": ids, "label": [NAMES[label] for label in labels]})
        table[labels >= 0].to_csv(root / f"{name}.csv", index=False)
    return root


def run(world: Path, annotators: list[str], assigner: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    listed = ", ".join(
        f"{{name: {name}, annotations: {name}.csv, missing: abstain}}" for name in annotators
    )
    config = CONFIG.replace("ANNOTATORS", listed).replace("ASSIGNER", assigner)
    (world / "c.yaml").write_text(config)
    output = world / f"{assigner}-{'-'.join(annotators)}"
    assert call(["run", "c.yaml", "--output", str(output), "execution.cache=cache"]) == 0
    return output


def sources_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "summary.json").read_text())["sources"]
    assert found == json.loads((path / "stages" / "sources.json").read_text())["sources"]
    return found


@pytest.mark.parametrize("assigner", ["fused", "mean"])
def test_bad_annotators_are_named_and_good_ones_estimated(
    world: Path, assigner: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["ann", "ben", "cem", "copy", "rand", "const", "adv"]
    path = run(world, names, assigner, monkeypatch)
    found = sources_of(path)
    assert {name: found[name]["note"] for name in names} == {
        "ann": "copy",
        "ben": None,
        "cem": None,
        "copy": "copy",
        "rand": "random",
        "const": "constant",
        "adv": "adversarial",
    }
    assert found["ann"]["group"] == ["copy"]
    samples = len(load_run(path).train)
    for name in names:
        numbers = found[name]
        assert numbers["kind"] == "hard"
        assert numbers["reliability"] == pytest.approx(numbers["accuracy_where_answered"], abs=0.08)
        low, high = numbers["accuracy_ci95"]
        assert low <= numbers["accuracy_where_answered"] <= high
        assert numbers["samples"] == round(numbers["coverage"] * samples)
    assert found["ben"]["coverage"] == pytest.approx(0.8, abs=0.06)
    assert found["const"]["by_class"]["two"]["reliability"] > 0.99
    fused = assigner == "fused"
    shares = [numbers["share"] for numbers in found.values()]
    assert sum(shares) == pytest.approx(1) if fused else shares == [None] * len(shares)
    if fused:
        assert max(found["const"]["share"], found["rand"]["share"]) < 0.05
    told = capsys.readouterr().out
    for name in ("rand", "const", "adv", "ann and copy"):
        assert name in told
    made = load_run(path)
    assert any(sentence.startswith("rand") for sentence in verdict(made, tables(made)))


def test_one_source_alone_cannot_be_judged(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sources_of(run(world, ["ann"], "mean", monkeypatch))
    assert (found["ann"]["samples"], found["ann"]["reliability"]) == (0, None)
    assert found["ann"]["reliability_ci95"] is None
    assert found["ann"]["note"] is None
    assert found["ann"]["accuracy_where_answered"] > 0.75


def test_sources_that_never_overlap(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run(world, ["part0", "part1"], "mean", monkeypatch)
    found = sources_of(path)
    assert [found[name]["samples"] for name in ("part0", "part1")] == [0, 0]
    assert found["part0"]["coverage"] + found["part1"]["coverage"] == pytest.approx(1)
    table = tables(load_run(path))["sources"].set_index("source")
    assert np.isnan(table.loc["part0", "reliability"])


def test_annotations_of_the_training_images_alone(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test accuracy of the teachers is then unknown, not 0; so are floor and PGR."""
    path = run(world, ["ann", "ben"], "mean", monkeypatch)
    samples = pd.read_parquet(path / "samples.parquet")
    train = set(samples[samples["split"] == "student_train"]["sample_id"])
    for name in ("ann", "ben"):
        table = pd.read_csv(world / f"{name}.csv")
        table[table["sample_id"].isin(train)].to_csv(world / f"{name}_train.csv", index=False)
    summary = json.loads(
        (run(world, ["ann_train", "ben_train"], "fused", monkeypatch) / "summary.json").read_text()
    )
    assert summary["floor"]["accuracy"] is None
    assert summary["floor"]["coverage"] == 0
    assert summary["floor"]["teacher"] == "ann_train"
    assert [teacher["accuracy"] for teacher in summary["teachers"]] == [None, None]
    assert all(teacher["chosen_by"] > 0.6 for teacher in summary["teachers"])
    assert summary["student"]["pgr"] is None
    assert "verdict" in summary, "the report was made"
