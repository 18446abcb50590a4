"""What is wrong with a CLIP student, through the command line: one line that names setting, value
and what is allowed; exit 2; nothing half-written, neither a run nor in the cache."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_clip import SHORT, TEXT, VISION, architecture, one_vocabulary, write_clip
from PIL import Image
from sklearn.datasets import load_digits

from cosup.cli import call
from cosup.files import save_tensors, write_json

CONFIG = """\
run: {name: bad, output: runs}
data: {source: image_folder, root: named}
teachers:
  hierarchy: {by: class, levels: [1]}
  model: {name: linear_pixels, size: 4}
  training: {steps: 3}
student:
  backbone: {name: "open_clip:clip"}
  head: {kind: prototype, init: text}
  training: {steps: 3}
controls: [zero_shot]
execution: {device: cpu, workers: 1, cache: cache}
"""
NAMES = ("nought", "one", "two")
FOLDERS = {
    "named": NAMES,
    "numbered": ("0", "1", "2"),
    "wordnet": ("n01440764", "n01443537", "n01484850"),
    "alike": ("ankle_boot", "Ankle Boot", "two"),
}
EACH = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images in folders with good names and bad ones, a tiny CLIP, and bad ones."""
    root = tmp_path_factory.mktemp("world")
    (root / "c.yaml").write_text(CONFIG)
    digits = load_digits()
    for source, names in FOLDERS.items():
        for label, name in enumerate(names):
            folder = root / source / name
            folder.mkdir(parents=True)
            for index in np.flatnonzero(digits.target == label)[:EACH]:
                pixels = (digits.images[index] * 15.9).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    model = write_clip(root / "clip")
    visual = {k: t for k, t in model.state_dict().items() if k.startswith("visual.")}
    save_tensors(root / "visual.safetensors", visual)
    write_clip(root / "wide", architecture({**VISION, "width": 128}, SHORT))
    write_json(root / "bare" / "open_clip_config.json", {"model_cfg": architecture(text=TEXT)})
    write_json(root / "odd" / "open_clip_config.json", {"model_cfg": {"embed_dim": 32}})
    torch.save({"conv.weight": torch.zeros(8, 3, 3, 3)}, root / "alien.pt")
    (root / "names.txt").write_text("zero\none\n")
    return root


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with one_vocabulary():
        yield


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The world as the working directory; what was written is removed after the test."""
    monkeypatch.chdir(world)
    yield world
    for folder in ("runs", "cache"):
        shutil.rmtree(world / folder, ignore_errors=True)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line; there is no traceback, and nothing was printed as a result."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    (line,) = (x for x in captured.err.splitlines() if x.startswith(("error: ", "failed: ")))
    return line


CLIP = "student.backbone.name=open_clip:"
NO_NAME = "has no name that can be used in a prompt"
LONG = "student.head.templates='a cat sat on a mat with a hat and a bat, and a rat sat on a {}'"
DATA: dict[str, tuple[list[str], list[str]]] = {
    "numbers for names": (
        ["data.root=numbered"],
        ["student.head.class_names: null: class '0'", NO_NAME, "text file"],
    ),
    "WordNet ids for names": (
        ["data.root=wordnet"],
        ["student.head.class_names: null: class 'n01440764'", NO_NAME],
    ),
    "two classes of one name": (
        ["data.root=alike"],
        ["student.head.class_names", "'Ankle Boot' and 'ankle_boot'", "both called"],
    ),
    "two given names alike": (
        ["student.head.class_names=[nought, Two, two]"],
        ["student.head.class_names", "'one' and 'two'", "both called 'two'"],
    ),
    "too few names": (
        ["student.head.class_names=names.txt"],
        ["student.head.class_names: 2 names in names.txt for 3 classes (nought, one and two)"],
    ),
    "no such file of names": (
        ["student.head.class_names=none.txt"],
        ["student.head.class_names: 'none.txt'"],
    ),
    "a name for no class": (
        ["student.head.class_names={tow: pair}"],
        ["student.head.class_names: ", "'tow'", "nought, one, two"],
    ),
    "an overlong prompt": (
        [LONG],
        ["student.head.templates: the prompt 'a cat", "23 tokens", "open_clip:clip reads 16"],
    ),
    "an overlong name": (
        [f"student.head.class_names={{two: {' '.join(['big'] * 14)}}}"],
        ["student.head.templates: the prompt", "21 tokens"],
    ),
}
MODELS: dict[str, tuple[list[str], list[str]]] = {
    "unknown model": (
        [f"{CLIP}ViT-B-23@openai"],
        ["student.", "'ViT-B-23'", "did you mean 'ViT-B-32'", "allowed"],
    ),
    "unknown tag": (
        [f"{CLIP}ViT-B-32@opanai"],
        ["student.", "'opanai'", "mean 'openai'", "a file"],
    ),
    "no weights named": (
        [f"{CLIP}ViT-B-32"],
        ["student.", "'open_clip:ViT-B-32'", "which weights", "@TAG"],
    ),
    "no such folder": ([f"{CLIP}none"], ["student.", "'none'", "or a folder"]),
    "a folder without weights": ([f"{CLIP}bare"], ["student.", "'open_clip:bare'", "no weights"]),
    "a folder of something else": (
        [f"{CLIP}own"],
        ["student.", "'own'", "or a folder"],
    ),
    "a folder without a description": (
        [f"{CLIP}named"],
        ["student.", "'open_clip:named'", "open_clip_config.json"],
    ),
    "a description without a model": ([f"{CLIP}odd"], ["student.", "'open_clip:odd'", "embed_dim"]),
    "weights of another architecture": (
        ["student.backbone.weights=wide/open_clip_model.safetensors"],
        ["student.backbone: weights 'wide/open_clip_model.safetensors': do not fit", "128", "64"],
    ),
    "weights of something else": (
        ["student.backbone.weights=alien.pt"],
        ["student.backbone: weights 'alien.pt'", "no image encoder of open_clip"],
    ),
    "no such weights": (
        ["student.backbone.weights=none.pt"],
        ["student.backbone: weights 'none.pt'", "no such file"],
    ),
}
BOTH = {**DATA, **MODELS}
PLANNED = ("two classes of one name", "an overlong prompt", "weights of another architecture")


@pytest.mark.parametrize(
    ("verb", "case"), [*(("run", case) for case in BOTH), *(("plan", case) for case in PLANNED)]
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    verb: str, case: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, words = BOTH[case]
    assert call([verb, "c.yaml", *overrides]) == 2
    line = error_of(capsys)
    assert [word for word in words if word not in line] == [], line
    assert len(line) < 700
    assert not (here / "runs" / "bad").exists()
    assert not list(here.glob("cache/text/*"))


CONFIGS: dict[str, tuple[list[str], list[str]]] = {
    "text without a text encoder": (
        ["student.backbone={name: test_resnet, weights: null}"],
        ["student.head.init: 'text'", "open_clip:MODEL@WEIGHTS", "'test_resnet'"],
    ),
    "text for a linear head": (
        ["student.head.kind=linear"],
        ["student.head.init: 'text'", "needs kind 'prototype', not 'linear'"],
    ),
    "zero_shot without text": (
        ["student.head.init=random"],
        ["controls: 'zero_shot'", "student.head.init 'text'"],
    ),
    "no steps, and a control": (
        ["student.training.steps=0", "controls=[ceiling]"],
        ["controls: ['ceiling']", "steps 0", "allowed: zero_shot"],
    ),
    "unknown templates": (
        ["student.head.templates=imagnet"],
        ["student.head.templates: 'imagnet'", "allowed: cifar"],
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_mistake_in_the_config_is_one_line(
    case: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, words = CONFIGS[case]
    for verb in ("validate", "plan", "run"):
        assert call([verb, "c.yaml", *overrides]) == 2
        line = error_of(capsys)
        assert [word for word in words if word not in line] == [], line
    assert not (here / "runs").exists()


def test_a_checkpoint_without_a_text_encoder_is_found_before_any_training(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It holds all that the features need, which stay in the cache."""
    assert call(["run", "c.yaml", "student.backbone.weights=visual.safetensors"]) == 2
    line = error_of(capsys)
    assert "weights 'visual.safetensors': hold no text encoder that fits open_clip:clip" in line
    assert not (here / "runs" / "bad").exists()
    assert not list(here.glob("cache/text/*"))


@pytest.mark.parametrize("verb", ["validate", "plan", "run"])
@pytest.mark.parametrize("init", ["text", "class_means"])
def test_without_open_clip_the_error_says_how_to_install_it(
    init: str,
    verb: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert call([verb, "c.yaml", f"student.head.init={init}", "controls=[]"]) == 2
    line = error_of(capsys)
    assert line.startswith("error: student.")
    assert "'open_clip:clip': needs open_clip, which is not installed" in line
    assert "pip install '.[clip]'" in line
    assert not (here / "runs" / "bad").exists()


def test_the_config_itself_is_good(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("validate", "plan", "run"):
        assert call([verb, "c.yaml"]) == 0
    assert "Traceback" not in capsys.readouterr().err
    assert (here / "runs" / "bad" / "summary.json").is_file()
    assert len(list(here.glob("cache/text/*.safetensors"))) == 1
