"""Tests of transforms, against timm's evaluation transform."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from cosup.data.transforms import EvalTransform, PixelTransform


@pytest.mark.parametrize("shape", [(40, 60), (61, 37), (32, 32), (8, 8), (100, 33)])
@pytest.mark.parametrize(("size", "crop"), [(32, 0.875), (33, 0.9), (24, 1.0)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_same_as_timm(shape: tuple[int, int], size: int, crop: float, interpolation: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (*shape, 3), np.uint8))
    theirs = create_transform(
        (3, size, size), interpolation=interpolation, crop_pct=crop, mean=(0, 0, 0), std=(1, 1, 1)
    )(image)
    ours = EvalTransform(size, crop, interpolation)(image)
    assert ours.shape == (3, size, size)
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, (theirs * 255).round().to(torch.uint8))


def test_pixels_are_averages_of_grey() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    small = PixelTransform(4)(Image.fromarray(grey).convert("RGB"))
    expected = np.floor(grey.reshape(4, 2, 4, 2).mean((1, 3)) + 0.5)
    assert small.shape == (1, 4, 4)
    np.testing.assert_array_equal(small[0].numpy(), expected)


def test_different_transforms_have_different_keys() -> None:
    keys = {
        EvalTransform(64).key,
        EvalTransform(32).key,
        EvalTransform(64, 1.0).key,
        EvalTransform(64, 0.875, "bilinear").key,
        PixelTransform(64).key,
        PixelTransform(8).key,
    }
    assert len(keys) == 6
