"""The shipped configs validate; those for data we cannot ship run on a miniature of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cosup.cli import call

CONFIGS = Path(__file__).parents[1] / "configs"
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
# Random weights (the pretrained ones need the internet) and inputs as small as the networks take.
TINY = [
    "teachers.model.backbone={name: 'torchvision:alexnet', weights: null, image_size: 64}",
    "teachers.training.steps=5",
    "student.backbone.weights=null",
    "student.backbone.image_size=28",
    "student.training.epochs=1",
]


def digit_files() -> Iterator[tuple[int, Image.Image]]:
    """Real digits, twelve of each class in turn."""
    pixels, labels = load_digits(return_X_y=True)
    for label in range(10):
        for row in np.flatnonzero(labels == label)[:12]:
            grey = (pixels[row].reshape(8, 8) * 15.9).astype(np.uint8)
            yield label, Image.fromarray(grey).resize((32, 32))


def run(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.chdir(tmp_path)
    assert call(["run", str(CONFIGS / config), *TINY]) == 0
    name = config.removesuffix(".yaml")
    summary: dict[str, object] = json.loads(
        (tmp_path / "outputs" / name / "summary.json").read_text()
    )
    return summary


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_validates_and_says_how_to_run_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there are no data
    assert call(["validate", str(path)]) == 0
    head = path.read_text().split("\n\n")[0]
    assert f"cosup run configs/{path.name}" in head


@pytest.mark.slow
def test_imagenet_runs_on_a_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = ("teacher_train", "student_train", "test")
    for number, (label, image) in enumerate(digit_files()):
        folder = tmp_path / "data/imagenet" / splits[number % 3] / f"n{label:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(folder / f"{number}.JPEG")
    summary = run("imagenet_csl.yaml", tmp_path, monkeypatch)
    rounds = summary["rounds"]
    assert isinstance(rounds, list)
    assert [len(item["teachers"]) for item in rounds] == [1, 2, 4, 8]
    assert {item["assigner"] for item in rounds} == {"block"}


@pytest.mark.slow
def test_domainnet_runs_on_a_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data/domainnet"
    for angle, domain in enumerate(DOMAINS):
        lists: dict[str, list[str]] = {"train": [], "test": []}
        for number, (label, image) in enumerate(digit_files()):
            path = f"{domain}/digit_{label}/{number}.png"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            image.rotate(15 * angle).save(root / path)
            lists["test" if number % 4 == 0 else "train"].append(f"{path} {label}")
        for part, lines in lists.items():
            (root / f"{domain}_{part}.txt").write_text("\n".join(lines) + "\n")
    summary = run("domainnet_csl.yaml", tmp_path, monkeypatch)
    student = summary["student"]
    assert isinstance(student, dict)
    assert set(student["per_domain"]) == set(DOMAINS)
