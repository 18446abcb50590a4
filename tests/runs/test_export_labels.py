"""`cosup export labels` on a real run: each format is read by the tool that it is for."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cleanlab.filter import find_label_issues
from crowdkit.aggregation import MajorityVote
from helpers.annotated_folder import NAMES

from cosup.analysis import load_run
from cosup.cli import call
from cosup.data.images import read_image
from cosup.layout import Layout
from cosup.runs.export_labels import FORMATS


def export(run: Path, name: str, *more: str) -> int:
    return call(["export", "labels", str(run), "--format", name, *more])


def test_every_format_has_its_own_file_beside_the_labels(world: Path) -> None:
    before = {path: path.read_bytes() for path in world.glob("labels.*")}
    assert [export(world, name) for name in FORMATS] == [0] * len(FORMATS)
    assert all((world / form.file).is_file() for form in FORMATS.values())
    assert {path: path.read_bytes() for path in world.glob("labels.*")} == before


def test_csv_has_the_labels(world: Path) -> None:
    assert export(world, "csv", "-o", "new/out.csv") == 0
    found = pd.read_csv("new/out.csv")
    labels = load_run(world).files.labels.read()
    assert list(found) == ["sample_id", "label", "probability"]
    assert found["sample_id"].tolist() == labels["sample_id"].tolist()
    assert found["label"].tolist() == labels["label"].astype(str).tolist()
    assert found["probability"].to_numpy() == pytest.approx(labels["probability"].to_numpy())


def test_label_studio_tasks_begin_with_the_least_sure(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(world, "label-studio", "-o", "tasks.json") == 0
    tasks = json.loads(Path("tasks.json").read_text())
    labels = load_run(world).files.labels.read().sort_values("review_rank")
    assert [task["data"]["sample_id"] for task in tasks] == labels["sample_id"].tolist()
    predictions = [task["predictions"] for task in tasks]
    assert all(len(made) == 1 and len(made[0]["result"]) == 1 for made in predictions)
    scores = [made[0]["score"] for made in predictions]
    assert scores == sorted(scores)
    results = [made[0]["result"][0] for made in predictions]
    assert {one["type"] for one in results} == {"choices"}
    assert [one["value"]["choices"] for one in results] == [
        [label] for label in labels["label"].astype(str)
    ]
    root = Path(capsys.readouterr().out.partition("DOCUMENT_ROOT=")[2].splitlines()[0])
    prefix = "/data/local-files/?d="
    for task in tasks[:5]:
        assert task["data"]["image"].startswith(prefix)
        read_image(str(root / task["data"]["image"].removeprefix(prefix)))


def test_cleanlab_finds_issues_in_the_arrays(world: Path) -> None:
    assert export(world, "cleanlab") == 0
    run = load_run(world)
    with np.load(world / FORMATS["cleanlab"].file, allow_pickle=False) as found:
        arrays = dict(found)
    assert arrays["classes"].tolist() == sorted(NAMES)
    named = arrays["classes"][arrays["labels"]].tolist()
    assert named == run.files.labels.read()["label"].astype(str).tolist()
    assert arrays["pred_probs"].sum(1) == pytest.approx(1, abs=1e-5)
    assert str(arrays["pred_probs_of"]) == "student"
    student = run.files.round(run.rounds[-1]).train.read(4).dense().numpy()
    assert np.array_equal(arrays["pred_probs"], student)
    wrong = arrays["labels"].copy()
    wrong[:10] = (wrong[:10] + 1) % 4
    # In one process: a fork of one with threads, such as those of loggers, may hang.
    issues = find_label_issues(wrong, arrays["pred_probs"], n_jobs=1)
    assert issues[:10].mean() > 3 * issues[10:].mean()


def test_cleanlab_gets_the_posterior_of_a_run_without_held_out_predictions(world: Path) -> None:
    stage = world / "stages" / "labels.json"
    told = json.loads(stage.read_text())
    told["agreement"]["cross_fitted"] = False
    load_run(world).files.stage("labels").write(told)
    assert export(world, "cleanlab") == 0
    with np.load(world / FORMATS["cleanlab"].file) as found:
        probs, of = found["pred_probs"], str(found["pred_probs_of"])
    assert of == "posterior"
    posterior = load_run(world).files.posterior.read(4).dense()
    assert torch.equal(torch.from_numpy(probs), posterior)


def test_crowd_kit_votes_on_what_the_sources_said(world: Path) -> None:
    assert export(world, "long") == 0
    said = pd.read_csv(world / FORMATS["long"].file)
    assert list(said) == ["task", "worker", "label", "probability"]
    run = load_run(world)
    assert said["worker"].unique().tolist() == ["ann", "ben", "student"]
    ann = pd.read_csv("ann.csv").set_index("sample_id")["label"]
    own = said[said["worker"] == "ann"]
    assert own["label"].tolist() == ann[own["task"]].tolist()
    ben = set(pd.read_csv("ben.csv")["sample_id"])
    assert set(said.loc[said["worker"] == "ben", "task"]) == ben & set(run.train["sample_id"])
    votes = MajorityVote().fit_predict(said)
    truth = run.train.set_index("sample_id")["true_label"].astype(str)
    assert set(votes.index) == set(truth.index)
    assert (votes == truth[votes.index]).mean() > 0.8


def test_label_studio_needs_image_files(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Layout(world).config
    tree = config.read()
    tree["data"] = {"source": "digits", "splits": tree["data"]["splits"]}
    config.write(tree)
    assert export(world, "label-studio") == 2
    assert "data.source" in capsys.readouterr().err
    assert not (world / FORMATS["label-studio"].file).exists()


@pytest.mark.parametrize("name", FORMATS)
def test_an_existing_file_is_kept_unless_asked(
    world: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("mine.txt")
    path.write_text("mine")
    assert export(world, name, "-o", "mine.txt") == 2
    assert path.read_text() == "mine"
    assert export(world, name, "-o", "mine.txt", "--overwrite") == 0
    assert path.read_text(errors="replace") != "mine"
    assert not list(Path().glob(".mine*"))
    capsys.readouterr()


def test_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(*arguments: str) -> str:
        assert call(["export", "labels", *arguments]) == 2
        (found,) = capsys.readouterr().err.splitlines()
        return found

    assert "'cleanlab'" in line(str(world), "--format", "clean-lab")
    assert "labels.csv" in line(str(world), "-o", str(world / "labels.csv"), "--overwrite")
    assert "own" in line(str(world), "-o", "own")
    assert "nowhere" in line("nowhere")
    assert "nosuch://bucket/run" in line("nosuch://bucket/run")
    (world / "labels.parquet").unlink()
    assert str(world) in line(str(world))
    assert not (world / FORMATS["csv"].file).exists()
