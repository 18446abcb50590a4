"""Zero-shot CLIP as a teacher: the answers of open_clip's own model to prompts."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from helpers.tiny_clip import one_vocabulary, random_clip, write_clip
from helpers.user_errors import error_of
from pydantic import ValidationError
from teacher_helpers import NUMBERS, annotations, finest, teachers_section
from torch.nn.functional import normalize

from cosup.config.teacher_model import TeacherModelSection
from cosup.config.teachers import TeachersSection
from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.errors import UserError
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.linear import FeatureTeacher
from cosup.teachers.train import check_teachers, train_level

TEMPLATES = ["a photo of the number {}.", "{} in pixels"]


@pytest.fixture(scope="module", autouse=True)
def vocabulary() -> Iterator[None]:
    with one_vocabulary():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    write_clip(path)
    return path


def section(folder: Path, *others: dict[str, Any], **model: Any) -> TeachersSection:
    found = {"name": f"open_clip:{folder}", "use": "zero_shot", "class_names": NUMBERS, **model}
    level = [{"name": "clip", "model": found}, *others]
    return teachers_section(hierarchy={"by": "explicit", "teachers": [level]})


def made(section: TeachersSection, data: ImageData, features: FeatureCache) -> list[Teacher]:
    return train_level(finest(section, data), Training(section, data, 0, features))


def test_it_answers_as_open_clip_does(
    folder: Path, data: ImageData, features: FeatureCache
) -> None:
    """softmax(scale * image . text), the mean of the templates' features, float16 images aside."""
    (teacher,) = made(section(folder, templates=TEMPLATES), data, features)
    assert isinstance(teacher, FeatureTeacher)
    model: Any = random_clip(folder)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    transform = eval_transform(teacher.source.backbone.input)
    rows = data.rows("test")
    with torch.no_grad():
        pixels = torch.cat(list(image_batches(data, rows, transform, 64, 1)))
        images = normalize(model.encode_image(teacher.source.backbone.pixels(pixels)), dim=1)
        texts = [
            normalize(
                model.encode_text(tokenizer([t.replace("{}", name) for name in NUMBERS])), dim=1
            )
            for t in TEMPLATES
        ]
        text = normalize(torch.stack(texts).mean(0), dim=1)
        expected = (model.logit_scale.exp() * images @ text.T).softmax(1)
    found = annotations(teacher, data, features.compute)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_a_scope_restricts_its_answers(
    folder: Path, data: ImageData, features: FeatureCache
) -> None:
    everything = annotations(made(section(folder), data, features)[0], data, features.compute)
    own = section(folder).hierarchy.teachers[0][0].model  # type: ignore[union-attr,index]
    level = [{"name": "part", "scope": {"class": [2, 7]}, "model": own}, {"name": "all"}]
    found = teachers_section(hierarchy={"by": "explicit", "teachers": [level]})
    probs = annotations(made(found, data, features)[0], data, features.compute)
    expected = everything[:, [2, 7]] / everything[:, [2, 7]].sum(1, keepdim=True)
    torch.testing.assert_close(probs[:, [2, 7]], expected, atol=1e-4, rtol=0)


def test_images_are_encoded_once_for_teachers_of_the_same_model(
    folder: Path, data: ImageData, features: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counting(part: ImageData, rows: Any, *rest: Any, **named: Any) -> Any:
        decoded.extend(rows.tolist())
        return image_batches(part, rows, *rest, **named)

    monkeypatch.setattr("cosup.teachers.features.image_batches", counting)
    linear = {"name": "linear_features", "backbone": {"name": f"open_clip:{folder}"}}
    other = {"name": f"open_clip:{folder}", "use": "zero_shot", "class_names": NUMBERS[::-1]}
    level = {"name": "linear", "model": linear}, {"name": "other", "model": other}
    teachers = made(section(folder, *level), data, features)
    for teacher in teachers:
        annotations(teacher, data, features.compute)
    assert len({teacher.reads for teacher in teachers}) == 1
    assert len({teacher.identity for teacher in teachers}) == 3
    assert len(decoded) == len(set(decoded))


def test_it_is_restored_without_its_text_encoder(
    folder: Path, data: ImageData, features: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = section(folder)
    (teacher,) = made(found, data, features)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr("cosup.teachers.zero_shot.text_features", forbidden)
    spec, training = finest(found, data)[0], Training(found, data, 0, features)
    again = type(teacher).restore(spec, training, teacher.state(), 0)
    assert again.identity == teacher.identity


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"class_names": NUMBERS[:9]}, "class_names"),
        ({"class_names": ["one"] * 10}, "class_names"),
        ({"class_names": None}, "class_names"),  # digits alone say nothing in a prompt
        ({"templates": "{} " + "and more of it " * 9}, "templates"),
    ],
)
def test_prompts_that_cannot_be_used(
    folder: Path, data: ImageData, features: FeatureCache, changes: dict[str, Any], key: str
) -> None:
    found = section(folder, **changes)
    error = error_of(check_teachers, (finest(found, data),), Training(found, data, 0, features))
    assert ".".join(error.key) == f"teachers.hierarchy.teachers.0.0.model.{key}"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": "resnet50"}, "name"),
        ({"name": "linear_pixels"}, "use"),
        ({"templates": "a photo"}, "templates"),
        ({"templates": []}, "templates"),
        ({"least_mass": 0.5}, "least_mass"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], key: str) -> None:
    good = {"name": "open_clip:ViT-B-32@openai", "use": "zero_shot"}
    TeacherModelSection.model_validate(good)
    with pytest.raises((UserError, ValidationError), match=key):
        TeacherModelSection.model_validate({**good, **changes})


def test_names_of_open_clip_are_checked(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    for name in ("ViT-B-99@openai", "ViT-B-32@nobody", str(tmp_path / "absent")):
        found = section(tmp_path, name=f"open_clip:{name}")
        specs = finest(found, data)
        error = error_of(check_teachers, (specs,), Training(found, data, 0, features))
        assert error.key[:6] == ("teachers", "hierarchy", "teachers", "0", "0", "model")


def test_without_open_clip_the_extra_is_named(
    folder: Path, data: ImageData, features: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    found = section(folder)
    error = error_of(check_teachers, (finest(found, data),), Training(found, data, 0, features))
    assert "clip]" in str(error)
