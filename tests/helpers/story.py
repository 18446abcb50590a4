"""Make the project of the README's worked story: `python tests/helpers/story.py FOLDER`.

The images are real: scikit-learn's 1,797 scanned digits (UCI), as PNG files of 32 pixels. The
sources of labels are made here, so that their true reliability is known:

- `scans` has 1,500 images, and `new_scans` 97 that come after the run;
- `labels.csv` has the true labels of 500 images;
- `votes.csv` has the answers of three simulated annotators, in crowd-kit's columns: ada is right
  in 85 % of her answers, ben in 75 % (and takes 3, 5 and 9 for 8), cy in 60 %, and each left out
  images;
- `old_model.safetensors` is a network trained on 200 further images from another scanner, which
  turned them by 15 degrees. It knows the digits 0 to 6 alone, upright and slanted ones as two
  classes; the last of its 15 classes is everything else.

`rules.py` is copied from the file of that name here. `my.yaml` is the config in the README, and
`no_labels.yaml` the same without labels and without the specialists, who are trained on them.

`--truth RUN` prints how often the sources and the labels of a finished run are right, in %, beside
what the run estimates. `--truth FILE` prints it of a table that `cosup predict` wrote.
"""

import argparse
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy

from cosup.analysis import load_run
from cosup.data.transforms import eval_transform
from cosup.files import save_tensors
from cosup.models.classifier import build_classifier
from cosup.seeds import numpy_generator, torch_generator

README = Path(__file__).parents[2] / "README.md"
OLD_MODEL = "test_resnet"
"""timm's smallest ResNet."""
LABELLED, ELSEWHERE, NEW, SIZE, TURN = 500, 200, 97, 32, 15
OTHER = 14
"""The old model's class of all other digits. Class 2 k is an upright k, 2 k + 1 a slanted one."""
WORKERS = {"ada": (0.85, 0.8, None), "ben": (0.75, 0.9, 8), "cy": (0.6, 0.6, None)}
"""Of each annotator: how often right, the share of images answered, and what 3, 5, 9 are taken for
when wrong."""


def make_story(folder: Path, seed: int = 0) -> None:
    """Write images, tables, the old model, the rules and the configs to `folder`."""
    pixels, truth = _shuffled_digits(seed)
    images = [
        Image.fromarray((each * 15.9).astype(np.uint8)).resize(
            (SIZE, SIZE), Image.Resampling.BICUBIC
        )
        for each in pixels
    ]
    names, true = _project(truth)
    _write_images(folder / "scans", names, images[ELSEWHERE:-NEW])
    _write_images(folder / "new_scans", _new_names(), images[-NEW:])
    _write_votes(folder / "votes.csv", names, true, seed)
    shutil.copy(Path(__file__).with_name("rules.py"), folder)
    table = pd.DataFrame({"sample_id": names, "label": true})
    table.iloc[:LABELLED].to_csv(folder / "labels.csv", index=False)
    state = train_old_model(images[:ELSEWHERE], _old_classes(pixels, truth)[:ELSEWHERE], seed)
    save_tensors(folder / "old_model.safetensors", state)
    _write_configs(folder)


def train_old_model(
    images: list[Image.Image], classes: NDArray[np.int64], seed: int
) -> dict[str, Tensor]:
    """Train the network on images of these classes, turned; return its weights."""
    network = build_classifier(OLD_MODEL, OTHER + 1, None, SIZE, seed)
    transform = eval_transform(network.input)
    inputs = torch.stack([transform(image.rotate(TURN).convert("RGB")) for image in images])
    known = torch.from_numpy(classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    network.train()
    for epoch in range(16):
        for rows in torch.randperm(len(inputs), generator=torch_generator(seed, epoch)).split(50):
            optimizer.zero_grad()
            cross_entropy(network(inputs[rows]), known[rows]).backward()
            optimizer.step()
    return network.eval().model.state_dict()


def _write_configs(folder: Path) -> None:
    """Write the config of the README, and the same without labels."""
    found = re.search(r"```yaml\n(run: .*?)```", README.read_text(), re.DOTALL)
    assert found
    (folder / "my.yaml").write_text(found[1])
    tree = yaml.safe_load(found[1])
    tree["run"]["name"] = "no_labels"
    tree["data"] = {**tree["data"], "classes": list(range(10))}
    del tree["data"]["labels"]
    hierarchy = tree["teachers"]["hierarchy"]
    hierarchy["teachers"] = [[one for one in hierarchy["teachers"][0] if "model" in one]]
    (folder / "no_labels.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def tell_truth(place: str, seed: int = 0) -> Iterator[str]:
    """Yield for each source of a run, and for its labels, the estimated and the true share.

    place: the run, or a table of predictions for the new images, of which only the true share is
    known.
    """
    _, truth = _shuffled_digits(seed)
    if Path(place).is_file():
        new = dict(zip(_new_names(), truth[-NEW:].tolist(), strict=True))
        table = pd.read_csv(place)
        right = [
            new[Path(path).name] == label
            for path, label in zip(table["path"], table["label"], strict=True)
        ]
        yield f"{sum(right)} of {len(right)} are right"
        return
    run = load_run(place)
    names, labels = _project(truth)
    true = dict(zip(names, labels.astype(str), strict=True))
    yield f"{'right, %':10} estimated  true"
    for name in run.teacher_names:
        said = run.annotated(name).label
        right = [
            run.classes[code] == true[sample]
            for sample, code in zip(run.train["sample_id"], said, strict=True)
            if code >= 0
        ]
        yield _line(name, run.summary["sources"][name]["reliability"], right)
    final = run.files.labels.read(["sample_id", "label"])
    pairs = zip(final["sample_id"], final["label"], strict=True)
    right = [str(label) == true[sample] for sample, label in pairs]
    yield _line("labels", run.summary["labels"]["estimated_right"], right)


def _line(name: str, estimated: float, right: list[bool]) -> str:
    return f"{name:10} {100 * estimated:9.1f} {100 * sum(right) / len(right):5.1f}"


def _shuffled_digits(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return all digits [N, 8, 8] and their labels [N] in the order of the story."""
    digits = load_digits()
    order = numpy_generator(seed, "story").permutation(len(digits.target))
    pixels = np.asarray(digits.images, np.float32)
    return pixels[order], np.asarray(digits.target, np.int64)[order]


def _project(truth: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the paths of the project's images, in a folder a month, and their true labels."""
    true = truth[ELSEWHERE:-NEW]
    paths = [f"2024-{1 + number % 12:02d}/form_{number:04d}.png" for number in range(len(true))]
    return paths, true


def _new_names() -> list[str]:
    return [f"scan_{number:03d}.png" for number in range(NEW)]


def _write_images(folder: Path, names: list[str], images: list[Image.Image]) -> None:
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)


def _write_votes(path: Path, names: list[str], truth: NDArray[np.int64], seed: int) -> None:
    rows = []
    for worker, (accuracy, coverage, taken_for) in WORKERS.items():
        draw = numpy_generator(seed, "story", worker)
        for name, label in zip(names, truth.tolist(), strict=True):
            answered, right = draw.random(2) < (coverage, accuracy)
            wrong = int((label + draw.integers(1, 10)) % 10)
            if taken_for is not None and label in (3, 5, 9):
                wrong = taken_for
            if answered:
                rows.append((name, worker, label if right else wrong))
    pd.DataFrame(rows, columns=["task", "worker", "label"]).to_csv(path, index=False)


def _old_classes(pixels: NDArray[np.float32], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the old model's class of each image; a digit is slanted if its ink leans."""
    rows, columns = np.mgrid[0:8, 0:8]
    total = pixels.sum((1, 2))
    mean_row = (pixels * rows).sum((1, 2)) / total
    mean_column = (pixels * columns).sum((1, 2)) / total
    moved = (rows - mean_row[:, None, None]) * (columns - mean_column[:, None, None])
    lean = (pixels * moved).sum((1, 2)) / total
    found = np.minimum(2 * truth + (lean < -0.3), OTHER)
    return np.asarray(found, np.int64)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the project of the README's worked story.")
    parser.add_argument("folder", type=Path, nargs="?", help="where to make the project")
    parser.add_argument("--truth", metavar="RUN", help="tell how often its sources are right")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the last digits of sums, and so the old model, depend on it
    if arguments.truth:
        print("\n".join(tell_truth(arguments.truth)))
    elif arguments.folder:
        make_story(arguments.folder)
    else:
        parser.error("give a folder, or --truth RUN")
