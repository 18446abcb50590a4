"""Image collections addressed by index, and conversion of any image file to RGB."""

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cosup.errors import in_short
from cosup.progress import working_on
from cosup.words import printable

Ints = NDArray[np.int64]

_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I"}
_CHECKED_AT_ONCE = 64


class BrokenImage(OSError):
    """An image that cannot be read; the message has the file and the reason."""


class Images(Protocol):
    """A collection of images addressed by index.

    files: whether the images are files, which may be missing or broken.
    """

    files: bool

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """Return the image as PIL RGB; raise `BrokenImage` if it cannot be read."""

    def where(self, index: int) -> str:
        """Return a name for the image, for messages."""

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of these images in this order."""


class FileImages:
    """Image files, by path relative to `root` (or absolute)."""

    files = True

    def __init__(self, root: str | Path, paths: Sequence[str]) -> None:
        self.root = os.fspath(root)
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, index: int) -> str:
        """Return the file's path."""
        return os.path.join(self.root, self.paths[index])

    def read(self, index: int) -> Image.Image:
        """Decode the whole file and close it; raise `BrokenImage` also for a name that cannot be
        printed."""
        path = self.where(index)
        if not has_printable_name(path):
            raise BrokenImage(unprintable(path))
        return read_image(path)

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of paths, sizes and modification times; hashing all bytes is too slow."""
        digest = hashlib.sha256(b"files")
        with working_on("looking at image files:", len(indices)) as advance:
            for index in indices:
                stat = file_stat(self.where(int(index)))
                entry = f"{self.paths[index]}\x1f{stat}\x1e"
                digest.update(entry.encode(errors="surrogateescape"))
                advance(1)
        return digest.hexdigest()


class ArrayImages:
    """Images in memory: `pixels` is uint8 [N, H, W] (grey) or [N, H, W, 3] (RGB)."""

    files = False

    def __init__(self, name: str, pixels: NDArray[np.uint8]) -> None:
        self.name = name
        self.pixels = pixels
        self._hash: str | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def where(self, index: int) -> str:
        """Return the name of the dataset and the index."""
        return f"{self.name}[{index}]"

    def read(self, index: int) -> Image.Image:
        """Return the image as PIL RGB."""
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of all pixels and of the order."""
        if self._hash is None:
            shape = str(self.pixels.shape).encode()
            content = np.ascontiguousarray(self.pixels).data
            self._hash = hashlib.sha256(shape + hashlib.sha256(content).digest()).hexdigest()
        order = np.ascontiguousarray(indices, dtype=np.int64).tobytes()
        return hashlib.sha256(self._hash.encode() + order).hexdigest()


class RotatedImages:
    """Grey images in memory in several rotations, each of which is computed when it is first read:
    a run of few samples of a large set reads few.

    pixels: uint8 [N, H, W]. angles: in degrees, counter-clockwise; image n has an index for each of
    them: n, n + N, n + 2 N, ...
    """

    files = False

    def __init__(self, name: str, pixels: NDArray[np.uint8], angles: Sequence[float]) -> None:
        self.name = name
        self.pixels = pixels
        self.angles = tuple(angles)
        # Takes memory as it is written.
        self._turned = np.empty((len(self), *pixels.shape[1:]), np.uint8)
        self._is_there = np.zeros(len(self), bool)
        self._hash: str | None = None

    def __len__(self) -> int:
        return len(self.angles) * len(self.pixels)

    def __reduce__(self) -> tuple[Any, ...]:
        return RotatedImages, (self.name, self.pixels, self.angles)

    def where(self, index: int) -> str:
        """Return the name of the dataset and the index."""
        return f"{self.name}[{index}]"

    def read(self, index: int) -> Image.Image:
        """Return the image as PIL RGB. Quarter turns of square images only move pixels."""
        if not self._is_there[index]:
            turn, place = divmod(index, len(self.pixels))
            upright = Image.fromarray(self.pixels[place])
            turned = upright.rotate(self.angles[turn], Image.Resampling.BICUBIC)
            self._turned[index] = np.asarray(turned)
            self._is_there[index] = True
        return Image.fromarray(self._turned[index]).convert("RGB")

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of all pixels, of the angles, and of the order."""
        if self._hash is None:
            upright = ArrayImages(self.name, self.pixels).fingerprint(np.arange(len(self.pixels)))
            self._hash = f"{upright} {[float(angle) for angle in self.angles]}"
        order = np.ascontiguousarray(indices, dtype=np.int64).tobytes()
        return hashlib.sha256(self._hash.encode() + order).hexdigest()


class RowImages:
    """The images of a `datasets.Dataset` of one column, `Image(decode=False)`."""

    files = True

    def __init__(self, name: str, rows: Any) -> None:
        self.name = name
        self.rows = rows
        (self.column,) = rows.column_names

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        """Return the name of the rows and the index."""
        return f"{self.name}[{index}]"

    def read(self, index: int) -> Image.Image:
        """Decode the bytes of a row, or the file that it names."""
        held = self.rows[int(index)][self.column] or {}
        if held.get("bytes") is not None:
            return read_image(self.where(index), held["bytes"])
        if held.get("path") is None:
            raise BrokenImage(f"'{self.where(index)}': no image in this row")
        return read_image(held["path"])

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of the sizes and modification times of the files that hold the images, and
        of the order; hashing all bytes is too slow."""
        order = np.ascontiguousarray(indices, dtype=np.int64)
        digest = hashlib.sha256(f"{self.column}\x1f{len(self)}\x1f".encode() + order.tobytes())
        for file in self.rows.cache_files:
            path = file["filename"]
            digest.update(f"{os.path.basename(path)}\x1f{file_stat(path)}\x1e".encode())
        for named in self._paths(order):
            stat = "" if named is None else file_stat(named)
            digest.update(f"{named}\x1f{stat}\x1e".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _paths(self, indices: Ints) -> list[str | None]:
        """Return the files of these rows; none if no row names a file."""
        import pyarrow.compute as pc

        column = self.rows.with_format("arrow")[:][self.column]
        outside = pc.is_null(pc.struct_field(column, "bytes"))
        if not pc.any(outside).as_py():
            return []
        paths: list[str | None] = pc.struct_field(column, "path").take(indices).to_pylist()
        return paths


def has_printable_name(path: str) -> bool:
    """Return whether a file can be named in tables and logs. The folders are not looked at."""
    return os.path.basename(path).isprintable()


def unprintable(path: str) -> str:
    """Return why an image that cannot be named is as good as broken."""
    return f"'{printable(path)}': not a printable name"


def find_broken(images: Images, indices: Ints, workers: int) -> dict[int, str]:
    """Decode images in `workers` threads; return {position in `indices`: reason} of broken ones."""
    starts = range(0, len(indices), _CHECKED_AT_ONCE)

    def check(start: int) -> dict[int, str]:
        chunk = indices[start : start + _CHECKED_AT_ONCE].tolist()
        reasons = {start + place: _fault(images, index) for place, index in enumerate(chunk)}
        return {place: reason for place, reason in reasons.items() if reason is not None}

    found: dict[int, str] = {}
    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        working_on("decoding images to check them:", len(indices)) as advance,
    ):
        for start, part in zip(starts, pool.map(check, starts), strict=True):
            found |= part
            advance(min(_CHECKED_AT_ONCE, len(indices) - start))
    return found


def read_image(path: str, content: bytes | None = None) -> Image.Image:
    """Decode an image file to RGB, upright as in its EXIF; raise `BrokenImage` if that fails.

    content: what the file holds, if that is known; then `path` is only a name for messages.
    """
    try:
        with (
            open(path, "rb") if content is None else io.BytesIO(content) as file,
            Image.open(file) as image,
        ):
            image.load()
            return to_rgb(_upright(image))
    except Exception as error:  # Pillow's decoders raise many types of errors
        reason = in_short(error)
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror.lower()
        elif "cannot identify image file" in reason:
            reason = "not an image"
        raise BrokenImage(f"'{path}': {reason}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB from grey, 16-bit grey (65535 becomes 255), palette or CMYK.

    Transparent pixels are blended with white. Raise `ValueError` for pixels of unknown range.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        # A copy, because an image from `Image.open` may keep its file open.
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
    except Exception:  # the pixels are usable even if the EXIF data are damaged
        return image


def _fault(images: Images, index: int) -> str | None:
    try:
        images.read(index)
    except BrokenImage as error:
        return str(error)
    return None


def file_stat(path: str) -> str:
    """Return the size and modification time of a file as text, `missing` if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"
