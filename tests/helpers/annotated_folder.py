"""A folder of digits with the tables of two annotators, and a config that trains from them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("nought", "one", "two", "three")
CONFIG = """\
run: {name: reviewed, output: runs}
data: {source: image_folder, root: own, splits: {teacher_train: 0.1, student_train: 0.7, test: 0.2}}
teachers:
  hierarchy: null
  external:
    - {name: ann, annotations: ann.csv}
    - {name: ben, annotations: ben.csv, missing: abstain}
student:
  backbone: {name: test_resnet.r160_in1k, weights: null, image_size: 32}
  training: {steps: 40, lr: 0.01, standardize: true}
rounds: {assignment: {name: fused}, consistency: [], loss: {name: cross_entropy}}
controls: []
execution: {device: cpu, workers: 1}
"""


def write_digits(root: Path, names: Sequence[str], each: int) -> tuple[list[str], np.ndarray]:
    """Write `each` images of the first digits to a folder per name; return their ids and labels."""
    digits = load_digits()
    ids, truth = [], []
    for label, name in enumerate(names):
        folder = root / "own" / name
        folder.mkdir(parents=True)
        for index in np.flatnonzero(digits.target == label)[:each]:
            pixels = (digits.images[index] * 15.9).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:04d}.png")
            ids.append(f"{name}/{index:04d}.png")
            truth.append(label)
    return ids, np.array(truth)


def make_world(root: Path) -> None:
    """Write a folder of digits, and the tables of two annotators."""
    draw = np.random.default_rng(0)
    ids, true = write_digits(root, NAMES, 60)
    for name, share in (("ann", 0.85), ("ben", 0.65)):
        wrong = (true + draw.integers(1, 4, len(true))) % 4
        said = np.where(draw.random(len(true)) < share, true, wrong)
        table = pd.DataFrame({"sample_id": ids, "label": [NAMES[code] for code in said]})
        table.iloc[: None if name == "ann" else 200].to_csv(root / f"{name}.csv", index=False)
    (root / "config.yaml").write_text(CONFIG)
