"""The idx files of MNIST, Fashion-MNIST and their kin, gzipped or not, read where they lie."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosup.data.images import ArrayImages
from cosup.data.sources.base import Collection, Source, collect
from cosup.errors import UserError

_PARTS = {"train": ("train",), "test": ("t10k", "test")}
_FORMS = ("{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte")
_UBYTE = 0x08


@dataclass
class Idx(Source):
    """`train-images-idx3-ubyte[.gz]` and its labels, and the same for `t10k`.

    Debian's dataset-fashion-mnist puts Fashion-MNIST's in /usr/share/datasets/fashion-mnist.
    A sample is called by its part and its number: `train/00042`.
    """

    root: str
    """The folder that holds the files."""
    classes: list[str] | None = None
    """Class names in the order of the labels; null calls them by their numbers."""
    official_test: bool = True
    """Test on all of the set's own test part and on no others. The other splits then divide the
    train part in proportion to their shares. False pools both parts and splits anew."""

    def load(self) -> Collection:
        """The train part, then the test part."""
        parts = [part for part in _PARTS if _find(Path(self.root), part, "images", 3)]
        if not parts:
            _missing(Path(self.root))
        pixels, labels = zip(*(_read_part(Path(self.root), part) for part in parts), strict=True)
        if len({array.shape[1:] for array in pixels}) > 1:
            raise UserError(f"data.root: '{self.root}': train and test images differ in size")
        every = np.concatenate(labels).astype(np.int64)
        names = self.classes or [str(number) for number in range(int(every.max()) + 1)]
        if len(set(names)) < len(names):
            raise UserError(f"data.classes: {names}: a name stands twice")
        if every.max() >= len(names):
            raise UserError(
                f"data.classes: {len(names)} names, but '{self.root}' holds label {every.max()}"
            )
        official = self.official_test and len(parts) == 2
        count = {part: len(array) for part, array in zip(parts, labels, strict=True)}
        return collect(
            [f"{part}/{number:05d}" for part in parts for number in range(count[part])],
            every,
            names,
            ArrayImages(self.root, np.concatenate(pixels)),
            split=[
                "test" if official and p == "test" else "" for p in parts for _ in range(count[p])
            ],
            official_test=official,
        )


def _missing(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"data.root: no folder '{root}'")
    raise UserError(f"data.root: folder '{root}' holds no train-images-idx3-ubyte[.gz]")


def _find(root: Path, part: str, kind: str, dimensions: int) -> Path | None:
    for prefix in _PARTS[part]:
        for form in _FORMS:
            name = form.format(prefix, kind, dimensions)
            for path in (root / name, root / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def _read_part(root: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = _find(root, part, "images", 3), _find(root, part, "labels", 1)
    assert images is not None
    if labels is None:
        raise UserError(f"data.root: '{images}' has no labels file beside it")
    pixels, answers = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(answers) or len(pixels) == 0:
        raise UserError(
            f"'{images}' holds {len(pixels)} images, and '{labels}' {len(answers)} labels"
        )
    return pixels, answers


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes as an array; `UserError` if it is anything else."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"data.root: can't read '{path}': {error}") from None
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes([0, 0, _UBYTE, dimensions]):
        raise UserError(f"'{path}' is not an idx file of bytes with {dimensions} dimension(s)")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, 4))
    if len(data) - start != int(np.prod(shape, dtype=np.int64)):
        raise UserError(f"'{path}' should hold {shape} bytes, but holds {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
