"""CLIP's image encoders: features and transforms are open_clip's own, whatever way the weights are
named; and what can't be had is explained in one line."""

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from helpers.tiny_clip import PREPROCESS, SHORT, VISION, architecture, random_clip, write_clip
from huggingface_hub import constants
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from cosup.data.transforms import eval_transform
from cosup.errors import UserError
from cosup.files import save_tensors, write_json
from cosup.models.backbone import Backbone, load_backbone
from cosup.models.classifier import build_classifier, load_checkpoint
from cosup.models.clip_source import checkpoint_in, quiet
from cosup.models.images import Pixels
from cosup.models.optimize import build_network_optimizer
from cosup.models.section import BackboneSection
from cosup.models.training_section import TrainingSection
from cosup.runs.logs import log_to_console

CPU = torch.device("cpu")
TIMM = {"timm_model_name": "test_vit3", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": architecture(text=SHORT),
    "resnet": architecture({"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}, SHORT),
    "timm_vit": architecture(TIMM, SHORT, custom_text=True),
    "timm_resnet": architecture(
        {"timm_model_name": "test_resnet", "timm_proj": "mlp", "image_size": 64}, SHORT
    ),
    "coca": architecture(
        {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        {**SHORT, "embed_cls": True, "output_tokens": True},
        custom_text=True,
        multimodal_cfg={
            "context_length": 8,
            "vocab_size": 8,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    ),
}


def load(name: str, weights: str | None = "pretrained", image_size: int | None = None) -> Backbone:
    section = BackboneSection(name=f"open_clip:{name}", weights=weights, image_size=image_size)
    return load_backbone(section)


def images(size: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, size, size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def encoded(model: Any, pixels: Tensor, preprocess: dict[str, Any] = PREPROCESS) -> Tensor:
    """open_clip's own features, not normalised."""
    mean, std = (torch.tensor(preprocess[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        features: Tensor = model.encode_image((pixels / 255 - mean) / std, normalize=False)
    return features


def error_of(name: str, weights: str | None = "pretrained", image_size: int | None = None) -> str:
    """The one line of the mistake."""
    with pytest.raises(UserError) as caught:
        load(name, weights, image_size)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700, text
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP; nothing is changed in it."""
    path = tmp_path_factory.mktemp("clip")
    write_clip(path, TOWERS["vit"])
    return path


@pytest.fixture
def registered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, Any]]:
    """`tiny` and `tiny-quickgelu` among open_clip's models, and their tags, to which a test may add
    (each gets the folder's weights)."""
    file = str(folder / "open_clip_model.safetensors")
    tags: dict[str, dict[str, Any]] = {"plain": {"file": file}}
    models = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(models, "tiny", TOWERS["vit"])
    monkeypatch.setitem(models, "tiny-quickgelu", {**TOWERS["vit"], "quick_gelu": True})
    for name in ("tiny", "tiny-quickgelu"):
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
    return tags


@torch.inference_mode()
@pytest.mark.parametrize("tower", TOWERS)
def test_features_are_those_of_open_clip(tower: str, tmp_path: Path) -> None:
    model = write_clip(tmp_path, TOWERS[tower])
    backbone = load(str(tmp_path))
    size = TOWERS[tower]["vision_cfg"]["image_size"]
    assert (backbone.input.size, backbone.num_features) == (size, 32)
    pixels = images(size)
    features = backbone(pixels)
    torch.testing.assert_close(features, encoded(model, pixels), rtol=1e-4, atol=1e-5)
    assert features.std(0).min() > 0  # the two images are told apart
    assert backbone.logit_scale == pytest.approx(math.exp(3.0))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("tower", "size"), [("vit", 42), ("coca", 14), ("timm_vit", 192), ("timm_resnet", 96)]
)
def test_another_image_size_is_open_clips_with_that_size(
    tower: str, size: int, tmp_path: Path
) -> None:
    """Position embeddings are resized as open_clip resizes them."""
    write_clip(tmp_path, TOWERS[tower])
    backbone = load(str(tmp_path), image_size=size)
    assert backbone.input.size == size
    model = open_clip.create_model(f"local-dir:{tmp_path}", force_image_size=size).eval()
    pixels = images(size)
    torch.testing.assert_close(backbone(pixels), encoded(model, pixels), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(("tower", "size"), [("vit", 42), ("timm_vit", 192)])
def test_an_encoder_saved_at_another_size_is_loaded_at_that_size(
    tower: str, size: int, tmp_path: Path
) -> None:
    """Trained or exported there, with position embeddings that are resized already."""
    write_clip(tmp_path, TOWERS[tower])
    resized = load(str(tmp_path), image_size=size)
    save_tensors(tmp_path / "resized.safetensors", resized.model.state_dict())
    again = load(str(tmp_path), str(tmp_path / "resized.safetensors"), image_size=size)
    assert torch.equal(again(images(size)), resized(images(size)))
    bare = build_classifier(f"open_clip:{tmp_path}", 3, None, size)
    bare.model.visual.load_state_dict(resized.model.visual.state_dict())  # type: ignore[operator]


@pytest.mark.parametrize(
    ("tower", "size", "words"),
    [
        ("resnet", 96, ["attnpool.positional_embedding", "image_size 96"]),
        ("timm_vit", 8, ["image_size: 8"]),
    ],
)
def test_an_image_size_that_the_encoder_cannot_take_is_one_line(
    tower: str, size: int, words: list[str], tmp_path: Path
) -> None:
    write_clip(tmp_path, TOWERS[tower])
    text = error_of(str(tmp_path), image_size=size)
    assert str(tmp_path) in text
    assert [word for word in words if word not in text] == [], text


def digit(index: int, width: int, height: int) -> Image.Image:
    """A scanned digit, in three shades, as an RGB image of this size."""
    grey = load_digits().images[index]
    rgb = np.stack([grey * 15.9, 255 - grey * 12, grey.T * 8], 2).astype(np.uint8)
    return Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "preprocess",
    [
        {},
        PREPROCESS,
        {"resize_mode": "squash", "interpolation": "bilinear"},
        {"resize_mode": "shortest", "interpolation": "bilinear", "mean": 0.5, "std": [0.5] * 3},
        {"resize_mode": "squash", "interpolation": "random", "mean": None, "fill_color": 0},
    ],
)
def test_images_are_prepared_as_open_clip_prepares_them(
    preprocess: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    """Real images, wider and higher, larger and smaller than the network reads."""
    described = json.loads((folder / "open_clip_config.json").read_text())
    write_json(tmp_path / "open_clip_config.json", {**described, "preprocess_cfg": preprocess})
    backbone = load(str(tmp_path), weights=None)
    _, _, oracle = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    assert len(backbone.input.mean) == len(backbone.input.std) == 3
    ours = eval_transform(backbone.input)
    for number, (width, height) in enumerate([(28, 28), (61, 40), (37, 90), (20, 11), (28, 33)]):
        image = digit(number, width, height)
        pixels = Pixels(backbone.input)(ours(image)[None])[0]
        torch.testing.assert_close(pixels, oracle(image), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_weights_may_be_named_in_any_way(
    folder: Path,
    tmp_path: Path,
    registered: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = str(folder / "open_clip_model.safetensors")
    model = random_clip(folder, seed=0)
    openai = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    pixels = images(28)
    monkeypatch.chdir(tmp_path)
    Path("here").symlink_to(folder)
    Path("tiny").mkdir()  # a model's own name is not the folder
    Path("a@b").symlink_to(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name, weights in (
        (str(folder), "pretrained"),
        ("here", "pretrained"),
        ("a@b", "pretrained"),
        (f"~/{folder.name}", "pretrained"),
        (f"local-dir:{folder}", "pretrained"),
        (str(folder), file),
        (f"{folder}@{file}", "pretrained"),
        (f"tiny@{file}", "pretrained"),
        (f"tiny@~/{folder.name}/open_clip_model.safetensors", "pretrained"),
        ("tiny@plain", "pretrained"),
        ("tiny", file),
    ):
        backbone = load(name, weights)
        expected = encoded(model, pixels, openai if name.startswith("tiny") else PREPROCESS)
        torch.testing.assert_close(backbone(pixels), expected, rtol=1e-4, atol=1e-5)
        assert backbone.logit_scale == pytest.approx(math.exp(3.0)), name


def test_null_is_a_random_start_the_same_every_time(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = load(str(folder), weights=None)
    assert torch.equal(torch.rand(1), expected)  # no other stream is disturbed
    again = load(str(folder), weights=None)
    assert first.identity == again.identity
    assert torch.equal(first(images(28)), again(images(28)))
    assert first.logit_scale == pytest.approx(1 / 0.07)
    assert first.identity != load(str(folder)).identity


def test_the_identity_changes_with_any_weight_of_the_image_encoder(
    folder: Path, tmp_path: Path
) -> None:
    state = random_clip(folder).state_dict()
    found = {}
    for name, key in (
        ("same", None),
        ("text", "token_embedding.weight"),
        ("visual", "visual.ln_post.bias"),
    ):
        changed = dict(state)
        if key is not None:
            changed[key] = changed[key] + 1e-6
        save_tensors(tmp_path / f"{name}.safetensors", changed)
        found[name] = load(str(folder), str(tmp_path / f"{name}.safetensors")).identity
    assert found["same"] == found["text"] == load(str(folder)).identity != found["visual"]


@torch.inference_mode()
def test_a_checkpoint_of_the_image_encoder_alone_is_enough_and_no_text_encoder_is_built(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the text encoder was built")

    model = random_clip(folder)
    own = {k: t for k, t in model.state_dict().items() if k.startswith("visual.")}
    save_tensors(tmp_path / "visual.safetensors", own)
    monkeypatch.setattr(open_clip.model, "_build_text_tower", refuse)
    backbone = load(str(folder), str(tmp_path / "visual.safetensors"))
    pixels = images(28)
    torch.testing.assert_close(backbone(pixels), encoded(model, pixels), rtol=1e-4, atol=1e-5)
    assert backbone.logit_scale == pytest.approx(1 / 0.07)  # CLIP's start: it holds none


@pytest.mark.parametrize("wrap", ["", "state_dict", "model"])
def test_checkpoints_as_training_leaves_them(wrap: str, folder: Path, tmp_path: Path) -> None:
    """Of distributed training (`module.`), in half precision, with the optimiser beside them."""
    state = {f"module.{k}": t.bfloat16() for k, t in random_clip(folder).state_dict().items()}
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "epoch_3.pt")
    backbone = load(str(folder), str(tmp_path / "epoch_3.pt"))
    difference = backbone(images(28)) - load(str(folder))(images(28))
    assert 0 < difference.abs().max() < 0.1
    assert backbone.logit_scale == pytest.approx(math.exp(3.0))
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}


@torch.inference_mode()
def test_quickgelu_is_that_of_the_weights(
    folder: Path, registered: dict[str, dict[str, Any]]
) -> None:
    registered["openai"] = {**registered["plain"], "quick_gelu": True, **PREPROCESS}
    pixels = images(28)
    quick = open_clip.create_model("tiny", "openai", force_quick_gelu=True).eval()
    plain = open_clip.create_model("tiny", "plain").eval()
    expected = encoded(quick, pixels)
    assert (expected - encoded(plain, pixels)).abs().max() > 1e-3
    for name in ("tiny@openai", "tiny-quickgelu@openai"):
        torch.testing.assert_close(load(name)(pixels), expected, rtol=1e-4, atol=1e-5)
    text = error_of("tiny-quickgelu@plain")
    assert "without QuickGELU" in text
    assert "'open_clip:tiny-quickgelu@plain'" in text


@torch.inference_mode()
def test_a_network_that_was_trained_from_a_tag_is_built_again_as_it_was(
    registered: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """An exported student, a teacher or a resumed run builds it without weights (null) and loads
    its own: QuickGELU and the way images are prepared must still be those of the tag."""
    registered["odd"] = {
        **registered["plain"],
        **PREPROCESS,
        "quick_gelu": True,
        "resize_mode": "squash",
    }
    trained = build_classifier("open_clip:tiny@odd", 3, "pretrained")
    registered["odd"]["file"] = str(tmp_path / "gone.pt")  # nothing is read or downloaded
    again = build_classifier("open_clip:tiny@odd", 3, None, seed=1)
    assert again.input == trained.input
    assert again.input.squash
    again.model.load_state_dict(trained.model.state_dict())
    assert torch.equal(again(images(28)), trained(images(28)))
    file = build_classifier(f"open_clip:tiny@{tmp_path}/gone.pt", 3, None)
    assert file(images(28)).shape == (2, 3)


def test_timms_towers_never_fetch_timms_own_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    write_clip(tmp_path, architecture({**TIMM, "timm_model_pretrained": True}, SHORT))
    for weights in ("pretrained", None):
        assert load(str(tmp_path), weights).num_features == 32


def test_a_whole_clip_is_fine_tuned(folder: Path, tmp_path: Path) -> None:
    name = f"open_clip:{folder}"
    classifier = build_classifier(name, 5, "pretrained")
    pixels, labels = images(28, 6), torch.arange(6) % 5
    torch.testing.assert_close(classifier.embed(pixels), load(str(folder))(pixels))
    training = TrainingSection(steps=3, lr=1e-3, weight_decay=0.1)
    optimizer = build_network_optimizer(classifier.train(), training)
    named = {id(p): n for n, p in classifier.model.named_parameters()}
    undecayed = {
        named[id(p)] for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]
    }
    assert {"visual.class_embedding", "visual.positional_embedding"} <= undecayed
    assert not {"visual.proj", "visual.conv1.weight", "head.weight"} & undecayed
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(classifier(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in classifier.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    torch.save(classifier.model.state_dict(), tmp_path / "trained.pt")
    again = build_classifier(name, 5, None, seed=3)
    load_checkpoint(again, tmp_path / "trained.pt")
    assert torch.equal(again(pixels), classifier.eval()(pixels))
    with pytest.raises(UserError, match=r"head\.weight is 5x32, the model's is 6x32"):
        load_checkpoint(build_classifier(name, 6, None), tmp_path / "trained.pt")


def test_what_fine_tuning_cannot_do_with_a_clip_is_one_line(folder: Path) -> None:
    name = f"open_clip:{folder}"
    classifier = build_classifier(name, 5)
    with pytest.raises(UserError, match=r"no stochastic depth.*0\.1 \(allowed: .*: 0\)$"):
        build_classifier(name, 5, drop_path=0.1)
    with pytest.raises(UserError, match=r"^layer_decay: 0\.5: .*'open_clip:.*\(allowed: null\)$"):
        build_network_optimizer(classifier, TrainingSection(steps=1, layer_decay=0.5))
    with pytest.raises(UserError, match=r"^network 'open_clip:.* gives no feature maps.*\)$"):
        classifier.shapes()


MISTAKES: dict[str, tuple[str, str | None, list[str]]] = {
    "unknown model": (
        "ViT-B-23",
        "pretrained",
        ["'ViT-B-23'", "did you mean 'ViT-B-32'", "of open_clip.list_models()", "or a folder"],
    ),
    "no such folder": ("outputs/none", "pretrained", ["'outputs/none'", "or a folder"]),
    "no weights named": (
        "ViT-B-32",
        "pretrained",
        ["'open_clip:ViT-B-32'", "which weights", "ViT-B-32@TAG", "openai", "weights: null"],
    ),
    "no tag at all": ("ViT-S-32-alt", "pretrained", ["no tag known", "@FILE"]),
    "unknown tag": (
        "ViT-B-32@opanai",
        "pretrained",
        ["weights of open_clip's ViT-B-32 'opanai'", "mean 'openai'", "a file"],
    ),
    "tag and weights": (
        "ViT-B-32@openai",
        "own.safetensors",
        ["names its weights", "'own.safetensors'", "pretrained, or null"],
    ),
    "a tag as weights": (
        "ViT-B-32",
        "openai",
        ["'openai' is a tag", "allowed: open_clip:ViT-B-32@openai"],
    ),
    "no file": ("ViT-B-32", "no.pt", ["'no.pt'", "no such file"]),
    "no package": ("ViT-B-32", "package:no_such", ["'package:no_such'", "pip install"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_names_are_explained(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> nn.Module:
        return nn.Identity()  # the real one is large

    monkeypatch.setattr(open_clip.model, "_build_vision_tower", none)
    name, weights, words = MISTAKES[case]
    text = error_of(name, weights)
    assert [word for word in words if word not in text] == [], text


def test_the_models_are_not_all_listed() -> None:
    text = error_of("ViT-B-23")
    listed = [name for name in open_clip.list_models() if f" {name}" in text]
    assert len(listed) <= 3
    assert str(len(open_clip.list_models())) in text
    assert "did you mean" not in error_of("zzzz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, ["no file", "open_clip_config.json"]),
        ("{", ["open_clip_config.json", "is not readable"]),
        ("[1]", ["no model_cfg", "embed_dim"]),
        ("{}", ["no model_cfg"]),
        ({"model_cfg": {"embed_dim": 32, "vision_cfg": VISION}}, ["no model_cfg", "text_cfg"]),
        ({"model_cfg": architecture(text=SHORT), "preprocess_cfg": [1]}, ["preprocess_cfg"]),
        ({"model_cfg": architecture({**VISION, "widht": 8}, SHORT)}, ["widht", "cannot build"]),
        ({"model_cfg": architecture({**VISION, "width": 65}, SHORT)}, ["cannot build"]),
        ({"model_cfg": architecture({**VISION, "head_width": 0}, SHORT)}, ["cannot build"]),
        (
            {"model_cfg": architecture({**VISION, "image_size": [28, 35]}, SHORT)},
            ["28, 35", "square"],
        ),
        (
            {"model_cfg": architecture({"timm_model_name": "no_such_vit"}, SHORT)},
            ["no_such_vit", "cannot build"],
        ),
        (
            {
                "model_cfg": architecture(text=SHORT),
                "preprocess_cfg": {"resize_mode": "longest"},
            },
            ["resize_mode 'longest'", "allowed: shortest, squash"],
        ),
        (
            {
                "model_cfg": architecture(text=SHORT),
                "preprocess_cfg": {"interpolation": "lanczos"},
            },
            ["interpolation 'lanczos'", "allowed: bicubic, bilinear"],
        ),
    ],
)
def test_a_folder_that_is_not_one_of_open_clips_is_explained(
    change: Any, words: list[str], tmp_path: Path
) -> None:
    if isinstance(change, str):
        (tmp_path / "open_clip_config.json").write_text(change)
    elif change is not None:
        write_json(tmp_path / "open_clip_config.json", change)
    text = error_of(str(tmp_path), weights=None)
    assert str(tmp_path) in text
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("text.safetensors", ["not a safetensors file"]),
        ("text.pt", ["not a state dict"]),
        ("other.txt", ["unknown ending '.txt'"]),
        ("alien.pt", ["no image encoder of open_clip (visual.", "alien.pt"]),
        ("wider.safetensors", ["do not fit", "64"]),
        ("resnet.safetensors", ["do not fit"]),
        ("shorter.safetensors", ["do not fit", "is missing"]),
    ],
)
def test_weights_that_do_not_fit_are_explained(
    file: str, words: list[str], folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / file
    if file.startswith(("text", "other")):
        path.write_text("hello")
    elif file == "alien.pt":
        torch.save({"conv.weight": torch.zeros(8, 3, 3, 3)}, path)
    else:
        change: dict[str, Any] = {"wider": {"width": 128}, "shorter": {"layers": 1}}
        vision = {**VISION, **change.get(path.stem, {})}
        if path.stem == "resnet":
            vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
        write_clip(tmp_path / "other", architecture(vision, SHORT))
        (tmp_path / "other" / "open_clip_model.safetensors").rename(path)
    text = error_of(str(folder), str(path))
    assert str(path) in text
    assert [word for word in words if word not in text] == [], text


def test_a_folder_without_weights_may_start_at_random_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    assert load(str(tmp_path), weights=None).num_features == 32
    assert f"folder '{tmp_path}' holds no weights" in error_of(str(tmp_path))


def test_a_repository_of_the_hub_is_loaded_as_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repo_id: str, filename: str, **_: Any) -> str:
        assert repo_id == "somebody/clip"
        if not (folder / filename).is_file():
            raise FileNotFoundError(filename)
        return str(folder / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", download)
    found, expected = load("hf-hub:somebody/clip"), load(str(folder))
    assert torch.equal(found(images(28)), expected(images(28)))


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["a.pth", "b.bin"],
        ["b.safetensors", "a.pth", "c.safetensors"],
        ["a.safetensors", "pytorch_model.bin"],
        ["model.pth", "model.safetensors", "open_clip_pytorch_model.bin"],
        ["model.json"],
    ],
)
def test_the_checkpoint_in_a_folder_is_the_one_open_clip_chooses(
    names: list[str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    found, expected = checkpoint_in(tmp_path), open_clip.factory._find_checkpoint_in_dir(tmp_path)
    assert (None if found is None else str(found)) == expected


@pytest.mark.parametrize("name", ["hf-hub:nobody/nothing", "ViT-B-32@laion2b_s34b_b79k"])
def test_a_download_that_fails_says_how_to_give_a_file(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    text = error_of(name)
    assert f"'open_clip:{name}' cannot be downloaded" in text
    assert "set weights to a file" in text


def test_without_open_clip_the_error_says_how_to_install_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    text = error_of(str(folder))
    assert text.endswith("needs open_clip, which is not installed (pip install '.[clip]')")


def test_open_clip_sets_up_no_logging_and_says_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It logs to the root logger, which would then print all that cosup logs a second time."""
    monkeypatch.setattr(logging.root, "handlers", [])
    with log_to_console():
        load(str(folder), image_size=42)
        load(str(folder), weights=None)
        with pytest.raises(UserError), quiet():
            raise UserError("while it is quiet")
        logging.getLogger("cosup.models.clip").warning("once")
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(" warning: once")
    assert logging.root.handlers == []
    assert logging.root.manager.disable == logging.NOTSET
