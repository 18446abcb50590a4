"""The samples of a run: their table, splits, classes, domains and images."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from cosup.data.answers import NOT_REVIEWED, Answer, Applied
from cosup.data.checks import lacking_classes
from cosup.data.images import Images, Ints
from cosup.data.notes import Note
from cosup.data.shifted import shifted_split
from cosup.data.sources import SPLITS
from cosup.data.sources.base import integer_codes
from cosup.errors import RunError, UserError, unknown_name
from cosup.evidence import Truth

__all__ = ["ImageData", "Known", "image_fingerprint"]


@dataclass(frozen=True)
class Known:
    """Facts about the samples that one process hands to another, which then reads no image.

    broken: ids of the samples set aside. fingerprint: of the images. digest: of the sample table.
    answers: of a person. shifted: facts about the shifted test sets, by name.
    """

    broken: tuple[str, ...]
    fingerprint: str
    digest: str
    answers: tuple[Answer, ...] = ()
    shifted: Mapping[str, "Known"] = field(default_factory=dict)

    def check(self, table: pd.DataFrame, where: str = "data") -> None:
        """Raise `RunError` if a table of samples is not that of these facts."""
        if self.digest != _table_digest(table):
            raise RunError(
                f"{where}: the {len(table)} samples found here are not those that the run was "
                "started with; every node needs the same data"
            )


@dataclass(frozen=True)
class ImageData:
    """All samples of a run.

    table: rows 0 .. N-1 with sample_id (str, unique), label (int64, -1 unknown), domain (int64),
    group (str), split (one of `SPLITS`, or "" for unused), image (int64 index into `images`), given
    (int64, the label used in training: `label` with noise).
    domains: ("all",) if there are none. fingerprint: a hash of the images in the order of the rows,
    whatever their labels and splits. broken: ids of the samples set aside. drawn: the splits were
    drawn, so they depend on the seed. share_train: teachers train on student_train.
    novel, novel_validation: samples of the classes set aside for few-shot learning, with their own
    classes and labels, all in the split test or validation. notes: what is unusual about them.
    left_out: ids of the samples that `limit` leaves out.
    answers: labels by a person, which `table` has already. applied: how they are used.
    shifted: test sets of other distributions, by name, with the same classes, all in the split
    test.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    images: Images
    fingerprint: str
    broken: tuple[str, ...] = ()
    drawn: bool = False
    share_train: bool = False
    novel: "ImageData | None" = None
    novel_validation: "ImageData | None" = None
    notes: tuple[Note, ...] = ()
    left_out: tuple[str, ...] = ()
    answers: tuple[Answer, ...] = ()
    applied: Applied = NOT_REVIEWED
    shifted: Mapping[str, "ImageData"] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, split: str) -> Ints:
        """Return the rows of a split, ascending; with share_train, teacher_train is student_train.

        Raise `UserError` for an unknown split.
        """
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        if self.share_train and split == "teacher_train":
            split = "student_train"
        return np.flatnonzero((self.table["split"] == split).to_numpy(bool)).astype(np.int64)

    def labelled(self, rows: Ints) -> Ints:
        """Return those of these rows whose true label is known, in their order."""
        return rows[self.table["label"].to_numpy(np.int64)[rows] >= 0]

    def lacking_classes(self, split: str) -> list[int]:
        """Return the classes without a sample in a split; none if it has unknown labels."""
        own = "student_train" if self.share_train and split == "teacher_train" else split
        return lacking_classes(self.table, self.classes, own)

    def truth(self, rows: Ints) -> Truth:
        """Return the true classes and domains of these rows as tensors."""
        label = self.table["label"].to_numpy(np.int64)[rows]
        domain = self.table["domain"].to_numpy(np.int64)[rows]
        return Truth(torch.from_numpy(label), torch.from_numpy(domain))

    def given(self, rows: Ints) -> Tensor:
        """Return the classes used in training, with noise: int64 [len(rows)], -1 unknown."""
        return torch.from_numpy(self.table["given"].to_numpy(np.int64)[rows])

    def reviewed(self, rows: Ints) -> Tensor | None:
        """Return the classes that a person gave: int64 [len(rows)], -1 unknown; None without any.

        Only those of student_train are among them, which the student may learn from.
        """
        if "reviewed" not in self.table:
            return None
        return torch.from_numpy(self.table["reviewed"].to_numpy(np.int64)[rows])

    def noisy(self, rows: Ints) -> Tensor:
        """Return whether the class used in training is not the true one: bool [len(rows)]."""
        return self.given(rows) != self.truth(rows).labels

    def groups(self, rows: Ints) -> Ints:
        """Return codes [len(rows)], equal for samples of one group."""
        return integer_codes(self.table["group"].iloc[rows])

    def sample_ids(self, rows: Ints) -> list[str]:
        """Return the ids of these samples."""
        return [str(name) for name in self.table["sample_id"].iloc[rows]]

    def find(self, sample_ids: Sequence[str]) -> Ints:
        """Return the row of each sample; raise `UserError` for one that is not there."""
        places = pd.Index(self.table["sample_id"]).get_indexer(list(sample_ids))
        rows: Ints = places.astype(np.int64)
        if (rows < 0).any():
            name = sample_ids[int(np.argmin(rows))]
            raise UserError(f"sample '{name}' is no longer in the data", key="data")
        return rows

    def where(self, row: int) -> str:
        """Return the file of a sample's image, or the name of its place."""
        return self.images.where(int(self.table["image"].to_numpy(np.int64)[row]))

    def read(self, row: int) -> Image.Image:
        """Return the sample's image as PIL RGB; raise `BrokenImage` if it cannot be read."""
        return self.images.read(int(self.table["image"].to_numpy(np.int64)[row]))

    def subset(self, rows: Ints) -> "ImageData":
        """Return these samples only, in this order."""
        table = self.table.iloc[rows].reset_index(drop=True)
        return replace(self, table=table, fingerprint=image_fingerprint(self.images, table))

    def known(self) -> Known:
        """Return what `load_data` needs to list these samples again without reading images."""
        shifted = {name: part.known() for name, part in self.shifted.items()}
        digest = _table_digest(self.table)
        return Known(self.broken, self.fingerprint, digest, self.answers, shifted)

    def part(self, split: str) -> tuple["ImageData", Ints]:
        """Return the samples that a split is of, and its rows: these, or for the name of a shifted
        set (`shifted_split`) that set."""
        for name, found in self.shifted.items():
            if split == shifted_split(name):
                return found, found.rows("test")
        return self, self.rows(split)

    def name_of(self, other: "ImageData", split: str) -> str | None:
        """Return by which name `part` finds a split of other samples: these, or a shifted set.

        None if they are neither.
        """
        if other is self:
            return split
        sets = (name for name, found in self.shifted.items() if found is other)
        return next(map(shifted_split, sets), None)

    def split_fingerprint(self, split: str) -> str:
        """Return a hash of a split's images, ids, true and given labels and domains, in order."""
        part = self.table.iloc[self.rows(split)]
        digest = hashlib.sha256(f"{self.fingerprint}\x1f{self.classes}\x1f{self.domains}".encode())
        digest.update(part.index.to_numpy(np.int64).tobytes())
        digest.update("\x1f".join(part["sample_id"]).encode(errors="surrogateescape"))
        for column in ("label", "domain", "given"):
            digest.update(part[column].to_numpy(np.int64).tobytes())
        return digest.hexdigest()


def image_fingerprint(images: Images, table: pd.DataFrame) -> str:
    """Return a hash of the images in the order of the rows of a table of samples."""
    return images.fingerprint(table["image"].to_numpy(np.int64))


def _table_digest(table: pd.DataFrame) -> str:
    """Return a hash of the samples' ids, labels, domains and splits, in order."""
    digest = hashlib.sha256()
    for column in ("sample_id", "split"):
        digest.update("\x1f".join(table[column]).encode(errors="surrogateescape"))
    for column in ("label", "domain", "given", "image"):
        digest.update(table[column].to_numpy(np.int64).tobytes())
    return digest.hexdigest()
