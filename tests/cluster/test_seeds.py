"""Seeds share a cluster: the numbers are those of seeds in turn, also after a kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_helpers import TwoNodes, assert_nothing_left, runs, state_of, wait_until
from helpers.digits_manifest import write_digits, write_manifest
from helpers.guided_shards import numbers_of, shards_of

from cosup.cluster import run_with_backend, seeds
from cosup.cluster.decoded_apart import _beside_decoding
from cosup.cluster.room import Allocation, Share, allocate
from cosup.cluster.seeds import places_on_cluster
from cosup.cluster.session import Node, connected
from cosup.config.schema import ActorsSection, Config
from cosup.layout import SHARDS, Layout
from cosup.runs import side_by_side

CONFIG: dict[str, Any] = {
    "run": {"name": "both", "seeds": [0, 1], "loggers": []},
    "teachers": {
        "hierarchy": {"by": "class", "levels": [2]},
        "model": {"name": "linear_pixels", "size": 4},
        "training": {"steps": 20, "batch_size": 32},
    },
    "student": {
        "mode": "finetune",
        "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 32},
        "training": {"steps": 6, "batch_size": 32},
    },
    "controls": [],
    "execution": {"device": "cpu", "threads": 1, "shard_size": 40},
}
DIGITS = {"source": "digits"}
PARENT = """
import sys
from cosup.cli import main
from cosup.runs import side_by_side
side_by_side.PYTHON, arguments = sys.argv[1:3], sys.argv[3:]
side_by_side.MODULE = "stopping_seed"
sys.exit(main(arguments))
"""
"""`cosup` whose seeds' processes start at once, and stop when they are under way."""
ADDRESS = "10.0.0.1:6379"
NODES = [Node(8, 1)] * 5


def config(folder: Path, data: dict[str, Any] = DIGITS, **execution: Any) -> Config:
    own = {**CONFIG["execution"], "cache": str(folder / "cache"), **execution}
    return Config.model_validate({**CONFIG, "data": data, "execution": own})


def test_shares_have_all_of_a_cluster_together() -> None:
    for count, of in [(8, 3), (2, 5), (5, 5), (0, 2)]:
        parts = [Share(number, of, of).part(count) for number in range(of)]
        assert sum(parts) == count
        assert max(parts) - min(parts) <= 1
    found = [allocate(ActorsSection(), NODES, 1, Share(number, 2, 2)) for number in range(2)]
    assert [one.count for one in found] == [2, 3]
    assert [one.room(NODES) for one in found] == [2, 3]
    ranged = ActorsSection.model_validate({"actors": {"min": 2, "max": 5}})
    assert [allocate(ranged, NODES, 1, Share(n, 2, 2)).count for n in range(2)] == [2, 3]


def test_shares_leave_a_cpu_each_to_the_decoding_of_images() -> None:
    """Otherwise the actors of all seeds would wait for images that nobody decodes."""
    for cpus, of in [(8, 3), (4, 2), (16, 1)]:
        shares = [Allocation(cpus, 1, 0, share=Share(number, of, of)) for number in range(of)]
        counts = [_beside_decoding(one, [Node(cpus, 0)]).count for one in shares]
        assert sum(counts) == cpus - of


def test_places_are_waited_for_that_others_hold_and_not_those_of_lost_nodes() -> None:
    one = Allocation(1, 4, 1, share=Share(0, 2, 2))
    assert one.waits(NODES)
    assert not one.waits(NODES[:1])
    assert not Allocation(1, 4, 1).waits(NODES)


@pytest.mark.parametrize(
    ("mode", "count", "cores", "student", "most"),
    [
        ("finetune", 9, 64, 1, 5),
        ("finetune", 3, 64, 1, 3),
        ("finetune", 9, 4, 1, 4),
        ("finetune", 9, 64, 2, 2),
        ("finetune", 9, 64, 3, 1),
        ("head", 9, 64, 3, 9),
    ],
)
def test_no_more_seeds_at_once_than_the_cluster_and_this_machine_have_room_for(
    mode: str,
    count: int,
    cores: int,
    student: int,
    most: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What only networks need does not bound heads."""
    monkeypatch.setattr(seeds, "processes_for", lambda _: cores)
    needed = {
        "teachers": Allocation(20, 1, 0.25, least=1),
        "features": Allocation(5, 1, 1, least=1),
        "student": Allocation(student, 1, 1),
    }
    asked = config(tmp_path, backend="ray")
    asked = asked.model_copy(update={"student": asked.student.model_copy(update={"mode": mode})})
    places = places_on_cluster(asked, count, ADDRESS, NODES, needed)
    assert len(places) == most
    if most > 1:
        assert {place["RAY_ADDRESS"] for place in places} == {ADDRESS}
        assert len({place[seeds.SHARE] for place in places}) == most


def test_a_seed_joins_in_the_runtime_environment_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray starts no process on a cluster here."""
    joined: list[Any] = []
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda *address, **given: joined.append((*address, given)))
    monkeypatch.setattr("ray.nodes", list)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    asked = config(tmp_path, backend="ray", address="auto")
    with connected(asked.execution, {"env_vars": {"MODE": "a"}}), connected(asked.execution):
        pass
    (first, given), (second, none) = joined
    assert first == second == "auto"
    assert given["runtime_env"] == {"env_vars": {"MODE": "a"}}
    assert "runtime_env" not in none


def stopped(seeds: Sequence[Layout]) -> list[int]:
    """Wait until the process of each seed has stopped itself; return the processes."""
    found: list[int] = []
    for seed, stage in zip(seeds, (SHARDS, "data"), strict=True):
        wait_until(seed.stage(stage).exists, f"{seed.path} has no stage {stage}")
        found.append(int((seed.path / ".lock").read_text()))
        wait_until(lambda: state_of(found[-1]) == "T", f"{seed.path} goes on")
    return found


@pytest.mark.ray
def test_killed_and_resumed_seeds_have_the_numbers_of_local_ones(
    nodes: TwoNodes, forks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent of two seeds of a sharded run is killed, which ends both, and resumed. Their
    networks learn from shards where they are trained.

    The first stops until the second has begun, so that it is not finished before the kill.
    """
    labels = write_digits(tmp_path / "images", 100)
    manifest = write_manifest(tmp_path / "rows", labels, 220, 100, files=2)
    data = {"source": "manifest", "path": str(manifest), "sharded": True}
    local = run_with_backend(config(tmp_path, data), tmp_path / "local")
    assert local["seed"] == [0, 1]
    one = {name: {"actors": 1} for name in ("teachers", "features", "shards")}
    asked = config(tmp_path, data, backend="ray", address=nodes.address, side_by_side=2, **one)
    file, run, script = tmp_path / "config.yaml", tmp_path / "ray", tmp_path / "parent.py"
    file.write_text(yaml.safe_dump(asked.model_dump(mode="json")))
    script.write_text(PARENT)
    command = [*forks, str(script), *forks, "run", str(file), "--output", str(run)]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=path) as parent:
        processes = stopped([Layout(run).of_seed(seed) for seed in (0, 1)])
        parent.kill()
    for process in processes:
        os.kill(process, signal.SIGCONT)
    wait_until(lambda: not any(map(runs, processes)), "the seeds outlive their parent", within=60)
    assert_nothing_left()
    monkeypatch.setattr(side_by_side, "PYTHON", tuple(forks))
    found = run_with_backend(asked, run, resume=True)
    assert_nothing_left()
    left_out = {"config_hash", "over_seeds"}
    numbers, expected = numbers_of(found), numbers_of(local)
    assert {k: v for k, v in numbers.items() if k not in left_out} == {
        k: v for k, v in expected.items() if k not in left_out
    }
    assert shards_of(run) == shards_of(tmp_path / "local")
