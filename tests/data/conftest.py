"""Fixtures with real images: scikit-learn's digits, written to disk in known layouts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.idx_files import write_idx
from PIL import Image
from sklearn.datasets import load_digits

Digit = Callable[[int, int], Image.Image]


@pytest.fixture(scope="session")
def digit() -> Digit:
    """Return a function from a digit and n to the n-th grey scan of it."""
    scans, labels = load_digits(return_X_y=True)
    pixels = (scans.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    of_class = [pixels[labels == c] for c in range(10)]
    return lambda c, n: Image.fromarray(of_class[c][n])


@pytest.fixture
def class_folder(digit: Digit) -> Callable[..., Path]:
    """Return a function that writes `count` scans per class to `root/CLASS/N.png`."""

    def write(
        root: Path, classes: tuple[int, ...] = (0, 1), count: int = 10, start: int = 0
    ) -> Path:
        for c in classes:
            (root / str(c)).mkdir(parents=True, exist_ok=True)
            for n in range(start, start + count):
                digit(c, n).save(root / str(c) / f"{n:03d}.png")
        return root

    return write


@pytest.fixture
def idx_folder(tmp_path: Path, digit: Digit) -> Path:
    """Write idx files of three digits: 18 images in the train part, 6 in the test part."""
    root = tmp_path / "idx"
    root.mkdir()
    for part, start, end in [("train", 0, 6), ("t10k", 6, 8)]:
        scans = [(c, n) for n in range(start, end) for c in (0, 1, 2)]
        images = np.stack([np.asarray(digit(c, n)) for c, n in scans])
        write_idx(root / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(root / f"{part}-labels-idx1-ubyte.gz", np.array([c for c, _ in scans], np.uint8))
    return root
