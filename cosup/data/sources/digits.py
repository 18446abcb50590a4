"""The UCI digits that come with scikit-learn, in several rotations."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosup.data.images import ArrayImages
from cosup.data.sources.base import Collection, Source, collect
from cosup.errors import UserError

SIDE = 32


@dataclass
class Digits(Source):
    """1,797 real scans of handwritten digits (scikit-learn's load_digits), a domain per rotation.

    The rotations of one scan are one group. A sample is called `0042@30`: scan, degrees.
    """

    rotations: tuple[float, ...] = (0.0, 30.0, 60.0, 90.0)
    """Degrees (counter-clockwise); each is a domain."""

    def __post_init__(self) -> None:
        if not self.rotations:
            raise UserError("rotations: []: give at least one angle in degrees")
        if len({angle % 360 for angle in self.rotations}) < len(self.rotations):
            raise UserError(f"rotations: {list(self.rotations)}: two angles are the same")

    def load(self) -> Collection:
        """All scans in all rotations; scan after scan within a rotation."""
        from sklearn.datasets import load_digits

        scans, labels = load_digits(return_X_y=True)
        scans = (scans.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
        large = [
            Image.fromarray(scan).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for scan in scans
        ]
        names = [f"{angle:g}" for angle in self.rotations]
        groups = [f"{scan:04d}" for scan in range(len(large))]
        return collect(
            [f"{group}@{name}" for name in names for group in groups],
            np.tile(labels, len(names)),
            [str(digit) for digit in range(10)],
            ArrayImages("digits", np.concatenate([_rotated(large, a) for a in self.rotations])),
            domain=np.repeat(np.arange(len(names)), len(large)),
            domains=[f"rot{name}" for name in names],
            group=groups * len(names),
        )


def _rotated(images: list[Image.Image], angle: float) -> NDArray[np.uint8]:
    # Rotated after upscaling: at 8 x 8 pixels a turn by 30 degrees would be mostly aliasing.
    turned = [image.rotate(angle, Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in turned])
