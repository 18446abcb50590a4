"""Live teachers annotate each image with its assigned teacher and are never modified."""

import re
from typing import cast

import pytest
import torch
from helpers.user_errors import error_of
from teacher_helpers import finest, teachers_section
from torch import Tensor
from torch.nn import functional

from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.models.classifier import build_classifier
from cosup.models.compute import Compute
from cosup.models.heads import HeadBank
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache, FeatureSource
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.linear import LinearFeatures, LinearPixels
from cosup.teachers.live import LiveTeachers
from cosup.teachers.network import NetworkTeacher

CPU = torch.device("cpu")


def network(
    name: str,
    classes: tuple[int, ...] | None = None,
    model: str = "cifar_resnet20",
    size: int = 16,
    seed: int = 0,
) -> NetworkTeacher:
    classifier = build_classifier(model, 10, image_size=size, seed=seed)
    spec = TeacherSpec(name, 0, classes, None)
    return NetworkTeacher(spec, classifier, Compute(CPU), 0)


@pytest.fixture
def teachers() -> list[NetworkTeacher]:
    return [
        network("low", (0, 1, 2, 3, 4), seed=1),
        network("high", (5, 6, 7, 8, 9), seed=2),
        network("all", None, seed=3),
    ]


@pytest.fixture
def images(data: ImageData, teachers: list[NetworkTeacher]) -> Tensor:
    rows = data.rows("student_train")[:12]
    return torch.cat(list(image_batches(data, rows, teachers[0].transform, 12, 1)))


def test_each_image_gets_its_own_teachers_annotation(
    teachers: list[NetworkTeacher], images: Tensor
) -> None:
    live = LiveTeachers(teachers, Compute())
    asked = torch.tensor([0, 2, 1, 1, 0, 2, 2, 0, 1, 0, 0, 1])
    outputs = live(images.float(), asked)
    assert outputs.embedding is not None
    assert live.shapes.maps == tuple(tuple(m.shape[1:]) for m in outputs.maps)
    assert outputs.embedding.shape == (12, live.shapes.embedding)
    for number, teacher in enumerate(teachers):
        own = asked == number
        expected = teacher.annotate(images[own])
        torch.testing.assert_close(outputs.logits[own].exp(), expected, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(outputs.logits[own].softmax(1), expected, rtol=1e-4, atol=1e-7)
        alone = teacher.classifier.outputs(teacher.classifier.pixels(images[own]))
        torch.testing.assert_close(outputs.embedding[own], alone.embedding)
        for ours, theirs in zip(outputs.maps, alone.maps, strict=True):
            torch.testing.assert_close(ours[own], theirs)
    assert torch.isfinite(outputs.logits).all()
    assert (outputs.logits[asked == 0][:, 5:] < -87).all()


def test_each_teacher_runs_once_on_its_own_images(
    teachers: list[NetworkTeacher], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveTeachers(teachers, Compute())
    sizes: list[tuple[str, int]] = []
    for teacher in teachers:
        teacher.classifier.model.register_forward_hook(lambda *_: None)
        outputs = teacher.classifier.outputs

        def counted(pixels: Tensor, name: str = teacher.name, outputs: object = outputs) -> object:
            sizes.append((name, len(pixels)))
            return outputs(pixels)  # type: ignore[operator]

        monkeypatch.setattr(teacher.classifier, "outputs", counted)
    live(images.float(), torch.tensor([0] * 5 + [2] * 7))
    assert sizes == [("low", 5), ("all", 7)]


def test_images_without_a_teacher_have_zero_outputs(
    teachers: list[NetworkTeacher], images: Tensor
) -> None:
    live = LiveTeachers(teachers, Compute())
    outputs = live(images.float(), torch.tensor([-1, 0] * 6))
    unassigned = live(images.float(), torch.full((12,), -1))
    for one, rows in ((outputs, slice(0, None, 2)), (unassigned, slice(None))):
        assert one.embedding is not None
        assert not any(bool(t[rows].any()) for t in (one.logits, one.embedding, *one.maps))
    assert [m.shape for m in unassigned.maps] == [m.shape for m in outputs.maps]
    assert outputs.logits[1].exp().sum() == pytest.approx(1)


def test_images_of_another_size_are_resized(teachers: list[NetworkTeacher], images: Tensor) -> None:
    live = LiveTeachers(teachers, Compute())
    large = functional.interpolate(images.float(), scale_factor=3.0, mode="nearest")
    wanted = functional.interpolate(large, size=(16, 16), mode="bilinear", antialias=True)
    asked = torch.full((12,), 2)
    torch.testing.assert_close(live(large, asked).logits, live(wanted, asked).logits)


def test_teachers_are_not_modified(teachers: list[NetworkTeacher], images: Tensor) -> None:
    before = [teacher.identity for teacher in teachers]
    live = LiveTeachers(teachers, Compute())
    parent = torch.nn.ModuleList([live]).train()
    pixels = images.float().requires_grad_()
    outputs = parent[0](pixels, torch.tensor([0, 1, 2] * 4))
    assert not any(module.training for module in live.modules())
    assert not any(parameter.requires_grad for parameter in live.parameters())
    assert not outputs.logits.requires_grad
    fresh = [network(t.name, t.spec.classes, seed=n + 1) for n, t in enumerate(teachers)]
    assert before == [teacher.identity for teacher in fresh]
    for teacher, other in zip(teachers, fresh, strict=True):
        for key, tensor in teacher.state().items():
            assert torch.equal(tensor, other.state()[key]), key
    # The outputs are constants in the student's loss; the gradient of `weight` must pass.
    weight = torch.ones(64, requires_grad=True)
    torch.autograd.backward((outputs.embedding * weight).sum())
    assert weight.grad is not None


def test_bfloat16_is_close(teachers: list[NetworkTeacher], images: Tensor) -> None:
    asked = torch.tensor([0, 1, 2] * 4)
    full = LiveTeachers(teachers, Compute())(images.float(), asked)
    half = LiveTeachers(teachers, Compute(precision="bfloat16"))(images.float(), asked)
    assert half.logits.dtype == torch.float32
    torch.testing.assert_close(half.logits.exp(), full.logits.exp(), rtol=0.1, atol=0.02)


def test_annotations_need_no_feature_maps(images: Tensor) -> None:
    """Networks of different shapes, or without feature maps, can still annotate."""
    teachers: list[Teacher] = [
        network("one", (0, 1)),
        network("two", None, "cifar_vgg8"),
        network("three", None, "torchvision:mobilenet_v3_small", 32),
    ]
    live = LiveTeachers(teachers, Compute(), features=False)
    outputs = live(images.float(), torch.tensor([0, 1, 2] * 4))
    assert outputs.maps == ()
    assert outputs.embedding is None
    torch.testing.assert_close(outputs.logits.exp().sum(1), torch.ones(12))
    expected = teachers[1].annotate(images[1::3])
    torch.testing.assert_close(outputs.logits[1::3].exp(), expected, rtol=1e-4, atol=1e-7)
    assert not live(images.float(), torch.full((12,), -1)).logits.any()


def test_teachers_with_different_feature_maps_are_refused() -> None:
    pair = [network("wide", None, "cifar_vgg8"), network("thin", None, "cifar_resnet20")]
    error = error_of(LiveTeachers, pair, Compute())
    assert error.key == ("teachers", "hierarchy")
    assert re.search(r"'wide' and 'thin'.*64x16x16.*16x16x16.*64 features", str(error))
    sizes = [network("small", size=16), network("large", size=32)]
    assert re.search(r"'small'.*'large'", str(error_of(LiveTeachers, sizes, Compute())))


def test_teachers_that_are_not_networks_are_refused(
    data: ImageData, features: FeatureCache
) -> None:
    section = teachers_section(training={"steps": 2})
    specs = finest(section, data)[:1]
    (linear,) = LinearPixels.train(specs, Training(section, data, 0, features))
    pixels = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    for error in (error_of(LiveTeachers, [linear], Compute()), error_of(linear.embed, pixels)):
        assert error.key == ("teachers", "model", "name")
        assert error.value == "linear_pixels"
        assert error.allowed is not None
        assert "network" in error.allowed
        assert f"'{linear.name}'" in str(error)


def test_the_embedding_of_a_linear_model_is_its_features() -> None:
    head = HeadBank(torch.randn(1, 10, 4), bias=torch.zeros(1, 10))
    source = cast("FeatureSource", None)  # required by the constructor, not read here
    teacher = LinearFeatures(TeacherSpec("one", 0), head, source, 0)
    features = torch.randn(3, 4).half()
    embedded = teacher.embed(features)
    assert embedded.dtype == torch.float32
    assert torch.equal(embedded, features.float())


def test_the_embedding_of_a_network_is_the_input_of_its_last_layer(
    teachers: list[NetworkTeacher], images: Tensor
) -> None:
    teacher = teachers[0]
    embedded = teacher.embed(images)
    assert embedded.shape == (12, 64)
    assert embedded.dtype == torch.float32
    weights = teacher.state()
    logits = (embedded @ weights["fc.weight"].T + weights["fc.bias"])[:, :5]
    torch.testing.assert_close(
        teacher.annotate(images)[:, :5], logits.softmax(1), rtol=1e-4, atol=1e-6
    )
