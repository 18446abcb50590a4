"""Teachers that are networks are trained like students: augmented, averaged and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from teacher_helpers import TINY, finest, teachers_section

from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.train import check_teachers, obtain_level, train_level

RECIPE: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "optimizer": "sgd",
    "lr": 0.01,
    "ema": 0.9,
    "drop_path": 0.1,
    "save_every": 2,
    "mixing": {"mixup": 0.2},
    "augment": {"crop": "padded", "flip": 0.5, "erase": 0.25},
}


def section(**changes: Any) -> TeachersSection:
    model = {"name": TINY, "image_size": 32}
    return teachers_section(model=model, training={**RECIPE, **changes})


class Killed(Exception):
    """Simulates a killed training."""


def test_a_killed_training_of_a_teacher_resumes(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    config = section()
    specs = finest(config, data)[:1]
    whole = train_level(specs, Training(config, data, 0, features))[0]
    steps: list[int] = []

    def obtain(kill_at: int = 0) -> list[Teacher]:
        def on_step(name: str, step: int, loss: float, total: int) -> None:
            steps.append(step)
            if step == kill_at:
                raise Killed

        return obtain_level(specs, Training(config, data, 0, features, on_step, directory=tmp_path))

    with pytest.raises(Killed):
        obtain(kill_at=5)
    state = tmp_path / f"{specs[0].name}.state"
    assert state.exists()
    steps.clear()
    assert obtain()[0].identity == whole.identity
    assert steps == [5, 6]
    assert not state.exists()
    assert obtain()[0].identity == whole.identity
    assert steps == [5, 6]


def test_teachers_learn_the_given_labels(data: ImageData, features: FeatureCache) -> None:
    """Label noise is in `given`; true labels are not used in training."""
    from dataclasses import replace

    config = section()
    specs = finest(config, data)[:1]
    plain = train_level(specs, Training(config, data, 0, features))[0]
    table = data.table
    given = replace(data, table=table.assign(given=(table["label"] + 1) % 10))
    truth = replace(data, table=table.assign(label=(table["label"] + 1) % 10))
    found = [train_level(specs, Training(config, d, 0, features))[0] for d in (given, truth)]
    assert found[0].identity != plain.identity
    assert found[1].identity == plain.identity


BAD = [
    (
        {"optimizer": "addam"},
        "teachers.training.optimizer: unknown optimizer 'addam'; did you mean 'adam",
    ),
    (
        {"augment": {"auto_augment": "nonsense"}},
        "teachers.training.augment.auto_augment: 'nonsense'",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_errors_are_found_before_training(
    data: ImageData, features: FeatureCache, changes: dict[str, Any], message: str
) -> None:
    config = section(**changes)
    with pytest.raises(UserError) as caught:
        check_teachers((finest(config, data),), Training(config, data, 0, features))
    assert message in str(caught.value)
    assert "teachers" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_state_has_only_timms_names(data: ImageData, features: FeatureCache) -> None:
    import timm

    config = section()
    teacher = train_level(finest(config, data)[:1], Training(config, data, 0, features))[0]
    model: Any = timm.create_model(TINY, num_classes=10)
    assert teacher.state().keys() == model.state_dict().keys()
    assert all(torch.isfinite(tensor).all() for tensor in teacher.state().values())
