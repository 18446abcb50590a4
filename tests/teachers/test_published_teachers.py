"""Teachers that learn as published ones do: on augmented images, by a softmax over all classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.user_errors import key_of, mistakes_of
from teacher_helpers import BLOCKS, finest, teachers_section

from cosup.config import check_config
from cosup.config.teachers import TeachersSection
from cosup.data.load import load_data
from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.losses.base import Objective
from cosup.models.section import BackboneSection
from cosup.runs.inputs import feature_splits
from cosup.teachers.base import ScopedCrossEntropy, Training, learned_classes
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.linear import LinearFeatures, LinearPixels
from cosup.teachers.rows import drawn_rows
from cosup.teachers.train import teacher_groups, train_level, train_teacher

BACKBONE = {"name": "test_resnet", "weights": None, "image_size": 32}
FEATURES = {"name": "linear_features", "backbone": BACKBONE}
CROPPED = {"crop": "resized", "flip": 0.5}


def section(model: dict[str, object] | None = None, **training: object) -> TeachersSection:
    return teachers_section(
        hierarchy=BLOCKS,
        model={**FEATURES, **(model or {})},
        training={"steps": 3, "batch_size": 16, "optimizer": "adam", "lr": 1e-3, **training},
    )


def weights(
    spec: TeacherSpec, data: ImageData, features: FeatureCache, seed: int = 0
) -> torch.Tensor:
    teacher = train_teacher(spec, Training(section(), data, seed, features))
    return teacher.state()["weight"]


def test_augmented_images_give_the_same_teacher_for_the_same_seed_alone(
    data: ImageData, features: FeatureCache
) -> None:
    augmented = section(augment=CROPPED)
    first, second = finest(augmented, data)
    assert teacher_groups([first, second]) == [[first], [second]]
    found = weights(first, data, features)
    assert torch.equal(found, weights(first, data, features))
    assert not torch.equal(found, weights(first, data, features, seed=1))
    assert not torch.equal(found, weights(finest(section(), data)[0], data, features))


def test_a_streamed_teacher_learns_the_features_of_its_images_step_by_step(
    data: ImageData, features: FeatureCache
) -> None:
    """With a crop of the whole image, the head is that of Adam on the plain features (float64)."""
    whole = section({"start": "zero"}, augment={"flip": 1.0}, batch_size=4096, steps=2)
    spec = finest(whole, data)[0]
    ours = weights(spec, data, features)
    rows = drawn_rows(spec, data)[0]
    backbone = features.source(spec.model.backbone).backbone  # type: ignore[arg-type]
    images = torch.cat(list(image_batches(data, rows, eval_transform(backbone.input), 64, 1)))
    with torch.no_grad():
        x = backbone(images.flip(3)).double()
    wanted = torch.nn.functional.one_hot(data.given(rows), 10).double()
    inside = torch.zeros(10, dtype=torch.bool)
    inside[list(spec.classes or ())] = True
    w, b = torch.zeros(10, x.shape[1], dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
    moved = ((x @ w.T).masked_fill(~inside, -torch.inf).softmax(1) - wanted).T @ x / len(x)
    first = [torch.zeros_like(w), torch.zeros_like(b)]
    second = [torch.zeros_like(w), torch.zeros_like(b)]
    for step in range(2):
        logits = (x @ w.T + b).masked_fill(~inside, -torch.inf)
        error = (logits.softmax(1) - wanted) / len(x)
        rate = 1e-3 * 0.5 * (1 + np.cos(np.pi * step / 2))
        for k, (value, gradient) in enumerate(((w, error.T @ x), (b, error.sum(0)))):
            first[k] = 0.9 * first[k] + 0.1 * gradient
            second[k] = 0.999 * second[k] + 0.001 * gradient**2
            m = first[k] / (1 - 0.9 ** (step + 1))
            v = second[k] / (1 - 0.999 ** (step + 1))
            value -= rate * m / (v.sqrt() + 1e-8)
    # Adam scales gradients up that are as small as the rounding of float32.
    clear = moved.abs() > 1e-4
    assert clear.sum() > 100
    assert torch.allclose(ours[0].double()[clear], w[clear], atol=2e-5)


def test_a_softmax_over_all_classes_teaches_that_others_are_absent(
    data: ImageData, features: FeatureCache
) -> None:
    long = {"steps": 100, "lr": 0.05}
    for choice in ("scope", "all"):
        spec = finest(section({"softmax": choice}, **long), data)[0]
        training = Training(section(), data, 0, features)
        teacher = train_level([spec], training)[0]
        assert isinstance(teacher, LinearFeatures)
        rows = data.rows("test")
        inputs = torch.cat(list(teacher.inputs(data, rows, features.compute)))
        logits = teacher.head(inputs)[0].double()
        support = teacher.support
        outside = logits.softmax(1)[:, ~support].sum(1).mean()
        assert (outside < 0.05) == (choice == "all")
        # Its annotations are restricted to its scope either way.
        restricted = logits.softmax(1) * support
        restricted /= restricted.sum(1, keepdim=True)
        assert torch.allclose(teacher.annotate(inputs).double(), restricted, atol=1e-5)


def test_the_loss_over_all_classes_is_the_plain_cross_entropy() -> None:
    spec = TeacherSpec("a", 0, classes=(0, 2))
    model = spec.model.model_copy(update={"softmax": "all"})
    everything = replace(spec, setup=replace(spec.setup, model=model))
    logits = torch.randn(1, 7, 5, dtype=torch.float64)
    labels = torch.tensor([0, 2, 2, 0, 0, 2, 0])
    targets = torch.nn.functional.one_hot(labels, 5).double()[None]
    loss = Objective(ScopedCrossEntropy(learned_classes(everything, 5)[None]))(logits, targets, 0.0)
    z = logits[0].numpy()
    by_hand = np.log(np.exp(z).sum(1)) - z[np.arange(7), labels.numpy()]
    assert np.allclose(loss[0][0].numpy(), by_hand)


def test_a_soft_specialist_draws_other_classes_at_their_chance(data: ImageData) -> None:
    soft = section({"softmax": "all", "other_classes": 0.25}, sampling="independent")
    spec = finest(soft, data)[0]
    rows, chances = drawn_rows(spec, data)
    assert len(rows) == len(data.rows("teacher_train"))
    inside = np.isin(data.given(rows).numpy(), spec.classes)
    assert set(chances[inside]) == {1.0}
    assert set(chances[~inside]) == {0.25}


def test_a_soft_specialist_knows_more_of_other_classes(
    data: ImageData, features: FeatureCache
) -> None:
    right = {}
    for chance in (0.0, 0.5):
        soft = teachers_section(
            hierarchy=BLOCKS,
            model={"name": "linear_pixels", "softmax": "all", "other_classes": chance},
            training={"steps": 80, "lr": 0.03, "sampling": "independent"},
        )
        teacher = train_level([finest(soft, data)[0]], Training(soft, data, 0, features))[0]
        assert isinstance(teacher, LinearPixels)
        rows = data.rows("test")
        inputs = torch.cat(list(teacher.inputs(data, rows, features.compute)))
        labels = data.truth(rows).labels
        other = ~teacher.support[labels]
        found = teacher.head(inputs.flatten(1) / 255)[0].argmax(1)
        right[chance] = float((found == labels)[other].float().mean())
    assert right[0.0] < 0.02
    assert right[0.5] > 0.2


@pytest.mark.parametrize(
    ("model", "training", "key"),
    [
        ({"other_classes": 0.5}, {}, "teachers.model.other_classes"),
        ({"softmax": "all", "other_classes": 0.5}, {}, "teachers.training.sampling"),
        ({}, {"augment": {"erase": 0.5}}, "teachers.training.augment.erase"),
        ({}, {"augment": CROPPED, "standardize": True}, "teachers.training.standardize"),
        ({"name": "linear_pixels"}, {"augment": CROPPED}, "teachers.training.augment"),
        (
            {"name": "test_resnet", "backbone": None},
            {"sampling": "independent"},
            "teachers.training.sampling",
        ),
        ({}, {"schedule": "constant", "schedule_steps": 9}, "teachers.training.schedule_steps"),
    ],
)
def test_what_cannot_be_combined_is_refused(
    model: dict[str, object], training: dict[str, object], key: str
) -> None:
    tree = {
        "data": {"source": "digits"},
        "teachers": {
            "model": {**FEATURES, **model},
            "training": {"steps": 3, "optimizer": "adam", **training},
        },
        "student": {"backbone": {"name": "resnet18", "weights": None}},
    }
    (error,) = mistakes_of(check_config, tree)
    assert key_of(error) == key


def test_hashes_of_sections_hold_when_settings_are_added() -> None:
    """Stored teachers are found again by a hash of their settings."""
    plain = {"name": "x", "weights": "pretrained", "image_size": None}
    assert BackboneSection(name="x").hashed() == plain
    assert BackboneSection(name="x", crop_pct=0.5).hashed() == {**plain, "crop_pct": 0.5}
    model = section().model
    assert {"softmax", "other_classes"}.isdisjoint(model.hashed())
    assert model.hashed()["backbone"] == {"name": "test_resnet", "weights": None, "image_size": 32}
    assert {"schedule_steps", "sampling"}.isdisjoint(section().training.hashed())
    assert section(sampling="independent").training.hashed()["sampling"] == "independent"


def test_teachers_of_augmented_images_are_not_trained_again_to_fit_the_team() -> None:
    """So the student's features of teacher_train are not computed either."""
    splits = {"teacher_train": 0.4, "student_train": 0.4, "test": 0.2}
    read = {}
    for augment in ({}, CROPPED):
        config = check_config(
            {
                "data": {"source": "digits", "limit": 200, "splits": splits},
                "teachers": {
                    "model": FEATURES,
                    "training": {"steps": 3, "optimizer": "adam", "augment": augment},
                },
                "student": {"backbone": BACKBONE},
                "controls": ["ceiling"],
            }
        )
        found = feature_splits(config, load_data(config.data, seed=0, workers=1, cache=None))
        read[bool(augment)] = "teacher_train" in found
    assert read == {False: True, True: False}
