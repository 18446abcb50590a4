"""Images given by a caller: files, PIL images or tensors, decoded in batches."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from cosup.data.images import BrokenImage, Images, Ints, read_image, to_rgb
from cosup.data.table import ImageData
from cosup.data.transforms import Transform
from cosup.errors import UserError, in_short

__all__ = [
    "Decoded",
    "GivenImages",
    "OneImage",
    "Readable",
    "as_samples",
    "decode_batches",
    "given_images",
]

OneImage = str | Path | Image.Image | Tensor
"""The path of a file, a PIL image of any mode and size, or a uint8 tensor [3, H, W] (RGB)."""

ALLOWED = (
    "a path, a PIL image or a uint8 tensor [3, H, W], a list of these, or a uint8 tensor "
    "[N, 3, H, W]"
)
_AHEAD = 2


@dataclass
class GivenImages:
    """Images as they were given, as a collection (`cosup.data.images.Images`).

    Files are decoded each time they are read, so that no decoded image is kept.
    """

    items: Sequence[OneImage]
    files: bool = False

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> Image.Image:
        """Return the image as PIL RGB; raise `BrokenImage` if it cannot be read."""
        item = self.items[index]
        if isinstance(item, str | Path):
            return read_image(os.fspath(item))
        try:
            if isinstance(item, Tensor):
                return Image.fromarray(item.cpu().permute(1, 2, 0).contiguous().numpy())
            return to_rgb(item)
        except Exception as error:  # Pillow's decoders raise many types of errors
            raise BrokenImage(f"{self.where(index)}: {in_short(error)}") from None

    def where(self, index: int) -> str:
        """Return the file's path, or the number of the image (from 1)."""
        item = self.items[index]
        return os.fspath(item) if isinstance(item, str | Path) else f"image {index + 1}"

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of the paths, or of the pixels of images in memory, in this order."""
        digest = hashlib.sha256()
        for item in (self.items[int(index)] for index in indices):
            if isinstance(item, str | Path):
                digest.update(f"{os.fspath(item)}\x1f".encode(errors="surrogateescape"))
            elif isinstance(item, Tensor):
                digest.update(f"{tuple(item.shape)}".encode() + item.cpu().numpy().tobytes())
            else:
                digest.update(f"{item.mode} {item.size}".encode() + item.tobytes())
        return digest.hexdigest()

    def part(self, places: Sequence[int]) -> "GivenImages":
        """Return the images at these places."""
        return GivenImages([self.items[place] for place in places], self.files)


class Readable(GivenImages):
    """Images of which the broken ones are grey instead, and named in `broken` by their places."""

    def __init__(self, items: Sequence[OneImage], files: bool = False) -> None:
        super().__init__(items, files)
        self.broken: dict[int, str] = {}

    def read(self, index: int) -> Image.Image:
        """Return the image as PIL RGB, or one grey pixel if it cannot be read."""
        try:
            return super().read(index)
        except BrokenImage as error:
            self.broken[index] = str(error)
            return Image.new("RGB", (1, 1), "grey")


def as_samples(images: Images, classes: tuple[str, ...], domains: tuple[str, ...]) -> ImageData:
    """Return images as samples without labels, all in the split test."""
    rows = np.arange(len(images), dtype=np.int64)
    names = [str(row) for row in rows]
    table = pd.DataFrame(
        {
            "sample_id": names,
            "label": -1,
            "domain": 0,
            "group": names,
            "split": "test",
            "image": rows,
            "given": -1,
        }
    )
    return ImageData(table, classes, domains, images, images.fingerprint(rows))


def given_images(images: OneImage | Sequence[OneImage]) -> GivenImages:
    """Return one image or many as a collection. Raise `UserError` for what is no image."""
    if isinstance(images, str | Path | Image.Image):
        items: list[OneImage] = [images]
    elif isinstance(images, Tensor):
        items = [images] if images.ndim == 3 else list(images) if images.ndim == 4 else []
        if images.ndim not in (3, 4):
            raise _no_image(images, "the tensor")
    elif isinstance(images, Sequence):
        items = list(images)
    else:
        raise _no_image(images, "the argument")
    for number, item in enumerate(items, 1):
        if isinstance(item, Tensor):
            valid = item.dtype == torch.uint8 and item.ndim == 3 and len(item) == 3
        else:
            valid = isinstance(item, str | Path | Image.Image)
        if not valid:
            raise _no_image(item, f"image {number}")
    return GivenImages(items, any(isinstance(item, str | Path) for item in items))


def _no_image(thing: object, name: str) -> UserError:
    kind = type(thing).__name__
    if isinstance(thing, Tensor):
        kind = f"{thing.dtype} tensor of shape {list(thing.shape)}".removeprefix("torch.")
    return UserError(f"{name} is no image but of type {kind}", key="images", allowed=ALLOWED)


@dataclass(frozen=True)
class Decoded:
    """A batch. places: of the n images that could be read, among all. pixels: uint8 [n, 3, S, S],
    None if n is 0. broken: why the others could not, by their places."""

    places: list[int]
    pixels: Tensor | None
    broken: dict[int, str]


def decode_batches(
    images: GivenImages, transform: Transform, batch_size: int, workers: int
) -> Iterator[Decoded]:
    """Yield batches of the images in order; `workers` threads decode up to two batches ahead.

    Threads end when the iterator is closed. Images in memory are transformed by one thread, because
    one that is given twice, or still has its file open, must not be read by two at once. Raise
    `UserError` for a size below 1.
    """

    def decode(place: int) -> Tensor | str:
        try:
            return transform(images.read(place))
        except BrokenImage as error:
            return str(error)

    if batch_size < 1:
        raise UserError("must be at least 1", key="batch_size", value=batch_size)
    pool = ThreadPoolExecutor(max(1, workers) if images.files else 1, "cosup-decode")
    waiting: deque[tuple[range, list[Future[Tensor | str]]]] = deque()
    starts = iter(range(0, len(images), batch_size))
    try:
        while True:
            while len(waiting) < _AHEAD and (start := next(starts, None)) is not None:
                places = range(start, min(start + batch_size, len(images)))
                waiting.append((places, [pool.submit(decode, place) for place in places]))
            if not waiting:
                return
            places, parts = waiting.popleft()
            yield _batch(places, [part.result() for part in parts])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _batch(places: range, parts: list[Tensor | str]) -> Decoded:
    both = dict(zip(places, parts, strict=True))
    good = {place: part for place, part in both.items() if not isinstance(part, str)}
    broken = {place: part for place, part in both.items() if isinstance(part, str)}
    # Stacked by NumPy, as in `cosup.data.loader`.
    pixels = torch.from_numpy(np.stack([part.numpy() for part in good.values()])) if good else None
    return Decoded(list(good), pixels, broken)
