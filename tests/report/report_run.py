"""Small real run whose names of classes and domains contain markup, quotes and other scripts."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from cosup.cli import call

CLASSES = ("<b>bold & bad", "\"quoted\" 'five'", "数字の三", "رقم سبعة")
DOMAINS = ("<img src=x onerror=alert(1)>", "plain")
EACH = 20
CONFIG = """\
data:
  source: domain_folder
  root: images
  splits: {teacher_train: 0.3, student_train: 0.4, test: 0.3}
teachers:
  hierarchy: {by: domain, levels: [1, 2]}
  model: {name: linear_pixels, size: 4}
  training: {steps: 15}
student:
  backbone: {name: test_resnet.r160_in1k, weights: null, image_size: 32}
  training: {steps: 60, lr: 0.01, standardize: true}
rounds:
  assignment: {name: gate}
  consistency: [{name: teacher_student, mode: rank, k: 2}, {name: local_global}]
  loss: {name: adaptive_confidence}
controls: [best_teacher, mean_ensemble, oracle_assignment, ceiling]
execution: {device: cpu, workers: 1}
"""


def make_run(root: Path) -> Path:
    """Write images, run the config in `root`, and return the run directory."""
    digits = load_digits()
    for turns, domain in enumerate(DOMAINS):
        for label, name in zip((1, 5, 3, 7), CLASSES, strict=True):
            folder = root / "images" / domain / name
            folder.mkdir(parents=True)
            for index in np.flatnonzero(digits.target == label)[:EACH]:
                pixels = np.rot90((digits.images[index] * 15.9).astype(np.uint8), turns)
                Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{index:04d}.png")
    config = root / "config.yaml"
    config.write_text(CONFIG.replace("root: images", f"root: {root}/images"), encoding="utf-8")
    cache = f"execution.cache={root}/cache"
    assert call(["run", str(config), "--output", str(root / "run"), cache]) == 0
    return root / "run"
