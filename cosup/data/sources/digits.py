"""The UCI handwritten digits that scikit-learn ships, in several rotations."""

from dataclasses import dataclass

import numpy as np
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
        from sklearn.datasets import load_digits  # slow to import, see `Source`

        scans, labels = load_digits(return_X_y=True)
        scans = (scans.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
        # Enlarged before the rotation: rotating 8 x 8 pixels by 30 degrees causes strong aliasing.
        large = [
            Image.fromarray(scan).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for scan in scans
        ]
        upright = collect(
            Columns([f"{scan:04d}" for scan in range(len(large))], labels),
            ArrayImages("digits", np.stack([np.asarray(image) for image in large])),
            CLASSES,
        )
        return rotated(upright, self.rotations)
