"""Pretrained classifiers as teachers: their classes, mapped onto the task's."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.user_errors import error_of
from pydantic import ValidationError
from teacher_helpers import BLOCKS, TINY, annotations, finest, pretrained, teachers_section

from cosup.config.teacher_model import TeacherModelSection
from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.models.classifier import build_classifier, load_checkpoint
from cosup.teachers.annotate import OUTSIDE, annotate, note_outside, open_store
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import scopes
from cosup.teachers.live import LiveTeachers
from cosup.teachers.train import check_teachers, obtain_level, train_level

LOW = {"class": [0, 1, 2, 3, 4]}
OF_IMAGENET = {"0": ["tabby", "tiger cat"], "1": [207, "n02099712"]}


def section(model: dict[str, Any], **teacher: Any) -> TeachersSection:
    """Return a level of a pretrained classifier and a linear model that knows all classes."""
    ready = {"name": "ready", "model": model, **teacher}
    return teachers_section(hierarchy={"by": "explicit", "teachers": [[ready, {"name": "all"}]]})


def ready(data: ImageData, features: FeatureCache, model: dict[str, Any], **own: Any) -> Teacher:
    found = section(model, **own)
    return train_level(finest(found, data)[:1], Training(found, data, 0, features))[0]


def test_classes_are_added_up_and_the_rest_is_left_out(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    model = pretrained(tmp_path, classes={"3": [0, 5, 11], 8: 2})
    teacher = ready(data, features, model)
    own = whole(model, 12, data, features, teacher)
    expected = torch.zeros(len(own), 10, dtype=torch.float64)
    expected[:, 3], expected[:, 8] = own[:, [0, 5, 11]].sum(1), own[:, 2]
    inside = expected.sum(1, keepdim=True)
    probs = annotations(teacher, data, features.compute)
    torch.testing.assert_close(probs.double(), expected / inside, atol=1e-5, rtol=0)
    batches = teacher.inputs(data, data.rows("test"), features.compute)
    outside = torch.cat([teacher.outside(batch) for batch in batches])
    torch.testing.assert_close(outside.double(), 1 - inside[:, 0], atol=1e-5, rtol=0)


def whole(
    model: dict[str, Any], outputs: int, data: ImageData, features: FeatureCache, teacher: Teacher
) -> torch.Tensor:
    """Return the probabilities [N, F] of the model's own classes on the test images."""
    classifier = build_classifier(TINY, outputs, None, 32)
    load_checkpoint(classifier, model["weights"])
    batches = teacher.inputs(data, data.rows("test"), features.compute)
    with torch.no_grad():
        return torch.cat([classifier(batch).double().softmax(1) for batch in batches])


def test_its_scope_is_what_it_maps_onto_and_what_it_is_given(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    model = pretrained(tmp_path, classes={"3": [0], "8": [2]})
    specs = finest(section(model), data)
    assert specs[0].classes == (3, 8)
    assert scopes(specs, 10, 1).classes[0].nonzero()[:, 0].tolist() == [3, 8]
    assert finest(section(model, scope=LOW), data)[0].classes == (3,)
    alone = annotations(ready(data, features, model, scope=LOW), data, features.compute)
    assert (alone[:, 3] == 1).all()
    assert finest(section(pretrained(tmp_path)), data)[0].generalist
    found = section(model, scope={"class": [5, 6]})
    assert error_of(finest, found, data).key[-2:] == ("model", "classes")


def test_it_abstains_where_little_of_its_probability_is_inside(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    model = pretrained(tmp_path, classes={"3": [0], "8": [2]})
    inside = whole(model, 12, data, features, ready(data, features, model))[:, [0, 2]].sum(1)
    least = float(inside.median())
    teacher = ready(data, features, {**model, "least_mass": least})
    answered = annotations(teacher, data, features.compute).sum(1) > 0
    assert torch.equal(answered, inside.float() >= least)
    assert 0 < int(answered.sum()) < len(answered)


def test_the_mass_outside_is_told_once(
    data: ImageData, features: FeatureCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = pretrained(tmp_path, classes={"3": [0], "8": [2]})
    found = section(model)
    teachers = train_level(finest(found, data), Training(found, data, 0, features))
    store = open_store(tmp_path / "store", data, 100)
    annotate(teachers, data, store, features.compute)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        note_outside(teachers, data, store, features.compute)
    assert [r.args[0] for r in caplog.records if r.args] == ["ready"]
    share = store.noted("student_train", "ready")[OUTSIDE]
    assert 0 < share < 1
    assert store.noted("student_train", "all") == {}
    # Another mapping has annotations, and a mass, of its own.
    changed = section(pretrained(tmp_path, classes={"3": list(range(12))}))
    teachers = train_level(finest(changed, data), Training(changed, data, 0, features))
    annotate(teachers, data, store, features.compute)
    assert store.noted("student_train", "ready") == {}
    note_outside(teachers, data, store, features.compute)
    assert store.noted("student_train", "ready")[OUTSIDE] == pytest.approx(0, abs=1e-5)


def test_names_of_imagenet_map_as_their_indices_do(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    by_name = ready(data, features, pretrained(tmp_path, 1000, classes=OF_IMAGENET))
    indices = {"0": [281, 282], "1": [207, 208]}
    by_index = ready(data, features, pretrained(tmp_path, 1000, classes=indices))
    assert by_name.identity == by_index.identity


def test_without_a_mapping_classes_are_the_tasks_in_order_or_by_name(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    model = pretrained(tmp_path, 10, classes=None)
    in_order = ready(data, features, model)
    own = whole(model, 10, data, features, in_order)
    probs = annotations(in_order, data, features.compute)
    torch.testing.assert_close(probs.double(), own, atol=1e-5, rtol=0)
    error = error_of(ready, data, features, pretrained(tmp_path, 1000, classes=None))
    assert error.key[-1] == "classes"  # digits are no classes of ImageNet
    error = error_of(ready, data, features, pretrained(tmp_path, 12, classes=None))
    assert error.key[-1] == "classes"


BAD = [
    ({"boot": [1], "shoe": [2]}, [(), ()]),
    ({"3": [0], "4": [12]}, [("4",)]),
    ({"3": [0], "4": [-1]}, [("4",)]),
    ({"3": [0, 0]}, [("3",)]),
    ({"3": [0], "4": [0], "5": [0]}, [("4",), ("5",)]),
    ({"3": ["tabby"], "4": [99]}, [("3",), ("4",)]),
    ({"3": [0], "33": [1]}, [("33",)]),
]


@pytest.mark.parametrize(("classes", "keys"), BAD)
def test_wrong_mappings_are_found_before_training(
    data: ImageData,
    features: FeatureCache,
    tmp_path: Path,
    classes: dict[str, Any],
    keys: list[tuple[str, ...]],
) -> None:
    found = section(pretrained(tmp_path, classes=classes))
    with pytest.raises(UserError) as raised:
        check_teachers((finest(found, data),), Training(found, data, 0, features))
    place = ("teachers", "hierarchy", "teachers", "0", "0", "model", "classes")
    expected = {(*place, *key) for key in keys}
    assert {error.key for error in raised.value.errors} == expected
    assert all("\n" not in str(error) for error in raised.value.errors)


def test_misspelt_and_ambiguous_names(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    tree = {"0": ["tiger cet"], "1": ["crane"]}
    found = section(pretrained(tmp_path, 1000, classes=tree))
    with pytest.raises(UserError) as raised:
        check_teachers((finest(found, data),), Training(found, data, 0, features))
    misspelt, ambiguous = raised.value.errors
    assert "tiger cat" in misspelt.nearest
    assert "134" in str(ambiguous)
    assert "517" in str(ambiguous)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": "linear_pixels"}, "use"),
        ({"checkpoint": "x.safetensors"}, "checkpoint"),
        ({"name": "open_clip:ViT-B-32@openai"}, "use"),
        ({"classes": {"cat": []}}, "classes"),
        ({"classes": {}}, "classes"),
        ({"classes": {"cat": True}}, "classes"),
        ({"use": None}, "classes"),
        ({"use": "zero_shot"}, "classes"),
        ({"templates": "a sketch of a {}"}, "templates"),
        ({"use": "retrained"}, "use"),
        ({"least_mass": 1.5}, "least_mass"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], key: str) -> None:
    good = {"name": TINY, "use": "pretrained", "classes": {"cat": [1]}}
    TeacherModelSection.model_validate(good)
    with pytest.raises((UserError, ValidationError), match=key):
        TeacherModelSection.model_validate({**good, **changes})


def test_it_survives_json(data: ImageData, tmp_path: Path) -> None:
    model = TeacherModelSection.model_validate(pretrained(tmp_path, classes={3: [0, "x"], 8: 2}))
    again = json.loads(json.dumps(model.model_dump(mode="json")))
    assert TeacherModelSection.model_validate(again) == model


def test_a_stored_one_needs_its_file_no_more(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    found = section(pretrained(tmp_path))
    specs = finest(found, data)[:1]
    training = Training(found, data, 0, features, directory=tmp_path / "teachers")
    (teacher,) = obtain_level(specs, training)
    again = type(teacher).restore(specs[0], training, teacher.state(), 0)
    assert again.identity == teacher.identity
    Path(found.hierarchy.teachers[0][0].model.weights).write_bytes(b"")  # type: ignore[union-attr,index,arg-type]
    with pytest.raises(UserError):
        obtain_level(specs, training)  # the file has changed, so the teacher is not the same


def test_it_answers_live_as_it_annotates(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    found = teachers_section(hierarchy=BLOCKS, model=pretrained(tmp_path))
    teachers = train_level(finest(found, data), Training(found, data, 0, features))
    (batch,) = [next(iter(teachers[0].inputs(data, data.rows("test")[:8], features.compute)))]
    for with_features in (True, False):
        live = LiveTeachers(teachers, features.compute, with_features)
        for number, teacher in enumerate(teachers):
            output = live(batch.float(), torch.full((len(batch),), number))
            torch.testing.assert_close(
                output.logits.exp(), teacher.annotate(batch), atol=1e-4, rtol=0
            )
