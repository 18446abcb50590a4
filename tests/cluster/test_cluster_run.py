"""Tests of a whole run on a cluster: numbers and log of the local run, also after a kill."""

import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from cluster_helpers import TwoNodes, assert_nothing_left
from helpers.user_errors import error_of
from safetensors.torch import load_file

import cosup
from cosup.cluster import run_with_backend
from cosup.config.schema import Config

pytestmark = pytest.mark.ray

CONFIG: dict[str, Any] = {
    "data": {
        "source": "digits",
        "rotations": [0, 90],
        "limit": 240,
        "splits": {"teacher_train": 0.3, "student_train": 0.5, "test": 0.2},
        "shifted": {"noisy": {"corruption": "noise", "limit": 20}},
    },
    "teachers": {
        "hierarchy": {"by": "domain", "levels": [2]},
        "model": {"name": "linear_pixels", "size": 4},
        "training": {"steps": 20, "batch_size": 32},
    },
    "student": {
        "mode": "finetune",
        "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 32},
        "training": {"steps": 40, "batch_size": 16, "save_every": 5},
    },
    "rounds": {
        "assignment": {"name": "gate", "prior": "provenance"},
        "consistency": [{"name": "teacher_student"}],
        "loss": {"name": "adaptive_confidence"},
    },
    "controls": ["equal_budget_generalist"],
    "execution": {
        "shard_size": 25,
        "batch_size": 10,
        "device": "cpu",
        "teachers": {"actors": 1},
        "features": {"actors": 1},
    },
}
NOT_COMPARED = ("seconds", "peak_rss_mb", "run")


DRIVER = """
import os, signal, sys, time
from pathlib import Path
from cosup.cli import main
from cosup.cluster.trainer import RayLauncher
networks, states = RayLauncher.networks, Path(sys.argv[1])

def killed(launcher, jobs, data, compute, on_step):
    def kill(*_):
        while not any(states.glob("*.state/*/*/state")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
    return networks(launcher, jobs, data, compute, kill)

RayLauncher.networks = killed
sys.exit(main(sys.argv[2:]))
"""
"""`cosup` that kills itself when the first state of a student is there."""


def config(folder: Path, backend: str, **execution: Any) -> Config:
    settings = {
        **CONFIG["execution"],
        "backend": backend,
        "cache": str(folder / f"cache-{backend}"),
    }
    return Config.model_validate({**CONFIG, "execution": {**settings, **execution}})


def lines(run: Path) -> list[str]:
    """Return the distinct lines of a run's log, without the first, progress and the run's path."""
    log = (run / "log.txt").read_text().replace(str(run), "RUN")
    found = re.findall(r"INFO (cosup\.\S+): (.*)", log)
    left_out = {"cosup.progress", "cosup.runs.announce"}
    return list(dict.fromkeys(line for name, line in found if name not in left_out))


def compared(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in NOT_COMPARED}


def same_files(ours: Path, theirs: Path) -> None:
    """Assert that all annotations, decisions and students are equal."""
    tensors = sorted(path.relative_to(theirs) for path in theirs.rglob("*.safetensors"))
    assert sorted(path.relative_to(ours) for path in ours.rglob("*.safetensors")) == tensors
    assert {"annotations", "shifted"} <= {path.parts[0] for path in tensors}
    for path in tensors:
        found, expected = load_file(ours / path), load_file(theirs / path)
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name].equal(expected[name]), f"{path}: {name}"
    for table in (theirs / "decisions").iterdir():
        found = pd.read_parquet(ours / "decisions" / table.name)
        pd.testing.assert_frame_equal(found, pd.read_parquet(table))


def test_a_killed_and_resumed_run_equals_the_local_run(
    nodes: TwoNodes, forks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With specialists, a generalist, a gate's features, students and controls. The driver is
    killed by SIGKILL while the first student is trained, and resumed. It predicts no image, of the
    shifted set neither."""
    local = run_with_backend(config(tmp_path, "local"), tmp_path / "local")
    content = config(tmp_path, "ray", address=nodes.address)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content.model_dump(mode="json")))
    script, states = tmp_path / "driver.py", tmp_path / "ray" / "checkpoints" / "training"
    script.write_text(DRIVER)
    command = [*forks, str(script), str(states), "run", str(file)]
    command += ["--output", str(tmp_path / "ray")]
    driver = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=400)
    assert driver.returncode == -signal.SIGKILL, driver.stderr
    assert any(states.glob("*.state/*/*/state"))
    assert_nothing_left(within=60)
    done = sorted((tmp_path / "ray" / "annotations").rglob("*.safetensors"))
    before = [path.stat().st_mtime_ns for path in done]
    monkeypatch.setattr("cosup.cluster.backend.FEW_IMAGES", 0)
    monkeypatch.setattr("cosup.cluster.backend.is_measured", lambda *_: True)  # as with a GPU
    monkeypatch.setattr("cosup.student.launcher.predict_images", None)
    ours = cosup.run(content, output=tmp_path / "ray", resume=True).summary
    assert_nothing_left()
    assert [path.stat().st_mtime_ns for path in done] == before  # nothing was annotated twice
    assert compared(ours) == compared(local)
    same_files(tmp_path / "ray", tmp_path / "local")
    expected, found = lines(tmp_path / "local"), lines(tmp_path / "ray")
    assert [line for line in found if line in expected] == expected
    assert any(line.startswith("teacher domain_rot90: annotated") for line in expected)
    others = [line for line in found if line not in expected]
    assert all(line.startswith(("Ray: ", "resuming from ")) for line in others), others
    assert any("a CPU decodes" in line for line in others)


def test_missing_resources_are_reported_first(nodes: TwoNodes, tmp_path: Path) -> None:
    for section, asked in {
        "student": {"workers": 5},
        "teachers": {"num_gpus": 0.5},
        "features": {"num_cpus": 3},
    }.items():
        error = error_of(
            run_with_backend,
            config(tmp_path, "ray", device="auto", **{section: asked}),
            tmp_path / "run",
        )
        assert error.key == ("execution", section)
        assert "the cluster has room for" in error.problem
    assert not (tmp_path / "run").exists()


def test_no_cluster_at_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    error = error_of(
        run_with_backend, config(tmp_path, "ray", address="127.0.0.1:1"), tmp_path / "run"
    )
    assert (error.key, error.value) == (("execution", "address"), "127.0.0.1:1")
    assert not (tmp_path / "run").exists()
