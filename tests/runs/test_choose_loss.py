"""`weight: best_constant` chooses the constant on validation, then runs as with that constant."""

import json
from pathlib import Path
from typing import Any

import pytest

from cosup.config import Config, check_config
from cosup.config.schema import Losses
from cosup.runs import choose_loss, run_config
from cosup.runs.backend import Local
from cosup.runs.context import RunContext
from cosup.runs.directory import RunDirectory
from cosup.runs.losses import candidates
from cosup.runs.recorder import Recorder

CONSTANTS = [0.0, 0.5]


def config(output: Path, **loss: Any) -> Config:
    return check_config(
        {
            "run": {"output": str(output)},
            "data": {
                "source": "digits",
                "limit": 300,
                "splits": {
                    "teacher_train": 0.3,
                    "student_train": 0.4,
                    "validation": 0.1,
                    "test": 0.2,
                },
            },
            "teachers": {
                "hierarchy": {"by": "class", "levels": [1, 2]},
                "model": {"name": "linear_pixels", "size": 4},
                "training": {"steps": 40, "lr": 0.02},
            },
            "student": {
                "backbone": {"name": "test_resnet.r160_in1k", "weights": None, "image_size": 32},
                "training": {"steps": 40, "lr": 0.02, "standardize": True},
            },
            "rounds": {"loss": {"name": "adaptive_confidence", **loss}},
            "controls": ["random_assignment"],
            "execution": {"device": "cpu", "workers": 1},
        }
    )


def test_candidates_differ_only_in_the_constant() -> None:
    choice = Losses.check(
        {
            "name": "adaptive_confidence",
            "weight": "best_constant",
            "constants": [0.3, 0.1],
            "tau": 2.0,
        }
    )
    found = candidates(choice)
    assert [item.value for item in found] == [0.3, 0.1]
    for item in found:
        assert item.loss.settings["weight"] == "constant"
        assert item.loss.settings["constant"] == item.value
        assert item.loss.settings["tau"] == 2.0
    assert candidates(Losses.check("adaptive_confidence")) == []
    assert candidates(Losses.check("cross_entropy")) == []


def test_the_run_is_the_one_with_the_chosen_constant(tmp_path: Path) -> None:
    best = config(tmp_path, weight="best_constant", constants=CONSTANTS)
    summary = run_config(best, tmp_path / "best")
    choice = summary["loss_choice"]
    reached = {item["constant"]: item["accuracy"] for item in choice["candidates"]}
    assert list(reached) == CONSTANTS
    assert reached[choice["constant"]] == max(reached.values())
    assert choice["chosen_on"] == "validation"
    assert len(set(reached.values())) == 2, "the constants make no difference: a test of nothing"
    same = run_config(
        config(tmp_path, weight="constant", constant=choice["constant"]), tmp_path / "same"
    )
    for part in ("student", "rounds", "controls"):
        assert summary[part] == same[part]
    assert "loss_choice" not in same
    stages = tmp_path / "best" / "stages"
    tried = [json.loads((stages / f"choose-loss-{n}.json").read_text()) for n in (1, 2)]
    spent = sum(item["seconds"] for item in tried)
    assert summary["seconds"]["rounds"] >= spent
    assert (tmp_path / "best" / "config.yaml").read_text().count("best_constant") == 1


@pytest.mark.parametrize(
    ("accuracies", "chosen"), [([0.2, 0.5], 0.5), ([0.5, 0.2], 0.0), ([0.5, 0.5], 0.0)]
)
def test_the_first_best_candidate_is_chosen_and_none_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: list[float], chosen: float
) -> None:
    tried: list[int] = []

    def fake(context: RunContext, prepared: Any, predict: Any, candidate: Any, stage: str) -> None:
        number = int(stage.removeprefix("choose-loss-"))
        tried.append(number)
        accuracy = accuracies[number - 1]
        record = {"constant": candidate.value, "accuracy": accuracy, "seconds": 1.0}
        context.run.finish(stage, record)

    monkeypatch.setattr(choose_loss, "_measure", fake)
    best = config(tmp_path, weight="best_constant", constants=CONSTANTS)
    nothing: Any = None
    with RunDirectory.open(tmp_path / "r", best) as run:
        run.finish("choose-loss-1", {"constant": 0.0, "accuracy": accuracies[0], "seconds": 1.0})
        context = RunContext(best, run, Recorder(), Local())
        resolved, choice = choose_loss.choose_loss(context, nothing)
        assert choice is not None
        assert choice["constant"] == chosen
        assert resolved.config.rounds.loss.settings["constant"] == chosen
        assert resolved.config.rounds.loss.settings["weight"] == "constant"
        assert choose_loss.choose_loss(context, nothing) == (resolved, choice)
        assert run.load("choose-loss")["seconds"] == 2.0
    assert tried == [2], "the first was on record"


def test_other_losses_are_unchanged(tmp_path: Path) -> None:
    plain = config(tmp_path)
    nothing: Any = None
    with RunDirectory.open(tmp_path / "r", plain) as run:
        context = RunContext(plain, run, Recorder(), Local())
        assert choose_loss.choose_loss(context, nothing) == (context, None)
        assert not run.is_done("choose-loss")
