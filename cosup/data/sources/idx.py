"""The idx files of MNIST, Fashion-MNIST and similar datasets, gzipped or not."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosup.data.images import ArrayImages
from cosup.data.sources.base import (
    Collection,
    Columns,
    Names,
    Source,
    angle_domains,
    check_angles,
    collect,
    rotated,
)
from cosup.errors import UserError

_FILE_PREFIXES = {"train": ("train",), "test": ("t10k", "test")}
_FILE_FORMS = ("{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte")
_UBYTE = 0x08


@dataclass
class Idx(Source):
    """`train-images-idx3-ubyte[.gz]` and its labels, and the same for `t10k`.

    Debian's dataset-fashion-mnist installs Fashion-MNIST in /usr/share/datasets/fashion-mnist.
    Sample ids are `PART/NUMBER`, such as `train/00042`, and `train/00042@30` for rotated images.
    """

    root: str
    """The folder with the files."""
    classes: list[str] | None = None
    """Class names in the order of the labels; null uses the numbers."""
    part: Literal["both", "train", "test"] = "both"
    """Read only one part of the dataset: the splits then divide that part by their shares, and
    there is no official test. `both` reads the parts that exist."""
    official_test: bool = True
    """Test on all of the dataset's own test part and on no others. The other splits divide the
    train part in proportion to their shares. False pools both parts and splits them anew. Ignored
    if only one part is read."""
    rotations: tuple[float, ...] | None = None
    """Use every image in each of these rotations (degrees, counter-clockwise; same size). Each
    rotation is a domain; the rotations of one image are one group, which no split divides. Null
    uses the images as they are."""

    def __post_init__(self) -> None:
        if self.rotations is not None:
            check_angles(self.rotations)

    def peek(self) -> Names:
        """Check that the files exist."""
        _parts_to_read(Path(self.root), self.part)
        domains = ("all",) if self.rotations is None else angle_domains(self.rotations)
        return Names(None if self.classes is None else tuple(self.classes), domains)

    def load(self) -> Collection:
        """List the train part, then the test part, once per rotation."""
        root = Path(self.root)
        parts = _parts_to_read(root, self.part)
        pixels, labels = _read_parts(root, parts)
        every = np.concatenate(labels).astype(np.int64)
        official = self.official_test and len(parts) == 2
        count = {part: len(array) for part, array in zip(parts, labels, strict=True)}
        columns = Columns(
            [f"{part}/{number:05d}" for part in parts for number in range(count[part])],
            every,
            split=[
                "test" if official and p == "test" else "" for p in parts for _ in range(count[p])
            ],
        )
        names = self._class_names(int(every.max()) + 1)
        images = ArrayImages(self.root, pixels)
        found = collect(columns, images, names, official_test=official)
        return found if self.rotations is None else rotated(found, self.rotations)

    def _class_names(self, count: int) -> list[str]:
        """Return the names of all classes; the labels need at least `count` of them."""
        names = self.classes or [str(number) for number in range(count)]
        if len(set(names)) < len(names):
            raise UserError("a name is given twice", key="classes", value=names)
        if count > len(names):
            raise UserError(
                f"{len(names)} names, but '{self.root}' has label {count - 1}",
                key="classes",
                value=names,
            )
        return names


def _parts_to_read(root: Path, part: str) -> list[str]:
    """Return the parts to read; raise `UserError` if they are missing."""
    if not root.is_dir():
        raise UserError("no folder {value}", key="root", value=str(root))
    existing = [name for name in _FILE_PREFIXES if _find(root, name, "images", 3)]
    if part == "both" and not existing:
        raise UserError(
            "no train-images-idx3-ubyte[.gz] in this folder", key="root", value=str(root)
        )
    if part != "both" and part not in existing:
        file = _FILE_FORMS[0].format(_FILE_PREFIXES[part][0], "images", 3)
        raise UserError(f"folder '{root}' has no {file}[.gz]", key="part", value=part)
    return existing if part == "both" else [part]


def _find(root: Path, part: str, kind: str, dimensions: int) -> Path | None:
    for prefix in _FILE_PREFIXES[part]:
        for form in _FILE_FORMS:
            name = form.format(prefix, kind, dimensions)
            for path in (root / name, root / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def _read_parts(root: Path, parts: list[str]) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """Return the images of all parts in one array, and the labels of each part."""
    pixels, labels = zip(*(_read_part(root, part) for part in parts), strict=True)
    if len({array.shape[1:] for array in pixels}) > 1:
        raise UserError("train and test images differ in size", key="root", value=str(root))
    return np.concatenate(pixels), list(labels)


def _read_part(root: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = _find(root, part, "images", 3), _find(root, part, "labels", 1)
    assert images is not None
    if labels is None:
        raise UserError("no file of labels for these images", key="root", value=str(images))
    pixels, answers = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(answers) or len(pixels) == 0:
        raise UserError(
            f"{len(pixels)} images, but {len(answers)} labels in '{labels}'",
            key="root",
            value=str(images),
        )
    return pixels, answers


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes; raise `UserError` for any other file."""

    def error(problem: str) -> UserError:
        return UserError(problem, key="root", value=str(path))

    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as reason:
        raise error(f"cannot be read: {reason}") from None
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes([0, 0, _UBYTE, dimensions]):
        raise error(f"not an idx file of bytes with {dimensions} dimension(s)")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, 4))
    if len(data) - start != int(np.prod(shape, dtype=np.int64)):
        raise error(f"should have {shape} bytes, but has {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
