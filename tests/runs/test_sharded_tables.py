"""A sharded run with tables of annotators has the labels of a listed run, and tells the same."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.digits_manifest import write_digits, write_manifest
from helpers.sharded_config import sharded_config

from cosup.config.schema import Config
from cosup.layout import Layout
from cosup.report.command import report_page, runs_to_report
from cosup.runs import plan_config, run_config

ROWS, LABELLED = 600, 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a manifest of digits in `rows`, and `votes.csv` of three annotators."""
    folder = tmp_path_factory.mktemp("crowd")
    labels = write_digits(folder / "images", 500)
    write_manifest(folder / "rows", labels, ROWS, LABELLED, files=2, truth=True)
    generator, parts = np.random.default_rng(0), []
    for name, right in (("ann", 0.85), ("ben", 0.7), ("cem", 0.6)):
        rows = np.flatnonzero(generator.random(ROWS) < 0.8)
        true = labels[rows % len(labels)]
        wrong = generator.integers(0, 10, len(rows))
        said = np.where(generator.random(len(rows)) < right, true, wrong)
        ids = [f"sample-{row:07d}" for row in rows]
        parts.append(pd.DataFrame({"task": ids, "worker": name, "label": said}))
    pd.concat(parts).to_csv(folder / "votes.csv", index=False)
    return folder


def config_of(folder: Path, assignment: str, **data: Any) -> Config:
    return sharded_config(
        folder / "rows",
        data=data,
        teachers={"hierarchy": None, "external": [{"annotations": str(folder / "votes.csv")}]},
        rounds={"assignment": assignment, "repeat": 1},
        controls=[],
    )


def decisions(files: list[Path]) -> pd.DataFrame:
    parts = [pd.read_parquet(file) for file in files]
    return pd.concat(parts).set_index("sample_id").sort_index()


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """Return a run of shards with these annotators."""
    run_config(config_of(folder, "dawid_skene"), folder / "runs" / "dawid_skene")
    return folder / "runs" / "dawid_skene"


@pytest.mark.parametrize("assignment", ["dawid_skene", "fused"])
def test_labels_are_those_of_a_listed_run(folder: Path, finished: Path, assignment: str) -> None:
    run = finished.parent / assignment
    if run != finished:
        run_config(config_of(folder, assignment), run)
    found, listed = Layout(run).summary.read(), run.parent / f"{assignment}-listed"
    other = run_config(config_of(folder, assignment, sharded=False), listed)
    mine = decisions(sorted((run / "shards/decisions").rglob("*.parquet")))
    theirs = decisions([Layout(listed).round(1).decisions.path])
    assert len(mine) == len(theirs) == ROWS - LABELLED
    for column in ("assigned_teacher", "annotation", "kept"):
        assert mine[column].astype(str).tolist() == theirs[column].astype(str).tolist()
    assert np.allclose(mine["annotation_confidence"], theirs["annotation_confidence"], atol=1e-3)
    accuracy, expected = (one["rounds"][0]["annotation_accuracy"] for one in (found, other))
    assert accuracy == pytest.approx(expected)
    assert accuracy > 0.7
    told = [
        [line.partition(": ")[2] for line in log.read_text().splitlines() if "(by id)" in line]
        for log in (Layout(one).log for one in (run, listed))
    ]
    assert told[0] == told[1]
    assert len(told[0]) == 3


def test_a_run_with_tables_is_planned_reported_and_resumed(
    folder: Path, finished: Path, tmp_path: Path
) -> None:
    config = config_of(folder, "dawid_skene")
    plan = plan_config(config)
    listed = plan_config(config_of(folder, "dawid_skene", sharded=False))
    assert plan.tables == listed.tables
    assert [one.teacher for one in plan.tables] == ["ann", "ben", "cem"]
    shutil.copytree(finished, tmp_path / "run")
    found = Layout(tmp_path / "run").summary.read()
    for run in runs_to_report([str(tmp_path / "run")], None, text=False):
        report_page(run, None)
    sums = Layout(tmp_path / "run").round(1).answer_sums.read()
    answered = sums.groupby("teacher", observed=True)["answered"].sum()
    assert set(answered.index) == {"ann", "ben", "cem"}
    assert (answered > 0.7 * (ROWS - LABELLED)).all()
    lost = sorted((tmp_path / "run/shards/annotations/ben").rglob("*.parquet"))[1]
    whole = lost.read_bytes()
    lost.unlink()
    again = run_config(config, tmp_path / "run", resume=True)
    assert lost.read_bytes() == whole
    left_out = ("seconds", "peak_rss_mb")
    assert {k: v for k, v in again.items() if k not in left_out} == {
        k: v for k, v in found.items() if k not in left_out
    }


def test_simulated_annotators_answer_as_in_a_listed_run(folder: Path, tmp_path: Path) -> None:
    def of(**data: Any) -> dict[str, Any]:
        people = [
            {"name": "a", "simulate": {"accuracy": 0.8}},
            {"name": "b", "simulate": {"accuracy": 0.6, "copies": {"of": "a", "share": 0.5}}},
        ]
        teachers = {"hierarchy": None, "external": people}
        config = sharded_config(folder / "rows", data=data, teachers=teachers, controls=[])
        return run_config(config, tmp_path / f"run-{len(data)}")

    found, other = of(), of(sharded=False)
    assert found["rounds"][0]["assigned"].keys() == {"a", "b"}
    for name in ("annotation_accuracy", "best_choice"):
        assert found["rounds"][0][name] == pytest.approx(other["rounds"][0][name])
