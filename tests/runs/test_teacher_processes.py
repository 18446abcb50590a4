"""Teachers in processes of their own, each with a card, are those that are trained in turn.

The processes are the same on the CPU, where the name of a card means nothing.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.student_jobs import DATA, same

from cosup.config.teachers import TeachersSection
from cosup.errors import RunError
from cosup.models.compute import Compute
from cosup.runs import card_trainings, side_by_side
from cosup.runs.teacher_processes import train_on_cards
from cosup.teachers import train
from cosup.teachers.base import Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec, plan_hierarchy
from cosup.teachers.train import obtain_level, teacher_groups

CARDS = ["0", "1"]
NETWORK: dict[str, Any] = {"name": "cifar_resnet8", "image_size": 16}


@pytest.fixture(autouse=True)
def quick_starts(forks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "PYTHON", tuple(forks))


def section(model: dict[str, Any], **training: Any) -> TeachersSection:
    return TeachersSection.model_validate(
        {
            "hierarchy": {"by": "class", "levels": [1, 2]},
            "model": model,
            "training": {"steps": 4, "batch_size": 16, **training},
        }
    )


def training_in(folder: Path, section: TeachersSection, told: list[Any] | None = None) -> Training:
    folder.mkdir(exist_ok=True)
    features = FeatureCache(Compute(torch.device("cpu"), workers=2))
    record = None if told is None else lambda *step: told.append(step)
    return Training(section, DATA, 0, features, record, folder)


def levels_of(section: TeachersSection) -> list[tuple[TeacherSpec, ...]]:
    return [tuple(one) for one in plan_hierarchy(section, DATA.classes, DATA.domains, 0)]


def test_the_teachers_are_those_that_are_trained_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, of all levels at once, and stored; their steps are reported."""
    own, told, expected_steps = section(NETWORK), list[Any](), list[Any]()
    levels = levels_of(own)
    groups = [group for level in levels for group in teacher_groups(level)]
    there = training_in(tmp_path / "there", own, told)
    train_on_cards(groups, there, CARDS, "SIGUSR1")
    here = training_in(tmp_path / "here", own, expected_steps)
    expected = [teacher for level in levels for teacher in obtain_level(level, here)]
    monkeypatch.setattr(train, "train_group", None)  # none is trained again
    found = [teacher for level in levels for teacher in obtain_level(level, there)]
    for teacher, other in zip(found, expected, strict=True):
        assert (teacher.name, teacher.identity) == (other.name, other.identity)
        assert same(teacher.tensors(), other.tensors())
    assert {name for name, *_ in told} == {teacher.name for teacher in expected}
    assert set(told) <= set(expected_steps)
    monkeypatch.setattr(card_trainings, "run_side_by_side", None)
    train_on_cards(groups, there, CARDS, None)  # nothing is left


def test_an_error_is_raised_after_the_others_are_stored(tmp_path: Path) -> None:
    own = section(NETWORK)
    wrong = section(NETWORK, lr=1e38, schedule="constant")
    (generalist,), specialists = levels_of(own)
    ((diverging,), _) = levels_of(wrong)
    training = training_in(tmp_path / "there", own)
    with pytest.raises(RunError, match=r"all.*loss"):
        train_on_cards([[diverging], [specialists[0]]], training, CARDS, None)
    stored = {path.stem for path in (tmp_path / "there").glob("*.json")}
    assert stored == {specialists[0].name}
    assert generalist.name not in stored


def test_what_is_no_network_or_alone_is_left_to_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_trainings, "run_side_by_side", None)
    pixels, one = section({"name": "linear_pixels"}), section(NETWORK)
    for own, groups in [
        (pixels, [[spec] for spec in levels_of(pixels)[1]]),
        (one, [list(levels_of(one)[0])]),
    ]:
        train_on_cards(groups, training_in(tmp_path / "there", own), CARDS, None)
    assert not list((tmp_path / "there").iterdir())
