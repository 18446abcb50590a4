"""The UCI handwritten digits that scikit-learn ships, in several rotations."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosup.data.images import ArrayImages
from cosup.data.sources.base import (
    Collection,
    Columns,
    Names,
    Source,
    angle_domains,
    check_angles,
    collect,
    rotated,
)

SIDE = 32
CLASSES = tuple(str(digit) for digit in range(10))


@dataclass
class Digits(Source):
    """1,797 scans of handwritten digits (scikit-learn's load_digits), one domain per rotation.

    The rotations of one scan are one group. Sample ids are `SCAN@DEGREES`, such as `0042@30`.
    """

    rotations: tuple[float, ...] = (0.0, 30.0, 60.0, 90.0)
    """Angles in degrees (counter-clockwise); each is a domain."""

    def __post_init__(self) -> None:
        check_angles(self.rotations)

    def peek(self) -> Names:
        """Return the digits and the rotations."""
        return Names(CLASSES, angle_domains(self.rotations))

    def load(self) -> Collection:
        """List all scans, rotation by rotation."""
        pixels, labels = _upright()
        columns = Columns([f"{scan:04d}" for scan in range(len(pixels))], labels)
        found = collect(columns, ArrayImages("digits", pixels), CLASSES)
        return rotated(found, self.rotations)


@cache
def _upright() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels [n, 32, 32] and labels [n]. A run lists its samples twice, so they are kept."""
    scans, labels = _scans()
    scans = (scans.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    # Enlarged before the rotation: rotating 8 x 8 pixels by 30 degrees causes strong aliasing.
    large = [Image.fromarray(scan).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for scan in scans]
    pixels = np.stack([np.asarray(image) for image in large])
    pixels.flags.writeable = labels.flags.writeable = False
    return pixels, labels


def _scans() -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what `load_digits` returns: pixels [n, 64] from 0 to 16, and labels [n].

    They are read from scikit-learn's file, because to import scikit-learn takes a second.
    """
    found = find_spec("sklearn")
    file = Path((found.origin if found else None) or "").parent / "datasets/data/digits.csv.gz"
    if not file.is_file():  # another version, or an archive: it knows itself where they are
        from sklearn.datasets import load_digits

        scans, labels = load_digits(return_X_y=True)
        return scans, labels
    rows = np.loadtxt(file, delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(np.int64)
