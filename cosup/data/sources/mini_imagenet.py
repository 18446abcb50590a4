"""miniImageNet in its usual layouts: 64 base, 16 validation and 20 novel classes."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from cosup.data.images import FileImages
from cosup.data.sources.base import Collection, Source, coded, collect
from cosup.data.sources.folders import class_images, folders
from cosup.data.sources.table import read_table
from cosup.errors import UserError

PARTS = {"train": "base", "val": "validation", "test": "novel"}
"""What the classes of each part are for."""


@dataclass
class MiniImageNet(Source):
    """`root/train.csv`, `val.csv` and `test.csv` (columns `filename,label`, as Ravi and Larochelle
    published them) with the images in `root/images/`; or `root/{train,val,test}/CLASS/*`.

    The parts hold different classes: base ones to train on, those for validation, and novel ones
    (`data.few_shot.novel: given`). A sample is called by its path below root.
    """

    root: str
    """The folder."""

    def load(self) -> Collection:
        """All images, part after part; the classes in the order of the parts."""
        root = Path(self.root)
        found = folders(root)  # says so if the folder is missing or can't be read
        if (root / "train.csv").is_file():
            parts = {part: _listed(root, part) for part in PARTS}
        elif set(PARTS) <= set(found):
            parts = {part: _in_folders(root, part) for part in PARTS}
        else:
            raise UserError(
                f"data.root: '{root}' holds neither train.csv, val.csv and test.csv nor the "
                "folders train, val and test"
            )
        role_of = _roles(parts)
        paths = [path for rows in parts.values() for path, _ in rows]
        labels = [label for rows in parts.values() for _, label in rows]
        classes = list(role_of)
        found_all = collect(
            paths, coded(labels, classes, "class"), classes, FileImages(root, paths)
        )
        return replace(found_all, roles=tuple(role_of.values()))


def _listed(root: Path, part: str) -> list[tuple[str, str]]:
    file = root / f"{part}.csv"
    frame = read_table(str(file), "data.root")
    for column in ("filename", "label"):
        if column not in frame:
            raise UserError(
                f"'{file}' has no column '{column}' (found: {', '.join(frame.columns)})"
            )
        if (frame[column] == "").any():
            row = int((frame[column] == "").to_numpy().argmax()) + 1
            raise UserError(f"'{file}' row {row}: '{column}' is empty")
    paths = [PurePosixPath("images", name).as_posix() for name in frame["filename"]]
    return list(zip(paths, frame["label"], strict=True))


def _in_folders(root: Path, part: str) -> list[tuple[str, str]]:
    labels = folders(root / part)
    if not labels:
        raise UserError(f"data.root: folder '{root / part}' holds no folder of a class")
    return [
        (PurePosixPath(part, label, image).as_posix(), label)
        for label in labels
        for image in class_images(root / part / label)
    ]


def _roles(parts: dict[str, list[tuple[str, str]]]) -> dict[str, str]:
    """Each class's role; no class may be in two parts."""
    part_of: dict[str, str] = {}
    for part, rows in parts.items():
        for _, label in rows:
            if part_of.setdefault(label, part) != part:
                raise UserError(
                    f"data.root: class '{label}' is in {part_of[label]} and in {part}; the parts "
                    "of a few-shot set share no class"
                )
    return {label: PARTS[part] for label, part in part_of.items()}
