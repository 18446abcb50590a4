"""Teachers of one level have models and trainings of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.user_errors import error_of
from teacher_helpers import TINY, annotations, finest, teachers_section

from cosup.config import check_config
from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.teachers.base import Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.train import (
    check_teachers,
    obtain_level,
    planned_steps,
    teacher_groups,
    train_level,
)

LOW, HIGH = {"class": [0, 1, 2, 3, 4]}, {"class": [5, 6, 7, 8, 9]}


def bright(images: torch.Tensor) -> torch.Tensor:
    """Label bright images 7 and dark images 1."""
    labels = torch.where(images.float().mean((1, 2, 3)) > 60, 7, 1)
    return torch.nn.functional.one_hot(labels, 10).float()


def explicit(*teachers: dict[str, Any], **section: Any) -> TeachersSection:
    return teachers_section(hierarchy={"by": "explicit", "teachers": [list(teachers)]}, **section)


def mixed(**network: Any) -> TeachersSection:
    """Return a level of two linear models, one of other pixels, a network and a function."""
    return explicit(
        {"name": "low", "scope": LOW},
        {"name": "high", "scope": HIGH},
        {"name": "fine", "model": {"name": "linear_pixels", "size": 12}},
        {
            "name": "network",
            "model": {"name": TINY, "image_size": 32, **network},
            "training": {"steps": 2, "batch_size": 16},
        },
        {"name": "rules", "model": {"name": f"call:{__name__}:bright", "image_size": 16}},
    )


def test_a_level_of_different_models_is_trained_and_resumed(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    section = mixed()
    specs = finest(section, data)
    training = Training(section, data, 0, features, directory=tmp_path)
    check_teachers((specs,), training)
    teachers = obtain_level(specs, training)
    assert [teacher.name for teacher in teachers] == ["low", "high", "fine", "network", "rules"]
    assert [teacher.kind for teacher in teachers] == [*["linear_pixels"] * 3, "network", "call"]
    assert [teacher.steps for teacher in teachers] == [60, 60, 60, 2, 0]
    assert [planned_steps(spec, data) for spec in specs] == [60, 60, 60, 2, 0]
    assert len({teacher.reads for teacher in teachers}) == 4  # low and high share their images
    for teacher in teachers:
        assert annotations(teacher, data, features.compute).shape[1] == 10
    again = obtain_level(specs, training)
    assert [teacher.identity for teacher in again] == [teacher.identity for teacher in teachers]


def test_a_change_of_one_model_trains_that_teacher_alone_again(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    found, written = [], []
    for section in (mixed(), mixed(image_size=24)):
        training = Training(section, data, 0, features, directory=tmp_path)
        found.append([t.identity for t in obtain_level(finest(section, data), training)])
        written.append({path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()})
    changed = {name for name in written[0] if written[0][name] != written[1][name]}
    assert changed == {"network.json", "network.safetensors"}
    assert [a == b for a, b in zip(*found, strict=True)] == [True, True, True, False, True]


def test_teachers_of_equal_settings_are_fitted_together(data: ImageData) -> None:
    """So the numbers are the same whether settings are common or repeated for each teacher."""
    names = [[spec.name for spec in group] for group in teacher_groups(finest(mixed(), data))]
    assert names == [["low", "high"], ["fine"], ["network"], ["rules"]]


def test_settings_may_be_common_or_repeated(data: ImageData, features: FeatureCache) -> None:
    common = explicit({"name": "low", "scope": LOW}, {"name": "high", "scope": HIGH})
    own = {"model": common.model, "training": common.training}
    repeated = explicit(
        {"name": "low", "scope": LOW, **own},
        {"name": "high", "scope": HIGH},
    )
    found = [
        [t.identity for t in train_level(finest(s, data), Training(s, data, 0, features))]
        for s in (common, repeated)
    ]
    assert found[0] == found[1]


BAD = [
    ("model", {"model": {"name": "resnet18z"}}),
    ("model.checkpoint", {"model": {"name": TINY, "checkpoint": "nowhere.safetensors"}}),
    (
        "model.backbone",
        {"model": {"name": "linear_features", "backbone": {"name": TINY, "weights": "nowhere.pt"}}},
    ),
    ("model.name", {"model": {"name": "call:nowhere_to_be_found:f"}}),
]


@pytest.mark.parametrize(("key", "own"), BAD)
def test_errors_name_the_teachers_own_setting(
    data: ImageData, features: FeatureCache, key: str, own: dict[str, Any]
) -> None:
    section = explicit({"name": "one"}, {"name": "two", **own})
    specs = finest(section, data)
    error = error_of(check_teachers, (specs,), Training(section, data, 0, features))
    assert ".".join(error.key).startswith(f"teachers.hierarchy.teachers.0.1.{key}")


def errors_of(section: dict[str, Any], **config: Any) -> list[str]:
    """Return the keys of the mistakes of a config with these teachers."""
    student = {"backbone": {"name": TINY, "weights": None}}
    content = {"data": {"source": "digits"}, "student": student, "teachers": section, **config}
    with pytest.raises(UserError) as raised:
        check_config(content)
    return [".".join(error.key) for error in raised.value.errors]


def listed(*teachers: dict[str, Any]) -> dict[str, Any]:
    return {"hierarchy": {"by": "explicit", "teachers": [list(teachers)]}}


def test_a_training_is_checked_for_what_it_trains() -> None:
    own = {"name": "two", "training": {"steps": 5, "ema": 0.9}}
    key = "teachers.hierarchy.teachers.0.1.training.ema"
    assert errors_of(listed({"name": "one"}, own)) == [key]
    network = {"name": "two", "model": {"name": TINY}}
    section = {**listed({"name": "one"}, network), "training": {"steps": 5, "standardize": True}}
    assert errors_of(section) == ["teachers.training.standardize"]


def test_live_annotations_need_every_teacher_to_be_a_network() -> None:
    network = {"name": "one", "model": {"name": TINY}}
    section = listed(network, {"name": "two"})
    student = {"mode": "finetune", "backbone": {"name": TINY, "weights": None}}
    keys = errors_of(section, rounds={"live_annotations": True}, student=student)
    assert keys == ["rounds.live_annotations"]


@pytest.mark.parametrize(
    "rounds", [{"assignment": "fused"}, {"assignment": "mean", "refine": "product"}]
)
def test_live_annotations_do_not_replace_what_is_no_mixture_of_the_teachers(
    rounds: dict[str, Any],
) -> None:
    section = listed({"name": "one", "model": {"name": TINY}})
    student = {"mode": "finetune", "backbone": {"name": TINY, "weights": None}, "cross_fit": 2}
    keys = errors_of(section, rounds={**rounds, "live_annotations": True}, student=student)
    assert keys == ["rounds.live_annotations"]


def test_teacher_train_is_wanted_by_teachers_that_are_trained() -> None:
    rules = {"name": "rules", "model": {"name": "call:rules:annotate"}}
    ready = {"name": "ready", "model": {"name": TINY, "checkpoint": "x.safetensors"}}
    part = {"name": "part", "scope": LOW}
    assert not explicit(rules, ready).trains_on_labels
    assert not explicit({**rules, "scope": LOW}, ready).trains_specialists
    assert explicit(rules, {"name": "all"}).trains_on_labels
    assert not explicit({**rules, "scope": LOW}, {"name": "all"}).trains_specialists
    assert explicit(rules, part, {"name": "all"}).trains_specialists
    assert not teachers_section(
        hierarchy=None, external=[{"name": "a", "annotations": "a.csv"}]
    ).trains_on_labels
