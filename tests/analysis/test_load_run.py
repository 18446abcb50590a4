"""`load_run` opens finished and unfinished runs, and names damaged files and other folders."""

import json
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
from helpers.synthetic_run import Shape, make_run

import cosup
from cosup.analysis import findings, load_run, runs_inside, tables, verdict
from cosup.errors import RunError, UserError


@pytest.fixture
def copy(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def test_load_run_is_public() -> None:
    assert cosup.analysis.load_run is load_run


@pytest.mark.parametrize("place", ["nothing", "folder", "file"])
def test_other_folders_and_files_are_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        load_run(tmp_path / place)
    error = caught.value
    assert error.where == str(tmp_path / place)
    assert "samples.parquet" in str(error.allowed)
    assert "\n" not in str(error)
    assert ("no such directory" in error.problem) == (place == "nothing")


def test_a_directory_of_runs_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("seed-0", "seed-1"):
        make_run(tmp_path / "whole" / name, Shape(train=20, test=10))
    (tmp_path / "whole" / ".cosup-run.json").write_text('{"format": 1, "config_hash": ""}')
    with pytest.raises(UserError) as caught:
        load_run(tmp_path / "whole")
    assert caught.value.allowed == "seed-0 and seed-1"
    inside = runs_inside(tmp_path / "whole")
    assert [run.name for run in inside] == ["seed-0", "seed-1"]
    assert all(load_run(run).finished for run in inside)


def test_a_run_without_a_stage_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".cosup-run.json").write_text('{"format": 1, "config_hash": ""}')
    with pytest.raises(UserError, match="no stage"):
        load_run(tmp_path)


def test_a_finished_run_is_complete(small_run: Path) -> None:
    run = load_run(small_run)
    assert run.finished
    assert run.missing == []
    assert run.classes == ["cat", "dog", "<b>owl</b>", "猫"]
    assert run.domains == ["photo", "sketch"]
    assert (run.name, len(run.decisions), len(run.samples)) == ("made", 240, 200)
    assert run.decisions["assigned_teacher"].cat.categories.tolist() == run.teacher_names


def test_predictions_have_a_row_per_sample_and_predictor(small_run: Path) -> None:
    run = load_run(small_run)
    table = run.predictions
    assert len(table) == 80 * len(run.predictors())
    by = table.groupby(["kind", "who"], observed=True)["correct"].mean()
    assert by["student", "student"] == run.summary["student"]["accuracy"]
    assert by["control", "ceiling"] == run.summary["controls"]["ceiling"]["accuracy"]
    one = table[(table["kind"] == "teacher") & (table["who"] == "level1_0")]
    assert one["sample_id"].tolist() == run.test["sample_id"].tolist()
    right = one["label"].astype(object).to_numpy() == run.test["answer"].astype(object).to_numpy()
    assert one["correct"].tolist() == right.tolist()


def test_an_unfinished_run_has_its_finished_stages(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", Shape(rounds=1)))
    assert not run.finished
    assert run.summary == {}
    assert run.missing[0] == "round 2 of 2"
    assert run.missing[-1] == "summary"
    assert "control ceiling" in run.missing
    found = tables(run)
    assert set(run.absent) == {"flow"}
    assert run.absent["flow"] == "there is one round alone"
    assert found["classes"]["ceiling"].isna().all()
    assert found["overview"]["pgr"].isna().all()
    first, second, *_ = verdict(run, found)
    assert all(name in first for name in ("round 2 of 2", "control best_teacher"))
    assert "round 1" in second
    assert set(findings(run, found)) <= set(found)


def test_before_any_round(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", Shape(rounds=0)))
    found = tables(run)
    assert set(found) == {"teachers", "annotation_accuracy", "cost"}
    assert run.absent["overview"] == "no round is finished"
    assert set(findings(run, found)) == set(found)
    assert len(verdict(run, found)) == 1


def test_before_the_teachers_are_done(copy: Path) -> None:
    for name in ("samples.parquet", "summary.json", "stages/prepared.json"):
        (copy / name).unlink()
    for stage in (copy / "stages").glob("*-*.json"):
        stage.unlink()
    run = load_run(copy)
    assert run.missing == ["teachers, annotations, rounds and controls"]
    assert run.classes == []
    found = tables(run)
    assert "overview" in run.absent
    assert verdict(run, found)
    assert set(findings(run, found)) <= set(found)


def test_a_run_of_an_earlier_version(copy: Path) -> None:
    (copy / "samples.parquet").unlink()
    (copy / "stages" / "prepared.json").unlink()
    run = load_run(copy)
    assert run.missing == ["samples.parquet (the run was made by an earlier version of cosup)"]
    assert "earlier version" in (tables(run) and run.absent["overview"])


def read_everything(path: Path) -> None:
    run = load_run(path)
    verdict(run, tables(run))
    assert len(run.scalars)


@pytest.mark.parametrize(
    "name",
    [
        "samples.parquet",
        "decisions/round-2.parquet",
        "checkpoints/round-2/test.safetensors",
        "checkpoints/control-ceiling.safetensors",
        "annotations/test/level1_0/00000.safetensors",
        "annotations/student_train/level0_0/00000.safetensors",
        "stages/round-1.json",
        "summary.json",
        "teachers/level1_1.json",
        "metrics.jsonl",
    ],
)
@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_a_damaged_file_is_named(copy: Path, name: str, damage: str) -> None:
    file = copy / name
    content = file.read_bytes()
    if damage == "gone":
        if name in ("stages/round-1.json", "summary.json", "metrics.jsonl"):
            pytest.skip("without it the run is unfinished, or has no scalars")
        file.unlink()
    else:
        file.write_bytes(
            content[: len(content) // 2] if damage == "cut" else b"\xff\x00 nonsense\n"
        )
    if name == "metrics.jsonl" and damage == "cut":
        assert len(load_run(copy).scalars)  # an incomplete last line is ignored
        return
    with pytest.raises(RunError) as caught:
        read_everything(copy)
    assert Path(name).name in str(caught.value) or Path(name).parent.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_round_with_other_samples_is_named(copy: Path) -> None:
    path = copy / "decisions" / "round-1.parquet"
    pd.read_parquet(path).iloc[:50].to_parquet(path, index=False)
    with pytest.raises(RunError, match=r"round-1\.parquet.*50 samples, not 120"):
        tables(load_run(copy))


def test_a_table_without_a_column_is_named(copy: Path) -> None:
    path = copy / "decisions" / "round-1.parquet"
    pd.read_parquet(path).drop(columns="kept").to_parquet(path, index=False)
    with pytest.raises(RunError, match=r"round-1\.parquet.*no column kept"):
        tables(load_run(copy))


def test_records_are_read_on_demand(copy: Path) -> None:
    """A missing record is an error when it is read, not when the run is opened."""
    shutil.rmtree(copy / "annotations")
    shutil.rmtree(copy / "decisions")
    start = time.process_time()
    run = load_run(copy)
    assert (run.finished, run.missing, len(run.teachers)) == (True, [], 3)
    assert time.process_time() - start < 1
    with pytest.raises(RunError, match="decisions"):
        run.round(1)


def test_non_finite_scalars_are_nan(copy: Path) -> None:
    line = {"tag": "round_1/loss", "value": None, "step": 150, "time": 1.0}
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    scalars = load_run(copy).scalars
    assert pd.isna(scalars["value"].iloc[-1])
    assert scalars.dtypes.astype(str).tolist() == ["str", "int64", "float64", "float64"]
