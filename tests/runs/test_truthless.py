"""Runs with little truth or none: unlabelled images, annotators' tables, rules, a small test split.

The images are real digits. Their true classes are known to the test alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cosup.analysis import load_run, tables, verdict
from cosup.cli import call
from cosup.layout import Layout
from cosup.report.page import page_html

NAMES = ("nought", "one", "two", "three", "four")
TESTED = 100
RULES = '''
import torch

def annotate(images):
    """Guess by how bright the middle is: a nought has a hole."""
    grey = images.float().mean(1)
    side = grey.shape[1]
    middle = grey[:, side // 3 : -side // 3, side // 3 : -side // 3].mean((1, 2))
    dark = (middle < 100).float()
    nought = 0.1 + 0.8 * dark
    return torch.stack([nought, *[(1 - nought) / 4] * 4], dim=1)
'''


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, three annotators, rules, and tables of samples with few labels or none."""
    root, digits = tmp_path_factory.mktemp("truthless"), load_digits()
    (root / "images").mkdir()
    draw = np.random.default_rng(0)
    chosen = np.concatenate([np.flatnonzero(digits.target == label)[:90] for label in range(5)])
    chosen = draw.permutation(chosen)
    ids, true = [f"{place:04d}.png" for place in range(len(chosen))], digits.target[chosen]
    for name, index in zip(ids, chosen, strict=True):
        pixels = (digits.images[index] * 15.9).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
    for name, share, coverage in (("ben", 0.6, 0.8), ("ann", 0.8, 1.0), ("cem", 0.55, 0.6)):
        wrong = (true + draw.integers(1, 5, size=len(true))) % 5
        said = np.where(draw.random(len(true)) < share, true, wrong)
        answers = draw.random(len(true)) < coverage
        table = pd.DataFrame({"sample_id": ids, "label": [NAMES[label] for label in said]})
        table[answers].to_csv(root / f"{name}.csv", index=False)
    (root / "truthless_rules.py").write_text(RULES)
    names, tested = np.array(NAMES, object)[true], np.arange(len(ids)) < TESTED
    for name, known, used in (
        ("none", tested & False, tested | True),
        ("some", tested, tested | True),
        ("lacking", tested, ~tested | (true != 4)),
    ):
        table = pd.DataFrame({"path": ids, "label": np.where(known, names, "")})
        table["split"] = np.where(known, "test", "student_train")
        table[used].to_csv(root / f"{name}.csv", index=False)
    pd.DataFrame({"sample_id": ids, "true": names}).to_csv(root / "truth.csv", index=False)
    return root


def tree(table: str, rounds: str, hierarchy: str = "null", more: str = "") -> str:
    annotators = ", ".join(
        f"{{name: {name}, annotations: {name}.csv, missing: abstain}}"
        for name in ("ben", "ann", "cem")
    )
    return f"""\
run: {{name: truthless, output: runs}}
data: {{source: table, table: {table}.csv, root: images, classes: [{", ".join(NAMES)}]}}
teachers: {{hierarchy: {hierarchy}, external: [{annotators}]}}
student:
  backbone: {{name: test_resnet.r160_in1k, weights: null, image_size: 32}}
  training: {{steps: 30, lr: 0.03, standardize: true}}
rounds: {rounds}
execution: {{device: cpu, workers: 1, cache: cache}}
{more}"""


AUTO = "{choose: auto}"
FIXED = "{assignment: {name: agreement}, consistency: [{name: confidence, threshold: 0.3}]}"
CALLED = (
    "{by: explicit, teachers: [[{name: rules, model: {name: 'call:truthless_rules:annotate'}}]]}"
)


def run(world: Path, monkeypatch: pytest.MonkeyPatch, name: str, **settings: str) -> Path:
    monkeypatch.chdir(world)
    monkeypatch.syspath_prepend(str(world))
    output = world / "runs" / name
    if not output.exists():
        (world / f"{name}-config.yaml").write_text(tree(**settings))
        assert call(["run", f"{name}-config.yaml", "--output", str(output)]) == 0
    return output


CASES: dict[str, dict[str, str]] = {
    "few": {"table": "some", "rounds": AUTO},
    "none": {"table": "none", "rounds": AUTO},
    "none-fixed": {"table": "none", "rounds": FIXED},
    "none-rules": {"table": "none", "rounds": AUTO, "hierarchy": CALLED},
    "lacking": {"table": "lacking", "rounds": "{assignment: {name: fused}}"},
}


@pytest.fixture(params=list(CASES))
def case(
    request: pytest.FixtureRequest, world: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Path]:
    return request.param, run(world, monkeypatch, request.param, **CASES[request.param])


def summary_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return found


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(node, list):
        for key, value in enumerate(node):
            yield from leaves(value, f"{path}.{key}")
    else:
        yield path, node


def test_labels_out_are_better_than_the_best_annotator(case: tuple[str, Path], world: Path) -> None:
    _, path = case
    summary, table = summary_of(path), Layout(path).labels.read()
    truth = pd.read_csv(world / "truth.csv", dtype=str)
    found = table.merge(truth, on="sample_id", how="left")
    assert len(found) == summary["data"]["samples"]["student_train"]
    right = (found["label"].astype(str) == found["true"]).mean()
    assert right > 0.85, "ann, the best one, has 80 % right"
    assert summary["labels"]["accuracy"] is None
    assert summary["labels"]["estimated_right"] == pytest.approx(right, abs=0.1)


def test_the_best_annotator_is_told_without_labels(case: tuple[str, Path]) -> None:
    _, path = case
    summary = summary_of(path)
    assert summary["floor"]["teacher"] == "ann", "it is listed second"
    assert summary["floor"]["chosen_on"] == "student_train, estimated without labels"
    assert summary["sources"]["ann"]["reliability"] == pytest.approx(0.8, abs=0.07)
    chosen = {one["name"]: one["chosen_by"] for one in summary["teachers"]}
    assert chosen["ann"] == max(chosen.values())


def test_agreement_needs_no_label(case: tuple[str, Path]) -> None:
    _, path = case
    found = summary_of(path)["agreement"]
    sources = found["sources"]
    assert found["cross_fitted"]
    assert sources["ann"]["labels"] > max(sources["ben"]["labels"], sources["cem"]["labels"])
    assert sources["ann"]["others"]["ben"] == sources["ben"]["others"]["ann"]
    assert sum(one["asked"] for name, one in sources.items() if name != "student") == pytest.approx(
        1
    )
    assert 0 < found["unanimous"] < 1


def test_what_is_not_measured_is_null_with_a_reason(case: tuple[str, Path]) -> None:
    name, path = case
    summary = summary_of(path)
    assert [where for where, value in leaves(summary) if value != value] == []
    assert summary["ceiling"]["accuracy"] is None
    assert summary["student"]["pgr"] is None
    assert summary["student"]["pgr_reason"]
    assert {"ceiling", "oracle_assignment"} <= set(summary["controls_absent"])
    tested = name in ("few", "lacking")
    assert (summary["student"]["accuracy"] is not None) is tested
    assert (summary["floor"]["accuracy"] is not None) is tested
    assert (summary["measured_reason"] is None) is tested
    assert (len(summary["controls"]) > 0) is tested
    if not tested:
        assert summary["measured"] is None
        assert set(summary["controls_absent"].values()) == {summary["measured_reason"]}
    if name == "lacking":
        assert summary["student"]["per_class"]["four"] is None


def test_reports_say_what_is_known(
    case: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    name, path = case
    loaded = load_run(path)
    assert loaded.missing == []
    made = tables(loaded)
    tested = name in ("few", "lacking")
    assert ("overview" in made) is tested
    assert {"sources", "agreement", "labels", "load"} <= set(made)
    sentences = verdict(loaded, made)
    for text in (*sentences, page_html(loaded, made)):
        assert not {"nan", "None", "NaN"} & set(text.replace(">", " ").replace("<", " ").split())
    assert any("labels.parquet" in sentence for sentence in sentences)
    if not tested:
        assert "the student" in sentences[0]
    assert call(["report", str(path), "--text"]) == 0
    assert "nan" not in capsys.readouterr().out.split()


def test_controls_are_left_out_in_one_line(case: tuple[str, Path]) -> None:
    name, path = case
    told = [
        line for line in (path / "log.txt").read_text().splitlines() if "control_stages" in line
    ]
    trained = [line for line in told if "test accuracy" in line]
    assert len(told) - len(trained) == 1
    assert bool(trained) is (name in ("few", "lacking"))


def test_runs_without_a_test_split_are_compared(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [run(world, monkeypatch, name, **CASES[name]) for name in ("none", "none-fixed")]
    page = world / "comparison.html"
    assert call(["compare", *map(str, paths), "--output", str(page)]) == 0
    told = capsys.readouterr().out
    assert "ann" in told
    assert not {"nan", "None"} & set(told.split())
    same = pd.read_csv(world / "comparison-tables" / "pairs.csv")["same_label"]
    assert same.between(0.8, 1).all()


def test_a_student_without_measured_accuracy_has_a_card(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (run(world, monkeypatch, "none", **CASES["none"]) / "student" / "README.md").read_text()
    assert "None" not in card
    assert "| accuracy" not in card
    few = (run(world, monkeypatch, "few", **CASES["few"]) / "student" / "README.md").read_text()
    assert "on the test split" in few
    assert "\N{EN DASH}" not in few, "rows without a number are left out"


def test_a_run_without_labels_is_resumed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run(world, monkeypatch, "none", **CASES["none"])
    before = summary_of(path)
    for stage in ("labels", "sources", "summary"):
        Layout(path).stage(stage).path.unlink()
    (path / "summary.json").unlink()
    assert call(["run", "none-config.yaml", "--output", str(path), "--resume"]) == 0
    after = summary_of(path)
    for key in ("labels", "sources", "agreement", "floor", "choice"):
        assert after[key] == before[key], key


def test_losses_cannot_be_compared_without_a_test_split(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    rounds = "{assignment: {name: fused}, losses: [cross_entropy, adaptive_confidence]}"
    (world / "losses.yaml").write_text(tree(table="none", rounds=rounds))
    for command in ("run", "plan"):
        assert call([command, "losses.yaml"]) == 2
        assert "rounds.losses" in capsys.readouterr().err
    assert not (world / "runs" / "truthless").exists()
