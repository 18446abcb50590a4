"""Images behind an index: reading them, and turning whatever a file holds into plain RGB."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I"}


class BrokenImage(OSError):
    """An image that can't be read; its text names the file and says why."""


class Images(Protocol):
    """Images by index.

    files: whether each image is a file of its own, which may be missing or broken.
    """

    files: bool

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """The image as PIL RGB; `BrokenImage` if it can't be read."""

    def where(self, index: int) -> str:
        """What to call the image in a message."""

    def fingerprint(self, indices: NDArray[np.int64]) -> str:
        """A hash of these images, in this order."""


class FileImages:
    """Image files, by path relative to `root` (an absolute path stands for itself)."""

    files = True

    def __init__(self, root: str | Path, paths: Sequence[str]) -> None:
        self.root = os.fspath(root)
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, index: int) -> str:
        """The file's path."""
        return os.path.join(self.root, self.paths[index])

    def read(self, index: int) -> Image.Image:
        """Decode the whole file; it is closed again when this returns or raises."""
        return read_image(self.where(index))

    def fingerprint(self, indices: NDArray[np.int64]) -> str:
        """A hash of paths, sizes and modification times: reading every byte would take too long."""
        digest = hashlib.sha256(b"files")
        for index in indices:
            stat = _stat(self.where(int(index)))
            digest.update(f"{self.paths[index]}\x1f{stat}\x1e".encode(errors="surrogateescape"))
        return digest.hexdigest()


class ArrayImages:
    """Images in memory: `pixels` uint8 [N, H, W] (grey) or [N, H, W, 3] (RGB)."""

    files = False

    def __init__(self, name: str, pixels: NDArray[np.uint8]) -> None:
        self.name = name
        self.pixels = pixels
        self._hash: str | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def where(self, index: int) -> str:
        """The set's name and the image's place in it."""
        return f"{self.name}[{index}]"

    def read(self, index: int) -> Image.Image:
        """The image as PIL RGB."""
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def fingerprint(self, indices: NDArray[np.int64]) -> str:
        """A hash of every pixel and of the order."""
        if self._hash is None:
            shape = str(self.pixels.shape).encode()
            content = np.ascontiguousarray(self.pixels).data
            self._hash = hashlib.sha256(shape + hashlib.sha256(content).digest()).hexdigest()
        order = np.ascontiguousarray(indices, dtype=np.int64).tobytes()
        return hashlib.sha256(self._hash.encode() + order).hexdigest()


def read_image(path: str) -> Image.Image:
    """Decode an image file to RGB, upright as its EXIF says; `BrokenImage` if that fails."""
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            image.load()
            return to_rgb(_upright(image))
    except Exception as error:  # Pillow's decoders raise nearly anything on a bad file
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror.lower()
        elif "cannot identify image file" in reason:
            reason = "not an image"
        raise BrokenImage(f"'{path}': {reason}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB from grey, 16-bit grey (65535 becomes 255), palette, CMYK, and transparency on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        # A copy: what `Image.open` gave may still hold its file.
        return image.copy()
    if image.mode in _SIXTEEN_BIT:
        return _from_sixteen_bit(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no set range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 65535):
        raise ValueError("pixels outside 0 .. 65535")
    grey = ((pixels + 128) // 257).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # damaged EXIF says nothing about the pixels
        return image


def _stat(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"
