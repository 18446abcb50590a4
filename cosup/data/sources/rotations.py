"""Rotations as domains: every image of a set in each of several rotations."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cosup.data.images import ArrayImages
from cosup.data.sources.base import Collection
from cosup.errors import UserError


def check_angles(angles: Sequence[float]) -> None:
    """`UserError` unless there are angles (degrees), no two of them alike or of one name."""
    if not angles:
        raise UserError("rotations: []: give at least one angle in degrees")
    turns = {angle % 360 for angle in angles}
    if min(len(turns), len(set(_names(angles)))) < len(angles):
        raise UserError(f"rotations: {list(angles)}: two angles are the same")


def rotated(found: Collection, angles: Sequence[float]) -> Collection:
    """All samples of a collection, rotation after rotation (degrees, counter-clockwise).

    found: grey images in memory, all of one domain. A rotation is a domain, `rotANGLE`; a sample
    is called `ID@ANGLE`, and the rotations of one image are in its group, so that no split divides
    them. Images keep their size; what turns in from outside is black.
    """
    assert isinstance(found.images, ArrayImages)
    assert len(found.domains) == 1
    names, count = _names(angles), len(found.table)
    table = pd.concat([found.table] * len(names), ignore_index=True)
    ends = np.repeat([f"@{name}" for name in names], count)
    return replace(
        found,
        table=table.assign(
            sample_id=table["sample_id"] + pd.Series(ends, dtype="str"),
            domain=np.repeat(np.arange(len(names)), count),
            image=np.arange(len(table), dtype=np.int64),
        ),
        domains=tuple(f"rot{name}" for name in names),
        images=ArrayImages(found.images.name, _turned(found.images.pixels, angles)),
        grouped=True,
    )


def _names(angles: Sequence[float]) -> list[str]:
    return [f"{angle:g}" for angle in angles]


def _turned(pixels: NDArray[np.uint8], angles: Sequence[float]) -> NDArray[np.uint8]:
    """[A * N, H, W] from [N, H, W]; quarter turns of square images move pixels, and no more."""
    turned = np.empty((len(angles), *pixels.shape), np.uint8)  # filled in place: sets are large
    for angle, copies in zip(angles, turned, strict=True):
        for image, copy in zip(pixels, copies, strict=True):
            copy[:] = np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC))
    return turned.reshape(-1, *pixels.shape[1:])
