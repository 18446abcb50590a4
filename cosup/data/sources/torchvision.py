"""The classification datasets of torchvision, by name."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cosup.data.images import ArrayImages, BrokenImage, FileImages, Images, Ints, to_rgb
from cosup.data.sources.base import Collection, Columns, Names, Source, collect
from cosup.errors import UserError, in_short, unknown_name

_BY_TRAIN_FLAG = (True, False)
DATASET_PARTS: dict[str, tuple[str | bool | None, ...]] = {
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
"""The parts of each dataset as named by torchvision; the last is the official test part. None: the
dataset has no parts."""


@dataclass
class Torchvision(Source):
    """A dataset of torchvision (FashionMNIST, CIFAR10, CIFAR100, ImageNet, ...).

    Sample ids are `PART/NUMBER`, such as `train/00042`.
    """

    dataset: str
    """The name of the class in torchvision.datasets."""
    root: str
    """The folder, as torchvision's argument `root`."""
    download: bool = False
    """Let torchvision download the dataset if it is not there."""
    parts: list[str] | None = None
    """Parts to use (such as `val` of ImageNet); null uses all."""
    official_test: bool = True
    """Test on all of the dataset's own test part (for ImageNet: val) and on no others. The other
    splits divide the rest in proportion to their shares. False pools all parts and splits them
    anew."""

    def __post_init__(self) -> None:
        if self.dataset not in DATASET_PARTS:
            raise unknown_name("dataset", self.dataset, DATASET_PARTS, key="dataset")
        known = {part_name(part) for part in DATASET_PARTS[self.dataset]}
        for name in self.parts or []:
            if name not in known:
                raise unknown_name(f"part of {self.dataset}", name, known, key="parts")

    def peek(self) -> Names:
        """Check that the folder exists."""
        if not self.download and not Path(self.root).is_dir():
            raise UserError("no folder {value}", key="root", value=self.root)
        return Names(domains=("all",))

    def load(self) -> Collection:
        """List the parts one after another."""
        own = DATASET_PARTS[self.dataset]
        used = [part for part in own if self.parts is None or part_name(part) in self.parts]
        loaded = [self._open(part) for part in used]
        labels = [_labels_of(part) for part in loaded]
        images = _join([_images_of(part, self.dataset, self.root) for part in loaded])
        official = self.official_test and len(used) > 1 and own[-1] in used
        tested = [official and part == own[-1] for part in used]
        columns = Columns(
            [
                f"{part_name(p)}/{i:05d}"
                for p, found in zip(used, labels, strict=True)
                for i in range(len(found))
            ],
            np.concatenate(labels),
            split=[
                "test" if test else ""
                for test, found in zip(tested, labels, strict=True)
                for _ in range(len(found))
            ],
        )
        names = _class_names(loaded[0], max(int(found.max()) for found in labels) + 1)
        return collect(columns, images, names, official_test=official)

    def _open(self, part: str | bool | None) -> Any:
        from torchvision import datasets  # slow to import, see `Source`

        if not self.download and not Path(self.root).is_dir():
            raise UserError("no folder {value}", key="root", value=self.root)
        cls = getattr(datasets, self.dataset, None)
        if cls is None:
            raise UserError("not in this version of torchvision", key="dataset", value=self.dataset)
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
        except Exception as error:  # datasets report missing files by various types of errors
            raise UserError(
                f"torchvision cannot load {self.dataset} from {{value}} "
                f"(download: {str(self.download).lower()}): {in_short(error)}",
                key="root",
                value=self.root,
            ) from None


def part_name(part: str | bool | None) -> str:
    """Return the name of a part: torchvision's own, or train and test."""
    if isinstance(part, bool):
        return "train" if part else "test"
    return part or "all"


class DatasetImages:
    """Images that only the dataset itself can read, by `dataset[index]`."""

    files = True

    def __init__(self, name: str, root: str, dataset: Any) -> None:
        self.name, self.root, self.dataset = name, root, dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def where(self, index: int) -> str:
        """Return the name of the dataset and the index."""
        return f"{self.name}[{index}]"

    def read(self, index: int) -> Image.Image:
        """Return the image as PIL RGB."""
        try:
            return to_rgb(self.dataset[index][0])
        except Exception as error:
            raise BrokenImage(f"{self.where(index)}: {in_short(error)}") from None

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of the dataset's name, folder and size, and of the order; the files are
        unknown."""
        text = f"{self.name}\x1f{self.root}\x1f{len(self)}"
        return hashlib.sha256(text.encode() + np.asarray(indices, np.int64).tobytes()).hexdigest()


class JoinedImages:
    """Several collections of images in one."""

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
        """Return the name that its collection has for it."""
        part, place = self._find(index)
        return part.where(place)

    def read(self, index: int) -> Image.Image:
        """Return the image as PIL RGB."""
        part, place = self._find(index)
        return part.read(place)

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of the fingerprints of the collections, and of the order."""
        owner = np.searchsorted(self.starts, indices, side="right") - 1
        digest = hashlib.sha256(np.asarray(indices, np.int64).tobytes())
        for number, part in enumerate(self.parts):
            digest.update(part.fingerprint(indices[owner == number] - self.starts[number]).encode())
        return digest.hexdigest()


def _join(parts: list[Images]) -> Images:
    arrays = [part for part in parts if isinstance(part, ArrayImages)]
    if len(arrays) == len(parts) and len({part.pixels.shape[1:] for part in arrays}) == 1:
        return ArrayImages(arrays[0].name, np.concatenate([part.pixels for part in arrays]))
    files = [part for part in parts if isinstance(part, FileImages)]
    if len(files) == len(parts):
        return FileImages(files[0].root, [path for part in files for path in part.paths])
    return JoinedImages(parts)


def _images_of(dataset: Any, name: str, root: str) -> Images:
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and samples and isinstance(samples[0][0], str):
        base = Path(root).absolute()
        paths = [Path(path).absolute() for path, _ in samples]
        inside = all(path.is_relative_to(base) for path in paths)
        return FileImages(base, [str(path.relative_to(base) if inside else path) for path in paths])
    pixels = getattr(dataset, "data", None)
    if pixels is not None and not isinstance(pixels, list):
        array = np.asarray(pixels)
        # SVHN and STL10 have the channels first.
        if array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3:
            array = array.transpose(0, 2, 3, 1)
        if array.dtype == np.uint8 and (array.ndim == 3 or array.shape[-1] == 3):
            return ArrayImages(name, array)
    return DatasetImages(name, root, dataset)


def _labels_of(dataset: Any) -> Ints:
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
    # ImageNet has a tuple of synonyms per class, and two classes named crane.
    names = [name if isinstance(name, str) else str(name[0]) for name in found]
    taken = Counter(names)
    return [name if taken[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]
