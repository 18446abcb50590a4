"""A folder per class, perhaps below a folder per split."""

import logging
from dataclasses import dataclass
from pathlib import Path

from cosup.data.images import FileImages
from cosup.data.sources.base import SPLITS, Collection, Source, coded, collect, ordered_names
from cosup.data.sources.files import class_images, folders
from cosup.errors import UserError

log = logging.getLogger(__name__)

SPLIT_FOLDERS = frozenset({*SPLITS, "train", "val", "valid"})


@dataclass
class ImageFolder(Source):
    """`root/class/*`, or `root/split/class/*`; a sample is called by its path below root.

    It is the second form if every folder in root is named train, val, valid, validation, test,
    teacher_train or student_train and itself holds folders. With `splits: given` these must be
    named as cosup's splits; with shares all images are pooled and split anew.
    """

    root: str
    """The folder."""

    def load(self) -> Collection:
        """All images below the class folders."""
        root = Path(self.root)
        names = folders(root)
        if not names:
            raise UserError(
                f"data.root: folder '{root}' holds no folder of a class (root/class/image)"
            )
        by_split = all(name in SPLIT_FOLDERS and folders(root / name) for name in names)
        if by_split:
            log.info("data.root: '%s' holds splits: %s", root, ", ".join(names))
        paths, labels, splits = [], [], []
        for split in names if by_split else [""]:
            for name in folders(root / split):
                found = [
                    Path(split, name, image).as_posix()
                    for image in class_images(root / split / name)
                ]
                paths += found
                labels += [name] * len(found)
                splits += [split] * len(found)
        classes = ordered_names(labels)
        label = coded(labels, classes, "class")
        return collect(paths, label, classes, FileImages(root, paths), split=splits)
