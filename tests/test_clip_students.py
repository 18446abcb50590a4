"""CLIP students on real images: prototypes that start from text, and their training.

A small CLIP of open_clip's own architecture is trained here for a minute on the training part of
Fashion-MNIST, so that text and images align; the runs read its test part, which it has not seen.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from helpers import small_clip
from helpers.idx_files import write_idx
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

import cosup
from cosup.analysis import load_run, tables
from cosup.cli import call

CONFIGS = Path(__file__).parents[1] / "configs"
FASHION = Path(small_clip.FASHION_MNIST)
STEPS, BATCH = 240, 64
IMAGES = 800
"""The first images of the test part, which the runs read in four rotations."""
SMALL = ["teachers.training.steps=150", "student.training.steps=250"]
ROTATIONS = ("rot0", "rot30", "rot60", "rot90")

pytestmark = pytest.mark.skipif(
    not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist isn't installed"
)


@pytest.fixture(scope="module")
def clip(request: pytest.FixtureRequest) -> Path:
    """Return the folder of a small CLIP; pytest caches it, because building it takes a minute."""
    digest = hashlib.sha256(Path(small_clip.__file__).read_bytes()).hexdigest()[:16]
    folder = request.config.cache.mkdir(f"small_clip_{STEPS}_{BATCH}_{digest}")
    if not (folder / "open_clip_config.json").exists():
        images, labels = small_clip.fashion_mnist("train")
        some = slice(0, 12000)
        turned = small_clip.rotated(images[some])
        small_clip.save(small_clip.train(turned, labels[some], STEPS, BATCH), folder)
    return folder


@pytest.fixture(scope="module")
def world(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working directory with the CLIP that the configs use, and the runs to test."""
    root = tmp_path_factory.mktemp("clip")
    shutil.copytree(clip, root / "outputs/small_clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        data = write_some_of_fashion_mnist(root / "fashion_mnist")
        run("fashion_mnist_cpl_zero_shot", data)
        controls = "controls=[zero_shot, best_teacher, oracle_assignment, ceiling]"
        run("fashion_mnist_cpl", data, *SMALL, controls)
    return root


def write_some_of_fashion_mnist(folder: Path) -> str:
    """Write a small test part, as all images of a source are turned; return the setting for it."""
    folder.mkdir()
    images, labels = small_clip.fashion_mnist("test")
    write_idx(folder / "t10k-images-idx3-ubyte", images[:IMAGES, 0].numpy())
    write_idx(folder / "t10k-labels-idx1-ubyte", labels[:IMAGES].numpy().astype(np.uint8))
    return f"data.root={folder}"


def run(name: str, *overrides: str) -> None:
    assert call(["run", str(CONFIGS / f"{name}.yaml"), *overrides]) == 0


def summary(root: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "outputs" / name / "summary.json").read_text())
    return found


def measured(root: Path) -> tuple[list[Image.Image], Tensor]:
    """Return the test images, rotated by PIL, and their labels, without cosup's sources."""
    samples = pd.read_parquet(root / "outputs/fashion_mnist_cpl/samples.parquet")
    samples = samples[samples["split"] == "test"]
    pixels, labels = small_clip.fashion_mnist("test")
    images, truth = [], []
    for name in samples["sample_id"]:
        number, angle = name.removeprefix("test/").split("@")
        image = Image.fromarray(pixels[int(number), 0].numpy())
        images.append(image.rotate(float(angle), Image.Resampling.BICUBIC))
        truth.append(int(labels[int(number)]))
    return images, torch.tensor(truth)


@torch.inference_mode()
def whole_clip(folder: Path, images: list[Image.Image], texts: Tensor | None) -> Tensor:
    """Compute probabilities with open_clip only: its model, preprocessing and zero-shot classifier.

    texts: [C, D] in place of the text features.
    """
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pixels = torch.stack([preprocess(image.convert("RGB")) for image in images])
    if texts is None:
        templates = [
            "a photo of a {}.",
            "a black and white photo of a {}.",
            "a low resolution photo of a {}.",
            "a photo of a {}, a type of clothing.",
        ]
        names = list(small_clip.CLASSES)
        texts = open_clip.build_zero_shot_classifier(model, tokenizer, names, templates).T
    cosine = model.encode_image(pixels, normalize=True) @ normalize(texts, dim=1).T
    return (model.logit_scale.exp() * cosine).softmax(1)


def test_text_and_images_of_the_small_clip_align(world: Path) -> None:
    images, truth = measured(world)
    right = whole_clip(world / "outputs/small_clip", images, None).argmax(1) == truth
    by_angle = right.float().view(len(ROTATIONS), -1).mean(1)
    assert by_angle[:2].min() > 0.5  # chance is 0.1
    assert by_angle[3] < by_angle[:2].min()  # a quarter turn is what it never saw


def test_prototypes_are_zero_shot_before_training(world: Path) -> None:
    images, truth = measured(world)
    expected = whole_clip(world / "outputs/small_clip", images, None)
    student = cosup.load_student(world / "outputs/fashion_mnist_cpl_zero_shot/student", "cpu")
    torch.testing.assert_close(student.predict(images), expected, atol=1e-4, rtol=0)
    accuracy = float((expected.argmax(1) == truth).float().mean())
    # The run reads features in float16.
    untrained = summary(world, "fashion_mnist_cpl_zero_shot")["student"]["accuracy"]
    assert untrained == pytest.approx(accuracy, abs=0.004)
    control = summary(world, "fashion_mnist_cpl")["controls"]["zero_shot"]["accuracy"]
    assert control == untrained


def test_prediction_without_the_text_encoder_equals_that_with_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = measured(world)
    images = images[::10]
    folder = world / "outputs/fashion_mnist_cpl/student"
    prototypes = load_file(folder / "head.safetensors")["weight"][0]
    expected = whole_clip(world / "outputs/small_clip", images, prototypes)
    # By itself, elsewhere, without CLIP's checkpoint, by a library that can't build text encoders.
    shutil.copytree(folder, tmp_path / "student")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(open_clip.model, "_build_text_tower", None)
    found = cosup.load_student("student", "cpu").predict(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    encoder = load_file(tmp_path / "student/open_clip_model.safetensors")
    assert {name.split(".")[0] for name in encoder} == {"visual", "logit_scale"}
    assert "text encoder is not needed" in (folder / "README.md").read_text()


def test_prototypes_alone_are_trained(world: Path) -> None:
    head = load_file(world / "outputs/fashion_mnist_cpl/student/head.safetensors")
    start = load_file(world / "outputs/fashion_mnist_cpl_zero_shot/student/head.safetensors")
    assert set(head) == set(start) == {"weight", "log_scale"}
    scale = load_file(world / "outputs/small_clip/open_clip_model.safetensors")["logit_scale"]
    assert head["log_scale"].item() == start["log_scale"].item() == pytest.approx(scale.item())
    moved = torch.cosine_similarity(head["weight"][0], start["weight"][0], dim=1)
    assert moved.max() < 0.999


def test_several_specialists_teach_prototypes_through_rounds(world: Path) -> None:
    found = summary(world, "fashion_mnist_cpl")
    assert [len(item["teachers"]) for item in found["rounds"]] == [1, 4]
    assert set(found["student"]["per_domain"]) == set(ROTATIONS)
    controls, student = found["controls"], found["student"]["accuracy"]
    assert student > controls["zero_shot"]["accuracy"] + 0.02
    assert controls["ceiling"]["accuracy"] > student
    # Where CLIP knows least there is most to learn.
    table = tables(load_run(world / "outputs/fashion_mnist_cpl"))["supervision_domains"]
    wide = table.pivot(index="who", columns="domain", values="accuracy")
    gained = wide.loc["student"] - wide.loc["zero_shot"]
    assert gained[list(ROTATIONS)].idxmax() == "rot90"
    mean = np.mean([found["student"]["per_domain"][name] for name in ROTATIONS])
    assert wide.loc["student", "mean over domains"] == pytest.approx(mean)
