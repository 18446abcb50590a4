"""miniImageNet in its usual layouts: 64 base, 16 validation and 20 novel classes."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from cosup.data.images import FileImages
from cosup.data.sources.base import Collection, Columns, Names, Source, collect, name_indices
from cosup.data.sources.files import class_images, folders
from cosup.data.sources.table import read_table
from cosup.errors import UserError, within
from cosup.words import printable

ROLES = {"train": "base", "val": "validation", "test": "novel"}
"""The role of the classes of each part."""


@dataclass
class MiniImageNet(Source):
    """`root/train.csv`, `val.csv` and `test.csv` (columns `filename,label`, as published by Ravi
    and Larochelle) with the images in `root/images/`; or `root/{train,val,test}/CLASS/*`.

    The parts have different classes: base classes to train on, classes for validation, and novel
    classes (`data.few_shot.novel: given`). Sample ids are paths below root.
    """

    root: str
    """The folder."""

    def peek(self) -> Names:
        """Check that the folder exists."""
        folders(Path(self.root))
        return Names(domains=("all",))

    def load(self) -> Collection:
        """List all images part by part; classes are in the order of the parts."""
        root = Path(self.root)
        found = folders(root)  # raises if the folder is missing or unreadable
        if (root / "train.csv").is_file():
            parts = {part: _rows_of_csv(root, part) for part in ROLES}
        elif set(ROLES) <= set(found):
            parts = {part: _rows_of_folders(root, part) for part in ROLES}
        else:
            raise UserError(
                "neither train.csv, val.csv and test.csv nor folders train, val and test are here",
                key="root",
                value=self.root,
            )
        role_of = _class_roles(parts)
        paths = [path for rows in parts.values() for path, _ in rows]
        labels = [label for rows in parts.values() for _, label in rows]
        classes = list(role_of)
        columns = Columns(list(map(printable, paths)), name_indices(labels, classes))
        collection = collect(columns, FileImages(root, paths), classes)
        return replace(collection, roles=tuple(role_of.values()))


def _rows_of_csv(root: Path, part: str) -> list[tuple[str, str]]:
    """Return the path and label of each sample."""
    file = root / f"{part}.csv"
    with within("root"):
        frame = read_table(str(file))
    for column in ("filename", "label"):
        if column not in frame:
            raise UserError(
                f"no column '{column}' (found: {', '.join(frame.columns)})",
                key="root",
                value=str(file),
            )
        if (frame[column] == "").any():
            row = int((frame[column] == "").to_numpy().argmax()) + 1
            raise UserError(f"row {row}: '{column}' is empty", key="root", value=str(file))
    paths = [PurePosixPath("images", name).as_posix() for name in frame["filename"]]
    return list(zip(paths, frame["label"], strict=True))


def _rows_of_folders(root: Path, part: str) -> list[tuple[str, str]]:
    labels = folders(root / part)
    if not labels:
        raise UserError("no folder of a class in this folder", key="root", value=str(root / part))
    return [
        (PurePosixPath(part, label, image).as_posix(), label)
        for label in labels
        for image in class_images(root / part / label)
    ]


def _class_roles(parts: dict[str, list[tuple[str, str]]]) -> dict[str, str]:
    """Return the role of each class; raise `UserError` for a class in two parts."""
    part_of: dict[str, str] = {}
    for part, rows in parts.items():
        for _, label in rows:
            if part_of.setdefault(label, part) != part:
                raise UserError(
                    f"class {{value}} is in {part_of[label]} and in {part}; the parts of a "
                    "few-shot dataset share no class",
                    key="root",
                    value=label,
                )
    return {label: ROLES[part] for label, part in part_of.items()}
