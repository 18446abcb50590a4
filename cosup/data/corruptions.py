"""Corruptions of images at five strengths, for test sets of a shifted distribution.

Four of the kinds of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (arXiv 1903.12261), with the numbers of their ImageNet-C. The images
are not theirs: they are corrupted at their own size, before a network's input is made of them, and
the blur grows with the image (theirs is for images of 224 pixels).
"""

import hashlib
import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cosup.data.images import Images, Ints
from cosup.seeds import numpy_generator

__all__ = ["CORRUPTIONS", "CorruptedImages", "corrupt"]

FORMAT = 1
"""Changes with the pixels that a corruption makes."""
BLUR = (1.0, 2.0, 3.0, 4.0, 6.0)
"""Standard deviation of the Gaussian, in pixels of an image whose shorter side has `BLURRED_AT`."""
BLURRED_AT = 224
NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Standard deviation of the Gaussian noise; pixels are from 0 to 1."""
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
"""What is left of the differences from the mean colour."""
JPEG = (25, 18, 15, 10, 7)
"""Quality of the compression."""


def corrupt(image: Image.Image, kind: str, strength: int, sample: str) -> Image.Image:
    """Return an RGB image corrupted in one of the kinds `CORRUPTIONS`.

    strength: 1 to 5. sample: the id of the sample, which alone decides what is drawn.
    """
    return CORRUPTIONS[kind](image, strength, sample)


def _blur(image: Image.Image, strength: int, sample: str) -> Image.Image:
    radius = BLUR[strength - 1] * min(image.size) / BLURRED_AT
    return image.filter(ImageFilter.GaussianBlur(radius))


def _noise(image: Image.Image, strength: int, sample: str) -> Image.Image:
    pixels = _pixels(image)
    generator = numpy_generator(0, "noise", sample, strength)
    return _image(pixels + NOISE[strength - 1] * generator.standard_normal(pixels.shape))


def _contrast(image: Image.Image, strength: int, sample: str) -> Image.Image:
    pixels = _pixels(image)
    mean = pixels.mean((0, 1), keepdims=True)
    return _image((pixels - mean) * CONTRAST[strength - 1] + mean)


def _jpeg(image: Image.Image, strength: int, sample: str) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=JPEG[strength - 1])
    with Image.open(content) as found:
        return found.convert("RGB")


def _pixels(image: Image.Image) -> NDArray[np.float64]:
    """Return [H, W, 3] in 0 .. 1."""
    return np.asarray(image, dtype=np.float64) / 255


def _image(pixels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


CORRUPTIONS: Mapping[str, Callable[[Image.Image, int, str], Image.Image]] = {
    "blur": _blur,
    "noise": _noise,
    "contrast": _contrast,
    "jpeg": _jpeg,
}
"""Name -> function of an RGB image, the strength (1 to 5) and the id of the sample."""


class CorruptedImages:
    """Images of which each is corrupted when it is read.

    samples: the id of the sample that an image is of, by the image's index.
    """

    def __init__(self, images: Images, kind: str, strength: int, samples: Mapping[int, str]):
        self.images = images
        self.kind = kind
        self.strength = strength
        self.samples = samples
        self.files = images.files

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Image.Image:
        """Return the corrupted image as PIL RGB; raise `BrokenImage` if it cannot be read."""
        return corrupt(self.images.read(index), self.kind, self.strength, self.samples[index])

    def where(self, index: int) -> str:
        """Return a name for the image, for messages."""
        return self.images.where(index)

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of the images, the corruption and the samples, in this order."""
        about = f"{FORMAT} {self.kind} {self.strength} {self.images.fingerprint(indices)}"
        names = "\x1f".join(self.samples[int(index)] for index in indices)
        return hashlib.sha256(f"{about}\x1e{names}".encode(errors="surrogateescape")).hexdigest()
