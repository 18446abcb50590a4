"""A run that is killed and resumed after every stage has the numbers of an uninterrupted run."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from cosup.analysis import load_run, tables
from cosup.cli import call

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "quickstart.yaml"
SMALL = [
    "data.limit=200",
    "data.rotations=[0, 90]",
    "teachers.hierarchy.levels=[1, 2]",
    "student.backbone={name: test_resnet.r160_in1k, weights: null, image_size: 32}",
    "student.training.steps=20",
    "teachers.training.steps=20",
    "execution.shard_size=64",
    "controls=[ceiling]",
]


def numbers(directory: Path) -> dict[str, Any]:
    """Return the summary without times and memory."""
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return {k: v for k, v in summary.items() if k not in ("seconds", "peak_rss_mb")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, forks: list[str]) -> tuple[Path, Path, str]:
    """Return an uninterrupted run, one killed after every stage, and the stages of the kills.

    Each run has its own cache, so that the second does not find the features of the first.
    """
    root = tmp_path_factory.mktemp("runs")
    whole, cut = root / "whole", root / "cut"
    cache = f"execution.cache={root}/cache"
    assert call(["run", str(CONFIG), "--output", str(whole), *SMALL, cache + "1"]) == 0
    arguments = [str(HERE / "killer.py"), "stages", str(CONFIG), str(cut), *SMALL, cache + "2"]
    done = subprocess.run([*forks, *arguments], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return whole, cut, done.stdout


@pytest.mark.slow
def test_the_run_was_killed_after_every_stage(folders: tuple[Path, Path, str]) -> None:
    expected = {"data", "features", "teachers", "annotate", "round-1", "round-2", "team"}
    assert {*expected, "control-ceiling"} <= set(folders[2].split())


@pytest.mark.slow
def test_the_summaries_are_equal(folders: tuple[Path, Path, str]) -> None:
    whole, cut, _ = folders
    assert numbers(cut) == numbers(whole)


@pytest.mark.slow
def test_records_for_the_report_are_equal(folders: tuple[Path, Path, str]) -> None:
    whole, cut, _ = folders
    expected, found = tables(load_run(whole)), tables(load_run(cut))
    for name in ("samples.parquet", "report/thumbnails.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(cut / name), pd.read_parquet(whole / name))
    assert set(found) == set(expected)
    for name in set(found) - {"cost"}:
        pd.testing.assert_frame_equal(found[name], expected[name])
    assert (cut / "report" / "index.html").is_file()
    shown = {*found["examples"]["sample_id"], *found["review_list"]["sample_id"]}
    assert set(load_run(cut).thumbnails) == shown


@pytest.mark.slow
def test_decisions_are_equal_and_recorded_once(
    folders: tuple[Path, Path, str],
) -> None:
    whole, cut, _ = folders
    for number in (1, 2):
        name = f"decisions/round-{number}.parquet"
        pd.testing.assert_frame_equal(pd.read_parquet(cut / name), pd.read_parquet(whole / name))
    scalars = pd.read_json(cut / "metrics.jsonl", lines=True)
    assert not scalars.duplicated(["tag", "step"]).any()
    assert set(scalars["tag"]) == set(pd.read_json(whole / "metrics.jsonl", lines=True)["tag"])


def shown(directory: Path) -> list[tuple[str, int]]:
    """Return the (tag, step) of every entry in a run's event file."""
    (path,) = directory.glob("events.out.tfevents.*")
    events = EventFileLoader(str(path)).Load()
    return sorted((value.tag, event.step) for event in events for value in event.summary.value)


@pytest.mark.slow
def test_every_training_has_curves_of_its_own(folders: tuple[Path, Path, str]) -> None:
    scalars = load_run(folders[0]).scalars
    last = scalars.groupby("tag")["step"].max()
    curves = [f"teacher/{name}/loss" for name in ("all", "domain_rot0", "domain_rot90")]
    curves += [f"student/round_{n}/{name}" for n in (1, 2) for name in ("loss", "learning_rate")]
    assert set(last[curves]) == {20}
    assert all(tag == tag.lower() for tag in last.index)


@pytest.mark.slow
def test_tensorboard_events_are_equal_and_recorded_once(folders: tuple[Path, Path, str]) -> None:
    whole, cut, _ = folders
    assert shown(cut) == shown(whole)
    assert len(set(shown(cut))) == len(shown(cut))
    assert [("assignment", number) in shown(cut) for number in (1, 2)] == [True, True]
