"""A sharded run, killed anywhere and resumed, ends with the numbers of one that was not."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.digits_manifest import write_digits, write_manifest
from helpers.killed_shards import Killed, kill_after
from helpers.sharded_config import sharded_config
from helpers.user_errors import error_of, key_of, keys_of, mistakes_of

from cosup.layout import Layout
from cosup.report.command import report_page, runs_to_report
from cosup.runs import check_run, run_config
from cosup.runs.choose_weight import WEIGHTS
from cosup.runs.verify import verify

ROWS, LABELLED = 600, 250


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    labels = write_digits(folder / "images", 500)
    return write_manifest(folder / "rows", labels, ROWS, LABELLED, files=2)


def numbers_of(summary: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in summary.items() if k not in ("seconds", "peak_rss_mb")}


def test_a_killed_run_is_resumed_with_the_same_numbers(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refine = {"name": "product", "rounds": 1}
    rounds = {"refine": refine, "labelled": True, "labelled_weight": 2.0}
    config = sharded_config(manifest, rounds=rounds)
    expected = run_config(config, tmp_path / "whole")
    assert ["refined" in one for one in expected["rounds"]] == [False, False, True]
    assert 0 < expected["rounds"][-1]["refined"] < 0.9
    assert expected["data"]["samples"]["student_train"] == ROWS - LABELLED
    assert sum(expected["rounds"][0]["assigned"].values()) == ROWS - LABELLED
    assert expected["controls_absent"].keys() == {"ceiling"}
    assert expected["student"]["accuracy"] > 0
    # In the checks of images, the fit of an assigner, and the first and the last round.
    for place, shards in enumerate((2, 19, 26, 46)):
        with monkeypatch.context() as patch:
            kill_after(patch, shards)
            with pytest.raises(Killed):
                run_config(config, tmp_path / "cut", resume=place > 0)
        done = {path.stem for path in (tmp_path / "cut" / "stages").glob("round-*.json")}
        assert len(done) == (0, 0, 0, 2)[place]
    found = run_config(config, tmp_path / "cut", resume=True)
    assert numbers_of(found) == numbers_of(expected)
    files = sorted((tmp_path / "cut" / "shards" / "decisions" / "round-2").rglob("*.parquet"))
    table = pd.concat([pd.read_parquet(file) for file in files])
    assert len(table) == table["sample_id"].nunique() == ROWS - LABELLED


def test_a_shard_of_broken_images_alone_is_decided_on(tmp_path: Path) -> None:
    labels = write_digits(tmp_path / "images", 300)
    manifest = write_manifest(tmp_path / "rows", labels, 300, 240)
    for number in range(240, 260):
        (tmp_path / "images" / f"{number:04d}.png").write_bytes(b"none")
    rounds = {"assignment": "fused", "consistency": ["teacher_student"]}
    data, execution = {"max_broken": 0.4}, {"shard_size": 20}
    config = sharded_config(manifest, data=data, rounds=rounds, controls=[], execution=execution)
    found = run_config(config, tmp_path / "run")
    assert found["rounds"][0]["samples"] == found["data"]["samples"]["student_train"] == 40


def test_more_broken_images_than_allowed_end_a_run_before_it_annotates(tmp_path: Path) -> None:
    labels = write_digits(tmp_path / "images", 300)
    manifest = write_manifest(tmp_path / "rows", labels, 300, 240)
    for number in (250, 251, 280):
        (tmp_path / "images" / f"{number:04d}.png").unlink()
    config = sharded_config(manifest, data={"max_broken": 0.04}, execution={"shard_size": 20})
    error = error_of(run_config, config, tmp_path / "run")
    assert key_of(error) == "data.max_broken"
    assert "3 of 60 images" in str(error)
    assert "0250.png" in str(error)
    again = error_of(run_config, config, tmp_path / "run", resume=True)  # from what is written
    assert str(again) == str(error)
    assert {path.name for path in (tmp_path / "run" / "shards").iterdir()} == {"checks"}


def test_the_weight_of_labels_is_chosen_and_the_choice_is_resumed(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = {"hierarchy": {"by": "class", "levels": [1]}}
    config = sharded_config(manifest, rounds={"labelled": True}, controls=[], teachers=teachers)
    expected = run_config(config, tmp_path / "whole")
    choice = expected["labelled_weight"]
    assert [one["weight"] for one in choice["candidates"]] == list(WEIGHTS)
    assert len({one["accuracy"] for one in choice["candidates"]}) > 1
    assert choice["weight"] in WEIGHTS
    given = {"labelled": True, "labelled_weight": choice["weight"]}
    same = sharded_config(manifest, rounds=given, controls=[], teachers=teachers)
    alone = run_config(same, tmp_path / "given")
    assert alone["student"]["accuracy"] == expected["student"]["accuracy"]
    folders = [path.name for path in (tmp_path / "whole" / "shards" / "counts").iterdir()]
    assert folders == ["round-1"]  # what the choice wrote is removed
    with monkeypatch.context() as patch:
        kill_after(patch, 40)
        with pytest.raises(Killed):
            run_config(config, tmp_path / "cut")
    assert numbers_of(run_config(config, tmp_path / "cut", resume=True)) == numbers_of(expected)


def test_fused_rounds_with_ranks_are_resumed_with_the_same_numbers(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = {"assignment": "fused", "consistency": [{"name": "teacher_student", "k": 1}]}
    config = sharded_config(manifest, rounds={**rounds, "repeat": 2}, controls=[])
    expected = run_config(config, tmp_path / "whole")
    assert [one["level"] for one in expected["rounds"]] == [1, 1]
    assert 0 < expected["rounds"][0]["kept"] < 1
    with monkeypatch.context() as patch:
        kill_after(patch, 40)
        with pytest.raises(Killed):
            run_config(config, tmp_path / "cut")
    assert (tmp_path / "cut/shards/annotations").exists()
    assert numbers_of(run_config(config, tmp_path / "cut", resume=True)) == numbers_of(expected)


def test_seeds_are_aggregated_as_those_of_a_listed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the second is killed as it takes features over from the first."""
    labels = write_digits(tmp_path / "images", 450)
    manifest = write_manifest(tmp_path / "rows", labels, 450, 250, truth=True)
    in_turn = {"side_by_side": 1}
    sections = {"controls": ["ceiling"], "run": {"seeds": [0, 1]}, "execution": in_turn}
    first = tmp_path / "run" / "seed-0"
    with monkeypatch.context() as patch:
        kill_after(patch, 7, lambda: (first / "summary.json").exists())
        with pytest.raises(Killed):
            run_config(sharded_config(manifest, **sections), tmp_path / "run")
    assert len(list((tmp_path / "run/seed-1/shards/features").rglob("*.parquet"))) in (1, 2)
    found = run_config(sharded_config(manifest, **sections), tmp_path / "run", resume=True)
    listed = sharded_config(manifest, data={"sharded": False}, **sections)
    other = run_config(listed, tmp_path / "listed")
    for name in ("student.accuracy", "ceiling.accuracy", "rounds.0.annotation_accuracy"):
        assert found["over_seeds"][name]["ci95"] is not None
        assert len(found["over_seeds"][name]["values"]) == 2
    assert found["seed"] == other["seed"] == [0, 1]
    own = Layout(tmp_path / "run").of_seed(1)
    alone = sharded_config(manifest, **{**sections, "run": {"seed": 1}})
    assert numbers_of(own.summary.read()) == numbers_of(run_config(alone, tmp_path / "alone"))
    for seed in (0, 1):
        folders = (Layout(tmp_path / name).of_seed(seed).path for name in ("listed", "run"))
        kinds, mine = ({path.name for path in folder.iterdir()} for folder in folders)
        assert kinds - mine == {"labels.csv", "labels.parquet"}
    again = run_config(sharded_config(manifest, **sections), tmp_path / "run", resume=True)
    assert numbers_of(again) == numbers_of(found)
    opened = runs_to_report([str(tmp_path / "run")], None, text=False)
    assert len(opened) == 2
    report_page(opened[1], None)
    assert (opened[1].files.path / "report" / "index.html").exists()
    of_images = [path for path in first.rglob("shards/*/*/*/*.parquet") if _of_images(path)]
    assert len(of_images) == 6  # a check of images and features of three shards
    for path in of_images:
        assert path.samefile(tmp_path / "run" / "seed-1" / path.relative_to(first))
    shutil.rmtree(first)
    assert verify(str(tmp_path / "run" / "seed-1")).is_whole


def _of_images(path: Path) -> bool:
    return path.parts[-4] in ("checks", "features")


def test_controls_and_pgr_are_told_of_a_manifest_with_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What controls write of the shards is removed, and a killed run ends with equal numbers."""
    labels = write_digits(tmp_path / "images", 500)
    manifest = write_manifest(tmp_path / "rows", labels, 700, 400, truth=True)
    shards_of_ceiling = 54
    names = [
        "team",
        "student_and_team",
        "labels",
        "equal_budget_generalist",
        "random_assignment",
        "ceiling",
        "self_training",
    ]
    student = {"training": {"steps": 200, "batch_size": 32, "lr": 0.05}}
    teachers = {"training": {"steps": 1, "batch_size": 4}}  # poor, far below the ceiling
    config = sharded_config(manifest, controls=names, student=student, teachers=teachers)
    found = run_config(config, tmp_path / "run")
    assert set(found["controls"]) == set(names)
    assert not found["controls_absent"]
    assert found["ceiling"]["accuracy"] > found["controls"]["random_assignment"]["accuracy"]
    assert found["student"]["pgr"] is not None, found["student"]["pgr_reason"]
    assert found["team"]["reason"] is None
    assert found["verdict"]
    specialists = found["rounds"][1]
    assert found["rounds"][0]["assignment_accuracy"] is None  # there are none
    assert 0 < specialists["assignment_accuracy"] <= 1
    assert specialists["annotation_accuracy"] > 0
    products = {path.parent.parent.name for path in (tmp_path / "run/shards").rglob("*.parquet")}
    assert not {name for name in products if name.startswith("control-")}
    with monkeypatch.context() as patch:
        kill_after(patch, shards_of_ceiling)
        with pytest.raises(Killed):
            run_config(config, tmp_path / "cut")
    assert (tmp_path / "cut/stages/control-equal_budget_generalist.json").exists()
    resumed = run_config(config, tmp_path / "cut", resume=True)
    assert numbers_of(resumed) == numbers_of(found)


def test_losses_are_compared_and_share_what_does_not_depend_on_them(
    manifest: Path, tmp_path: Path
) -> None:
    """Each loss has the numbers of a run with it alone, and the files of shards of the first."""
    losses = ["cross_entropy", {"name": "adaptive_confidence"}]
    teachers = {"hierarchy": {"by": "class", "levels": [1]}}
    given: dict[str, Any] = {"controls": [], "teachers": teachers}
    found = run_config(
        sharded_config(manifest, rounds={"losses": losses}, **given), tmp_path / "run"
    )
    assert list(found["losses"]) == ["cross_entropy", "adaptive_confidence"]
    assert len(found["paired"]) == 1
    alone = sharded_config(manifest, rounds={"loss": losses[1]}, **given)
    expected = run_config(alone, tmp_path / "alone")
    assert found["losses"]["adaptive_confidence"]["student"] == expected["student"]
    layout = Layout(tmp_path / "run")
    first, other = (layout.of_loss(name).shards for name in found["losses"])
    for kind in ("annotations", "features"):
        files = sorted((first / kind).rglob("*.parquet"))
        assert files
        assert all(file.samefile(other / file.relative_to(first)) for file in files)


def test_settings_that_are_not_supported_are_told(manifest: Path, tmp_path: Path) -> None:
    config = sharded_config(
        manifest,
        student={"training": {"steps": 30, "optimizer": "lbfgs"}},
        rounds={"assignment": "dawid_skene", "labelled": True},
    )
    found = keys_of(mistakes_of(check_run, config, tmp_path / "run"))
    assert found == ["student.training.optimizer"]
    assert not (tmp_path / "run").exists()
