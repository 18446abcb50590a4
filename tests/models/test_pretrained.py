"""Pretrained classifiers keep their own classes, which are merged exactly."""

from pathlib import Path

import pytest
import timm
import torch
from helpers.user_errors import error_of
from torch import nn

from cosup.files import save_tensors
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.pretrained import (
    MergedClassifier,
    class_names,
    plain_name,
    pretrained_classifier,
    restored_classifier,
)

TINY = "test_resnet"
GROUPS = torch.tensor([2, -1, 0, 2, -1, 2, 0])
IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)


def tiny(outputs: int = 7, name: str = TINY) -> Classifier:
    return build_classifier(name, outputs, None, 32, seed=1)


def test_merged_classes_have_the_sums_of_their_parts() -> None:
    """Checked in float64 against sums of probabilities; the class without parts has none."""
    classifier = tiny()
    merged = MergedClassifier(classifier, GROUPS, 3).eval()
    with torch.no_grad():
        parts = classifier(IMAGES).double().softmax(1)
        found = merged(IMAGES).exp()
    expected = torch.stack([parts[:, c == GROUPS].sum(1) for c in range(3)], 1)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    assert (found[:, 1] == 0).all()


def test_merging_keeps_what_is_tiny_beside_other_classes() -> None:
    """Logits that differ by hundreds still tell the merged classes apart."""
    merged = MergedClassifier(tiny(), GROUPS, 3)
    logits = torch.tensor([[-400.0, 300.0, -401.0, -400.0, 0.0, -500.0, -500.0]])
    merged.model = Fixed(logits)
    found = merged.logits(torch.zeros(1, 3, 2, 2))
    expected = logits.double()[0, GROUPS == 2].logsumexp(0) - logits.double().logsumexp(1)
    torch.testing.assert_close(found[0, 2].double(), expected[0], rtol=1e-6, atol=1e-4)
    assert found[0, 2] > found[0, 0] > -torch.inf


class Fixed(nn.Module):
    """Returns the same logits for every image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.fixed = logits

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.fixed


def test_feature_maps_of_a_merged_classifier_are_those_of_its_network() -> None:
    classifier = tiny()
    merged = MergedClassifier(classifier, GROUPS, 3).eval()
    pixels = merged.pixels(IMAGES)
    with torch.no_grad():
        own, theirs = merged.outputs(pixels), classifier.outputs(pixels)
        assert torch.equal(own.logits, merged.logits(pixels))
    assert all(torch.equal(a, b) for a, b in zip(own.maps, theirs.maps, strict=True))
    assert merged.shapes() == classifier.shapes()


@pytest.mark.parametrize("name", [TINY, "test_vit", "cifar_resnet8", "torchvision:resnet18"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_says_how_many_classes_there_are(name: str, prefix: str, tmp_path: Path) -> None:
    size = 160 if name == "test_vit" else 32
    classifier = build_classifier(name, 7, None, size, seed=2)
    state = {f"{prefix}{key}": t for key, t in classifier.model.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    save_tensors(path, state)
    found = pretrained_classifier(name, str(path), size)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(found(images), classifier(images))
    again = restored_classifier(name, found.model.state_dict(), size)
    assert again.num_classes == found.num_classes == 7


def test_a_file_of_another_network_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, tiny(name="cifar_resnet8").model.state_dict())
    assert str(path) in str(error_of(pretrained_classifier, TINY, str(path), 32))
    assert "nowhere" in str(error_of(pretrained_classifier, TINY, "nowhere.pt", 32))


def test_without_a_file_the_published_weights_are_asked_for() -> None:
    """They keep their classifier; here no network has any."""
    assert error_of(pretrained_classifier, "cifar_resnet8", None, None).value == "cifar_resnet8"
    assert "resnet99" in str(error_of(pretrained_classifier, "resnet99", None, None))


def test_published_weights_keep_their_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's download is replaced by its random start."""
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **settings: object) -> nn.Module:
        assert pretrained
        return create(name, **settings)

    monkeypatch.setattr(timm, "create_model", offline)
    found = pretrained_classifier("test_resnet.r160_in1k", None, None)
    assert found.num_classes == 1000
    assert found(torch.zeros(1, 3, 160, 160, dtype=torch.uint8)).shape == (1, 1000)


def test_a_tag_tells_the_input_with_and_without_its_weights() -> None:
    """A restored teacher must see images as its published weights did."""
    state = tiny().model.state_dict()
    names = ["vit_tiny_patch16_224.augreg_in21k", "test_resnet.r160_in1k"]
    published = {name: timm.get_pretrained_cfg(name) for name in names}
    found = restored_classifier(names[1], state, None)
    assert found.input.mean == published[names[1]].mean
    assert found.input.size == published[names[1]].input_size[1]


def test_names_of_imagenets_classes() -> None:
    names = class_names(tiny(1000))
    assert names is not None
    assert {"tabby", "tabby cat", "n02123045"} <= names[281]
    assert plain_name("Tiger_ cat") in names[282]
    assert class_names(tiny(12)) is None


def test_names_of_a_hubs_description() -> None:
    classifier = tiny(2)
    classifier.model.pretrained_cfg = {"label_names": ["Left_shoe", "bag"]}
    assert class_names(classifier) == [{"left shoe"}, {"bag"}]
