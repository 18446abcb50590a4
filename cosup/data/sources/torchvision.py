"""Any classification set that torchvision knows, by name."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosup.data.images import ArrayImages, BrokenImage, FileImages, Images, to_rgb
from cosup.data.sources.base import Collection, Source, collect
from cosup.errors import UserError, unknown_name

# The parts of each set as torchvision names them; the part called last is the official test.
# None: the set has no parts.
_BY_TRAIN_FLAG = (True, False)
PARTS: dict[str, tuple[str | bool | None, ...]] = {
    "CIFAR10": _BY_TRAIN_FLAG,
    "CIFAR100": _BY_TRAIN_FLAG,
    "Caltech101": (None,),
    "Caltech256": (None,),
    "Country211": ("train", "valid", "test"),
    "DTD": ("train", "val", "test"),
    "EuroSAT": (None,),
    "FER2013": ("train", "test"),
    "FGVCAircraft": ("trainval", "test"),
    "FashionMNIST": _BY_TRAIN_FLAG,
    "Flowers102": ("train", "val", "test"),
    "Food101": ("train", "test"),
    "GTSRB": ("train", "test"),
    "ImageNet": ("train", "val"),
    "Imagenette": ("train", "val"),
    "KMNIST": _BY_TRAIN_FLAG,
    "MNIST": _BY_TRAIN_FLAG,
    "OxfordIIITPet": ("trainval", "test"),
    "PCAM": ("train", "val", "test"),
    "RenderedSST2": ("train", "val", "test"),
    "SEMEION": (None,),
    "STL10": ("train", "test"),
    "SUN397": (None,),
    "SVHN": ("train", "test"),
    "StanfordCars": ("train", "test"),
    "USPS": _BY_TRAIN_FLAG,
}


@dataclass
class Torchvision(Source):
    """A classification set of torchvision (FashionMNIST, CIFAR10, CIFAR100, ImageNet, ...) on disk.

    A sample is called by its part and its number: `train/00042`.
    """

    dataset: str
    """The set's name in torchvision.datasets."""
    root: str
    """The folder that torchvision is given as `root`."""
    download: bool = False
    """Let torchvision fetch the set if it isn't there."""
    parts: list[str] | None = None
    """Use these parts only (such as `val` of ImageNet); null takes all of them."""
    official_test: bool = True
    """Test on all of the set's own test part (for ImageNet: val) and on no others. The other splits
    then divide the rest in proportion to their shares. False pools the parts and splits anew."""

    def __post_init__(self) -> None:
        if self.dataset not in PARTS:
            raise unknown_name("torchvision dataset", self.dataset, PARTS)
        known = {part_name(part) for part in PARTS[self.dataset]}
        for name in self.parts or []:
            if name not in known:
                raise unknown_name(f"part of {self.dataset}", name, known)

    def load(self) -> Collection:
        """The parts, one after another."""
        own = PARTS[self.dataset]
        used = [part for part in own if self.parts is None or part_name(part) in self.parts]
        loaded = [self._open(part) for part in used]
        labels = [_labels(part) for part in loaded]
        images = _joined([_images(part, self.dataset, self.root) for part in loaded])
        official = self.official_test and len(used) > 1 and own[-1] in used
        tested = [official and part == own[-1] for part in used]
        return collect(
            [
                f"{part_name(p)}/{i:05d}"
                for p, found in zip(used, labels, strict=True)
                for i in range(len(found))
            ],
            np.concatenate(labels),
            _class_names(loaded[0], max(int(found.max()) for found in labels) + 1),
            images,
            split=[
                "test" if test else ""
                for test, found in zip(tested, labels, strict=True)
                for _ in range(len(found))
            ],
            official_test=official,
        )

    def _open(self, part: str | bool | None) -> Any:
        from torchvision import datasets

        if not self.download and not Path(self.root).is_dir():
            raise UserError(f"data.root: no folder '{self.root}'")
        cls = getattr(datasets, self.dataset, None)
        if cls is None:
            raise UserError(f"data.dataset: this torchvision has no {self.dataset}")
        accepted = inspect.signature(cls).parameters
        settings: dict[str, Any] = {"root": self.root}
        if isinstance(part, bool):
            settings["train"] = part
        elif part is not None:
            settings["split"] = part
        if "download" in accepted:
            settings["download"] = self.download
        try:
            return cls(**settings)
        except Exception as error:  # each set has its own way to say that its files aren't there
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"data.root: torchvision can't load {self.dataset} from '{self.root}' "
                f"(download: {str(self.download).lower()}): {reason}"
            ) from None


def part_name(part: str | bool | None) -> str:
    """What cosup calls a part: torchvision's own name, or train and test."""
    if isinstance(part, bool):
        return "train" if part else "test"
    return part or "all"


class DatasetImages:
    """Images that only the dataset itself can read, through `dataset[index]`."""

    files = True

    def __init__(self, name: str, root: str, dataset: Any) -> None:
        self.name, self.root, self.dataset = name, root, dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def where(self, index: int) -> str:
        """The set's name and the image's place in it."""
        return f"{self.name}[{index}]"

    def read(self, index: int) -> Image.Image:
        """The image as PIL RGB."""
        try:
            return to_rgb(self.dataset[index][0])
        except Exception as error:
            raise BrokenImage(f"{self.where(index)}: {error}") from None

    def fingerprint(self, indices: NDArray[np.int64]) -> str:
        """A hash of the set's name, folder and size, and of the order: its files are its own."""
        text = f"{self.name}\x1f{self.root}\x1f{len(self)}"
        return hashlib.sha256(text.encode() + np.asarray(indices, np.int64).tobytes()).hexdigest()


class JoinedImages:
    """Several collections of images, one after another."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.files = any(part.files for part in parts)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _find(self, index: int) -> tuple[Images, int]:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[part], index - int(self.starts[part])

    def where(self, index: int) -> str:
        """As its part calls it."""
        part, place = self._find(index)
        return part.where(place)

    def read(self, index: int) -> Image.Image:
        """The image as PIL RGB."""
        part, place = self._find(index)
        return part.read(place)

    def fingerprint(self, indices: NDArray[np.int64]) -> str:
        """A hash of the parts' fingerprints, and of the order."""
        owner = np.searchsorted(self.starts, indices, side="right") - 1
        digest = hashlib.sha256(np.asarray(indices, np.int64).tobytes())
        for number, part in enumerate(self.parts):
            digest.update(part.fingerprint(indices[owner == number] - self.starts[number]).encode())
        return digest.hexdigest()


def _joined(parts: list[Images]) -> Images:
    arrays = [part for part in parts if isinstance(part, ArrayImages)]
    if len(arrays) == len(parts) and len({part.pixels.shape[1:] for part in arrays}) == 1:
        return ArrayImages(arrays[0].name, np.concatenate([part.pixels for part in arrays]))
    files = [part for part in parts if isinstance(part, FileImages)]
    if len(files) == len(parts):
        return FileImages(files[0].root, [path for part in files for path in part.paths])
    return JoinedImages(parts)


def _images(dataset: Any, name: str, root: str) -> Images:
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and samples and isinstance(samples[0][0], str):
        base = Path(root).absolute()
        paths = [Path(path).absolute() for path, _ in samples]
        inside = all(path.is_relative_to(base) for path in paths)
        return FileImages(base, [str(path.relative_to(base) if inside else path) for path in paths])
    pixels = getattr(dataset, "data", None)
    if pixels is not None and not isinstance(pixels, list):
        array = np.asarray(pixels)
        # SVHN and STL10 put the channels first.
        if array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3:
            array = array.transpose(0, 2, 3, 1)
        if array.dtype == np.uint8 and (array.ndim == 3 or array.shape[-1] == 3):
            return ArrayImages(name, array)
    return DatasetImages(name, root, dataset)


def _labels(dataset: Any) -> NDArray[np.int64]:
    for attribute in ("targets", "labels", "_labels", "y"):
        found = getattr(dataset, attribute, None)
        if found is not None and len(found) == len(dataset):
            return np.asarray(found, dtype=np.int64)
    for attribute in ("samples", "_samples"):
        found = getattr(dataset, attribute, None)
        if isinstance(found, list) and len(found) == len(dataset):
            return np.asarray([sample[1] for sample in found], dtype=np.int64)
    return np.asarray([dataset[index][1] for index in range(len(dataset))], dtype=np.int64)


def _class_names(dataset: Any, count: int) -> list[str]:
    found = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    if found is None or len(found) < count:
        return [str(number) for number in range(count)]
    # ImageNet gives each class a tuple of synonyms, and has two classes called crane.
    names = [name if isinstance(name, str) else str(name[0]) for name in found]
    taken = Counter(names)
    return [name if taken[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]
