"""The idx files of MNIST, Fashion-MNIST and their kin, gzipped or not, read where they lie."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosup.data.images import ArrayImages
from cosup.data.sources.base import Collection, Source, check_angles, collect, rotated
from cosup.errors import UserError

_PARTS = {"train": ("train",), "test": ("t10k", "test")}
_FORMS = ("{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte")
_UBYTE = 0x08


@dataclass
class Idx(Source):
    """`train-images-idx3-ubyte[.gz]` and its labels, and the same for `t10k`.

    Debian's dataset-fashion-mnist puts Fashion-MNIST's in /usr/share/datasets/fashion-mnist.
    A sample is called by its part and its number, `train/00042`, and a rotated one by its angle
    too: `train/00042@30`.
    """

    root: str
    """The folder that holds the files."""
    classes: list[str] | None = None
    """Class names in the order of the labels; null calls them by their numbers."""
    part: Literal["both", "train", "test"] = "both"
    """Read one part of the set alone: the splits then divide that part by their shares, and there
    is no official test. `both` reads what is there."""
    official_test: bool = True
    """Test on all of the set's own test part and on no others. The other splits then divide the
    train part in proportion to their shares. False pools both parts and splits anew. Of no
    effect where one part is read alone."""
    rotations: tuple[float, ...] | None = None
    """Show every image in each of these rotations (degrees, counter-clockwise; at its own size).
    Each is a domain; those of one image are one group, which no split divides. Null: as it is."""

    def __post_init__(self) -> None:
        if self.rotations is not None:
            check_angles(self.rotations)

    def load(self) -> Collection:
        """The train part, then the test part; with rotations all of that once per rotation."""
        root = Path(self.root)
        parts = _wanted(root, self.part)
        pixels, labels = _read(root, parts)
        every = np.concatenate(labels).astype(np.int64)
        official = self.official_test and len(parts) == 2
        count = {part: len(array) for part, array in zip(parts, labels, strict=True)}
        found = collect(
            [f"{part}/{number:05d}" for part in parts for number in range(count[part])],
            every,
            self._names(int(every.max()) + 1),
            ArrayImages(self.root, pixels),
            split=[
                "test" if official and p == "test" else "" for p in parts for _ in range(count[p])
            ],
            official_test=official,
        )
        return found if self.rotations is None else rotated(found, self.rotations)

    def _names(self, count: int) -> list[str]:
        """The names of all classes; labels need `count` of them at least."""
        names = self.classes or [str(number) for number in range(count)]
        if len(set(names)) < len(names):
            raise UserError(f"data.classes: {names}: a name stands twice")
        if count > len(names):
            raise UserError(
                f"data.classes: {len(names)} names, but '{self.root}' holds label {count - 1}"
            )
        return names


def _wanted(root: Path, part: str) -> list[str]:
    """The parts to read; `UserError` where they are missing."""
    if not root.is_dir():
        raise UserError(f"data.root: no folder '{root}'")
    there = [name for name in _PARTS if _find(root, name, "images", 3)]
    if part == "both" and not there:
        raise UserError(f"data.root: folder '{root}' holds no train-images-idx3-ubyte[.gz]")
    if part != "both" and part not in there:
        file = _FORMS[0].format(_PARTS[part][0], "images", 3)
        raise UserError(f"data.part: '{part}', but folder '{root}' holds no {file}[.gz]")
    return there if part == "both" else [part]


def _find(root: Path, part: str, kind: str, dimensions: int) -> Path | None:
    for prefix in _PARTS[part]:
        for form in _FORMS:
            name = form.format(prefix, kind, dimensions)
            for path in (root / name, root / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def _read(root: Path, parts: list[str]) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """The images of all parts, one after another, and each part's labels."""
    pixels, labels = zip(*(_read_part(root, part) for part in parts), strict=True)
    if len({array.shape[1:] for array in pixels}) > 1:
        raise UserError(f"data.root: '{root}': train and test images differ in size")
    return np.concatenate(pixels), list(labels)


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
