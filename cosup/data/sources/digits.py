"""The UCI digits that come with scikit-learn, in several rotations."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cosup.data.images import ArrayImages
from cosup.data.sources.base import Collection, Source, check_angles, collect, rotated

SIDE = 32


@dataclass
class Digits(Source):
    """1,797 real scans of handwritten digits (scikit-learn's load_digits), a domain per rotation.

    The rotations of one scan are one group. A sample is called `0042@30`: scan, degrees.
    """

    rotations: tuple[float, ...] = (0.0, 30.0, 60.0, 90.0)
    """Degrees (counter-clockwise); each is a domain."""

    def __post_init__(self) -> None:
        check_angles(self.rotations)

    def load(self) -> Collection:
        """All scans in all rotations; scan after scan within a rotation."""
        from sklearn.datasets import load_digits

        scans, labels = load_digits(return_X_y=True)
        scans = (scans.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
        # Upscaled first: at 8 x 8 pixels a turn by 30 degrees would be mostly aliasing.
        large = [
            Image.fromarray(scan).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for scan in scans
        ]
        upright = collect(
            [f"{scan:04d}" for scan in range(len(large))],
            labels,
            [str(digit) for digit in range(10)],
            ArrayImages("digits", np.stack([np.asarray(image) for image in large])),
        )
        return rotated(upright, self.rotations)
