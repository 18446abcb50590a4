"""Transforms from a PIL image to the uint8 tensor that a model reads."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


class Transform(Protocol):
    """Converts an RGB image to uint8 [K, H, W]; all images get the same shape."""

    @property
    def key(self) -> str:
        """Identifier of the transform: equal keys give equal tensors."""

    def __call__(self, image: Image.Image) -> Tensor: ...


class ResizeSpec(Protocol):
    """How a network's input images are resized and cropped (see `EvalTransform`)."""

    @property
    def size(self) -> int: ...
    @property
    def crop_pct(self) -> float: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def squash(self) -> bool: ...


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side to `size / crop_pct` and crop the centre: uint8 [3, size, size].

    Equal to timm's evaluation transform without normalisation. squash: resize both sides to
    `size / crop_pct` instead, whatever the aspect ratio.
    """

    size: int
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    squash: bool = False

    @property
    def key(self) -> str:
        """Identifier of the transform."""
        squash = "-squash" if self.squash else ""
        return f"eval-{self.size}-{self.crop_pct:g}-{self.interpolation}{squash}"

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 [3, size, size]."""
        shorter = math.floor(self.size / self.crop_pct)
        width, height = image.size
        if self.squash:
            scaled = (shorter, shorter)
        elif width <= height:
            scaled = (shorter, int(shorter * height / width))
        else:
            scaled = (int(shorter * width / height), shorter)
        if scaled != image.size:
            image = image.resize(scaled, INTERPOLATIONS[self.interpolation])
        left, top = (round((side - self.size) / 2) for side in scaled)
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.ascontiguousarray(np.array(image).transpose(2, 0, 1)))


def eval_transform(spec: ResizeSpec) -> EvalTransform:
    """Return the evaluation transform of a network."""
    return EvalTransform(spec.size, spec.crop_pct, spec.interpolation, spec.squash)


@dataclass(frozen=True)
class PixelTransform:
    """Convert the whole image to grey and average it to uint8 [1, size, size]."""

    size: int

    @property
    def key(self) -> str:
        """Identifier of the transform."""
        return f"pixels-{self.size}"

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 [1, size, size]."""
        small = image.convert("L").resize((self.size, self.size), Image.Resampling.BOX)
        return torch.from_numpy(np.array(small))[None]
