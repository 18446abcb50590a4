"""Tests of the state of a training loop: saved beside the loop, by one thread at a time."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.student_jobs import CPU, DATA, EVERYTHING, network_job, same, state

from cosup.errors import RunError
from cosup.models.compute import Compute
from cosup.models.loop_state import StateFile, identity_of

SECONDS = 60


def test_the_loop_goes_on_while_a_state_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second save waits for the first."""
    later, save, at_once, most = threading.Event(), torch.save, 0, 0

    def slow(*args: Any) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        assert later.wait(SECONDS)
        save(*args)
        at_once -= 1

    def on_step(step: int, *_: Any) -> None:
        if step == 5:  # the state after step 3 is not written yet
            later.set()

    monkeypatch.setattr(torch, "save", slow)
    network_job(save_every=3).run(DATA, Compute(CPU, scratch=tmp_path), on_step)
    assert later.is_set()
    assert most == 1
    assert len(list(tmp_path.iterdir())) == 1  # the last save has ended


def test_a_state_is_that_of_its_step_however_late_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = state(network_job(**EVERYTHING).run(DATA, Compute(CPU)))
    later, save, compute = threading.Event(), torch.save, Compute(CPU, scratch=tmp_path)

    def late(*args: Any) -> None:
        assert later.wait(SECONDS)
        save(*args)

    def kill(step: int, *_: Any) -> None:
        if step == 5:
            later.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", late)
    with pytest.raises(KeyboardInterrupt):
        network_job(**EVERYTHING).run(DATA, compute, kill)
    steps: list[int] = []
    resumed = network_job(**EVERYTHING).run(DATA, compute, lambda step, *_: steps.append(step))
    assert steps[0] == 4
    assert same(state(resumed), whole)


def test_a_failed_save_leaves_the_state_before_and_is_told(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        path.write_bytes(b"ha")
        raise OSError(28, "No space left on device")

    states = StateFile(tmp_path / "net.state")
    states.save(1, lambda path: path.write_bytes(b"whole"))
    states.wait()
    states.save(2, half)
    with pytest.raises(RunError, match="disk full"):
        states.wait()
    states.wait()  # told once
    [path] = states.saved()
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_is_of_a_kind_of_device_not_of_one_card() -> None:
    """Ray may give a restarted worker another card of the node."""
    job = network_job()

    def identity(device: str) -> str:
        compute = Compute(torch.device(device))
        return identity_of(
            job.classifier, job.objective, job.training, job.steps, job.seed, compute, "data"
        )

    assert identity("cuda") == identity("cuda:0") == identity("cuda:1") != identity("cpu")


def test_a_save_returns_at_once(tmp_path: Path) -> None:
    states, later = StateFile(tmp_path / "net.state"), threading.Event()

    def slow(path: Path) -> None:
        assert later.wait(SECONDS)
        path.write_bytes(b"whole")

    states.save(1, slow)  # waiting for `slow`, it would fail
    assert not list(states.saved())
    later.set()
    states.wait()
    assert list(states.saved())
