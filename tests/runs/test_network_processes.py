"""Networks in processes of their own, each with a card, have the numbers of networks in turn.

The processes are the same on the CPU, where the name of a card means nothing.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.student_jobs import (
    DATA,
    EVERYTHING,
    live_job,
    meta_job,
    network_job,
    same,
    state,
)
from torch import Tensor

from cosup.config.schema import ExecutionSection
from cosup.errors import RunError
from cosup.losses import CrossEntropy, Objective
from cosup.models.compute import Compute
from cosup.runs import card_trainings, side_by_side
from cosup.runs.network_processes import CardLauncher, cards_for_trainings
from cosup.student.jobs import NetworkJob
from cosup.student.launcher import LocalLauncher

SHORT: dict[str, Any] = {"steps": 4}


@pytest.fixture(autouse=True)
def quick_starts(forks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "PYTHON", tuple(forks))


@pytest.fixture
def launcher() -> CardLauncher:
    return CardLauncher(["0", "1"], "SIGUSR1")


def in_turn(jobs: Sequence[NetworkJob], compute: Compute) -> list[dict[str, Tensor]]:
    networks = LocalLauncher().networks(jobs, DATA, compute, None)
    return [dict(state(network)) for network in networks]


@pytest.mark.parametrize(
    ("asked", "cards", "expected"),
    [
        ("auto", ["3", "5"], ["3", "5"]),
        (1, ["3", "5"], ["3"]),
        (8, ["3", "5"], ["3", "5"]),
        (8, [], []),
    ],
)
def test_a_training_per_card_and_no_more_than_are_asked_for(
    asked: Any, cards: list[str], expected: list[str]
) -> None:
    execution = ExecutionSection.model_validate({"side_by_side": asked})
    assert cards_for_trainings(execution, cards) == expected


def test_the_numbers_are_those_of_networks_in_turn(
    launcher: CardLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit: with all randomness, live teachers and the meta stage. Each process has a card,
    and the first training reports its steps."""

    def jobs() -> list[NetworkJob]:
        return [network_job(**EVERYTHING), meta_job(), live_job()]

    places: list[dict[str, str]] = []
    run = side_by_side.run_side_by_side

    def running(tasks: Any, given: Any, **others: Any) -> None:
        places.extend(given)
        run(tasks, given, **others)

    monkeypatch.setattr(card_trainings, "run_side_by_side", running)
    found: dict[int, float] = {}
    expected: dict[int, float] = {}
    compute = Compute(workers=2, scratch=tmp_path)
    networks = launcher.networks(
        jobs(), DATA, compute, lambda step, loss, _: found.update({step: loss})
    )
    jobs()[0].run(DATA, Compute(), lambda step, loss, _: expected.update({step: loss}))
    for network, other in zip(networks, in_turn(jobs(), Compute()), strict=True):
        assert same(state(network), other)
        assert not network.training
    assert places == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert {1, 8} <= found.keys()
    assert found.items() <= expected.items()


def test_an_error_is_raised_after_the_others_have_ended(
    launcher: CardLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of the first training that fails."""
    ended: list[str] = []
    run = side_by_side.run_side_by_side

    def running(tasks: Any, *given: Any, **others: Any) -> None:
        run(tasks, *given, **others)
        ended.extend(name for name, task in tasks.items() if task.result.exists())

    monkeypatch.setattr(card_trainings, "run_side_by_side", running)
    diverging = network_job(**SHORT, lr=1e38, schedule="constant")
    with pytest.raises(RunError, match="loss"):
        launcher.networks([diverging, network_job(**SHORT)], DATA, Compute(), None)
    assert ended == ["training 2"]


class Local(CrossEntropy):
    """Cannot be sent to another process."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle it")


def test_what_cannot_be_sent_is_trained_in_turn(
    launcher: CardLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [replace(network_job(**SHORT), objective=Objective(Local())) for _ in range(2)]
    with caplog.at_level(logging.WARNING, "cosup"):
        networks = launcher.networks(jobs, DATA, Compute(), None)
    assert "in turn" in caplog.text
    expected = in_turn([network_job(**SHORT)], Compute())[0]
    assert all(same(state(network), expected) for network in networks)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_cards_have_the_numbers_of_one(tmp_path: Path) -> None:
    compute = Compute(torch.device("cuda"), scratch=tmp_path)
    launcher = CardLauncher(["0", "1"], None)
    networks = launcher.networks([network_job(**SHORT), live_job()], DATA, compute, None)
    expected = in_turn([network_job(**SHORT), live_job()], compute)
    for network, other in zip(networks, expected, strict=True):
        assert same(state(network), other)
