"""Seeds in processes of their own give the numbers of seeds in turn, and end with their parent."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cosup
from cosup.config.schema import Config
from cosup.errors import RunError
from cosup.layout import Layout
from cosup.runs import side_by_side
from cosup.runs.seed_process import Parent
from cosup.runs.side_by_side import SeedRun, after_first, cards_of, places_for, run_side_by_side

TREE: dict[str, Any] = {
    "run": {"name": "tiny", "seeds": [0, 1], "loggers": []},
    "data": {"source": "digits", "limit": 120, "rotations": [0, 90]},
    "teachers": {
        "hierarchy": {"by": "domain", "levels": [1, 2]},
        "model": {"name": "linear_pixels", "size": 4},
        "training": {"steps": 5},
    },
    "student": {
        "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 16},
        "training": {"steps": 5},
    },
    "controls": [],
}


def config(**execution: Any) -> Config:
    return Config.model_validate({**TREE, "execution": {"device": "cpu", **execution}})


@pytest.mark.parametrize(
    ("execution", "cores", "count", "most"),
    [
        ({}, 8, 5, 5),
        ({}, 4, 5, 4),
        ({"threads": 3}, 8, 5, 2),
        ({"threads": 16}, 8, 5, 1),
        ({"side_by_side": 3}, 1, 5, 3),
        ({"side_by_side": 3}, 1, 2, 2),
        ({}, 8, 1, 1),
        ({"backend": "ray"}, 8, 5, 1),
    ],
)
def test_as_many_at_once_as_there_are_cores(
    execution: dict[str, Any], cores: int, count: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "_cores", lambda: cores)
    monkeypatch.setattr(side_by_side, "usable_memory", lambda: 2**40)
    assert len(places_for(config(**execution), count)) == most


def test_memory_bounds_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_cores", lambda: 64)
    monkeypatch.setattr(side_by_side, "usable_memory", lambda: 10 * 2**30)
    assert len(places_for(config(), 20)) == 3


def test_each_of_several_gpus_gets_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """And processes beyond them share the cards."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    found = [place["CUDA_VISIBLE_DEVICES"] for place in places_for(config(device="auto"), 5)]
    assert found == ["3", "5"]
    asked = places_for(config(device="auto", side_by_side=3), 5)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in asked] == ["3", "5", "3"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert places_for(config(device="auto"), 5) == [{}]


@pytest.mark.parametrize(
    ("device", "count", "visible", "cards"),
    [
        ("auto", 0, "", []),
        ("auto", 2, "", ["0", "1"]),
        ("cuda", 2, "3, GPU-5", ["3", "GPU-5"]),
        ("auto", 1, "3,-1,5", ["3"]),
        ("cuda:1", 2, "", []),
        ("cpu", 2, "", []),
    ],
)
def test_the_cards_that_a_run_may_use(
    device: str, count: int, visible: str, cards: list[str]
) -> None:
    assert cards_of(device, count, visible) == cards


@pytest.fixture(autouse=True)
def quick_starts(forks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "PYTHON", tuple(forks))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "MODULE", "helpers.fake_seed")


def runs(folder: Path, *names: str) -> dict[str, SeedRun]:
    return {
        f"seed {seed}": SeedRun(config(), folder / str(seed) / name, False, None)
        for seed, name in enumerate(names)
    }


def when(run: SeedRun, name: str) -> float:
    return float((run.directory / name).read_text().split()[0])


def test_seeds_overlap_as_far_as_there_are_places(
    fake: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each line of the log tells its seed; the others start when the first has its features."""
    found = runs(tmp_path, "meets", "stays", "c")  # the second ends after the first
    with caplog.at_level(logging.INFO, "cosup.fake"):
        places = [{}, {"CUDA_VISIBLE_DEVICES": "7"}]
        run_side_by_side(found, places, ready=after_first(found))
    first, second, third = found.values()
    assert when(second, "started") < when(first, "ended") < when(third, "started")
    assert (second.directory / "started").read_text().endswith(" 7")
    lines = [record.getMessage() for record in caplog.records if record.name == "cosup.fake"]
    assert sorted(lines) == [f"seed {seed}: here" for seed in range(3)]


def test_seeds_of_shards_wait_for_the_features_that_they_take_over(tmp_path: Path) -> None:
    sharded = {"source": "manifest", "path": str(tmp_path), "sharded": True}
    found = {
        name: replace(run, config=Config.model_validate({**TREE, "data": sharded}))
        for name, run in runs(tmp_path, "a", "b").items()
    }
    first, second = found
    ready, files = after_first(found), Layout(found[first].directory)
    assert ready(first, [], [first, second])
    files.stage("features").write({"seconds": 1.0})
    assert not ready(second, [first], [second])
    files.stage("shards").write({"shards": 1})
    assert ready(second, [first], [second])


def test_networks_that_read_no_features_start_at_once(fake: None, tmp_path: Path) -> None:
    """The first has not got so far as its features when the second starts."""
    student = {**TREE["student"], "mode": "finetune"}
    rounds = {"assignment": {"name": "random"}}
    network = Config.model_validate({**TREE, "student": student, "rounds": rounds})
    found = {name: replace(run, config=network) for name, run in runs(tmp_path, "a", "b").items()}
    (tmp_path / "together").write_text("2")
    run_side_by_side(found, [{}, {}], ready=after_first(found))
    first, second = found.values()
    assert when(second, "started") < when(first, "ended")


def test_a_seed_whose_parent_is_gone_can_still_log() -> None:
    """It logs while it cleans up."""
    read, write = os.pipe()
    os.close(read)
    with suppress(BrokenPipeError), os.fdopen(write, "w", buffering=1) as stream:
        parent = Parent(stream)
        for _ in range(2):
            parent.tell({"text": "stopped"})
        told = True
    assert told


@pytest.mark.parametrize("name", ["fails", "crashes"])
def test_a_failure_stops_the_others_where_they_can_be_resumed(
    fake: None, tmp_path: Path, name: str
) -> None:
    found = runs(tmp_path, "meets", "waits", name)
    (tmp_path / "together").write_text("3")
    with pytest.raises(RunError, match="the disk is full" if name == "fails" else "seed 2"):
        run_side_by_side(found, [{}, {}, {}])
    assert (found["seed 1"].directory / "stopped").exists()


def test_the_others_go_on_after_a_failure_that_is_told(fake: None, tmp_path: Path) -> None:
    found, told = runs(tmp_path, "fails", "crashes", "c"), dict[str, str]()
    run_side_by_side(found, [{}, {}], failed=lambda name, error: told.update({name: str(error)}))
    assert told["seed 0"] == "the disk is full"
    assert "signal 9" in told["seed 1"]
    assert (found["seed 2"].directory / "ended").exists()


def test_a_run_waits_until_it_is_ready_and_others_pass_it(fake: None, tmp_path: Path) -> None:
    found = runs(tmp_path, "a", "b", "c")

    def after_c(name: str, running: Collection[str], waiting: Collection[str]) -> bool:
        return name != "seed 1" or "seed 2" not in (*running, *waiting)

    run_side_by_side(found, [{}, {}], ready=after_c)
    _, second, third = found.values()
    assert when(third, "ended") < when(second, "started")


PARENT = """
import pickle, sys
from cosup.runs import side_by_side
side_by_side.PYTHON = sys.argv[1:]
side_by_side.MODULE = "helpers.fake_seed"
side_by_side.run_side_by_side(pickle.load(sys.stdin.buffer), [{}, {}])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_their_parent(
    tmp_path: Path, number: signal.Signals, forks: list[str]
) -> None:
    """They are stopped where they can be resumed, also if it is killed and cannot tell them."""
    found = runs(tmp_path, "meets", "waits")
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    (tmp_path / "parent.py").write_text(PARENT)
    command = [*forks, str(tmp_path / "parent.py"), *forks]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, env=path)
    assert parent.stdin is not None
    pickle.dump(found, parent.stdin)
    parent.stdin.close()
    _wait_for(found["seed 1"].directory / "started")
    parent.send_signal(number)
    parent.wait()
    _wait_for(found["seed 1"].directory / "stopped")


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.02)


def test_the_numbers_are_those_of_a_run_alone(tmp_path: Path) -> None:
    """And each seed has a log of its own."""
    execution = {"device": "cpu", "side_by_side": 2, "threads": 1, "cache": str(tmp_path / "cache")}
    tree = {**TREE, "execution": execution}
    both = cosup.run(tree, output=tmp_path / "both", quiet=True).summary
    alone = {**tree, "run": {**TREE["run"], "seed": 1, "seeds": None}}
    expected = cosup.run(alone, output=tmp_path / "alone", quiet=True).summary
    second = Layout(tmp_path / "both" / "seed-1")
    found = second.summary.read()
    for name in ("student", "rounds", "teachers", "floor"):
        assert found[name] == expected[name]
    values = both["over_seeds"]["student.accuracy"]["values"]
    assert values[1] == expected["student"]["accuracy"]
    assert second.log.stat().st_size > 0
