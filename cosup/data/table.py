"""The sample table of a run: list the samples, check the images, draw the splits."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from cosup.data.answers import NOT_REVIEWED, Answer, Applied, apply_answers, read_answers
from cosup.data.broken import without_broken
from cosup.data.checks import check_splits, lacking_classes
from cosup.data.few_shot import class_parts
from cosup.data.images import Images, Ints
from cosup.data.noise import noisy_labels
from cosup.data.notes import Note, split_notes
from cosup.data.section import DataSection
from cosup.data.shares import draw_limit
from cosup.data.shifted import shifted_split
from cosup.data.sources import SOURCES, SPLITS, Collection
from cosup.data.sources.base import TABLE_COLUMNS, integer_codes
from cosup.data.splits import split_samples
from cosup.errors import RunError, UserError, unknown_name, within
from cosup.evidence import Truth

log = logging.getLogger(__name__)

TRAINING_SPLITS = ("teacher_train", "student_train")


class Listed(NamedTuple):
    """The samples of a source, and the ids of those that `limit` leaves out."""

    samples: Collection
    left_out: tuple[str, ...]


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
        return replace(self, table=table, fingerprint=_image_fingerprint(self.images, table))

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


def load_data(
    section: DataSection,
    seed: int,
    workers: int,
    cache: Path | None,
    known: Known | None = None,
    *,
    teacher_train: bool = True,
    listed: Listed | None = None,
) -> ImageData:
    """List the samples, apply `limit`, set broken images aside, and split.

    workers: threads that decode images to check them. cache: folder for the results of the check.
    known: facts that another process found about the same samples; no image is read then.
    teacher_train: whether that split is wanted (`Config.wants_teacher_train`). listed: what
    `list_source` returned; None lists the samples.
    Raise `UserError`, keyed within `data`, for anything wrong with the data, and `RunError` if the
    samples are not those of `known`.
    """
    with within("data"):
        collection, left_out = list_source(section, seed) if listed is None else listed
        if known is None:
            collection, broken = without_broken(collection, section, workers, cache)
        else:
            collection, broken = collection.without(known.broken), known.broken
        collection, novel, novel_validation = _base_and_novel(collection, section, seed)
        table, drawn = _split_table(collection, section, seed, teacher_train)
        table = table.assign(given=_training_labels(table, collection.classes, section, seed))
        answers = _answers(section, known)
        table, applied = _with_answers(table, answers, collection, section)
    if known is not None:
        known.check(table)
    images = collection.images
    return ImageData(
        table,
        collection.classes,
        collection.domains,
        images,
        _image_fingerprint(images, table) if known is None else known.fingerprint,
        broken,
        drawn=drawn or applied.total > 0,
        share_train=section.share_train,
        novel=novel,
        novel_validation=novel_validation,
        left_out=left_out,
        notes=(
            *split_notes(collection, table, section, teacher_train),
            *([Note(applied.sentence)] if applied.total else []),
        ),
        answers=answers,
        applied=applied,
    )


def _answers(section: DataSection, known: Known | None) -> tuple[Answer, ...]:
    """Return the answers of a person, from the file unless another process has read it."""
    if section.answers is None or (known is not None and known.answers):
        return () if known is None else known.answers
    with within("answers"):
        return tuple(read_answers(Path(section.answers)))


def _with_answers(
    table: pd.DataFrame, answers: Sequence[Answer], collection: Collection, section: DataSection
) -> tuple[pd.DataFrame, Applied]:
    """Return the table with the answers used, and how they are."""
    if section.answers is None:
        return table, NOT_REVIEWED
    with within("answers"):
        return apply_answers(
            table,
            collection.classes,
            answers,
            where=section.answers,
            grouped=collection.grouped,
            measure=section.answers_as == "auto",
        )


def list_source(section: DataSection, seed: int) -> Listed:
    """Return the source's samples, grouped as configured, at most `limit` of them.

    Raise `UserError`, with keys within `data`.
    """
    collection = SOURCES.build(section.source).load()
    table = collection.table
    twice = table["sample_id"].duplicated()
    if twice.any():
        name = table.loc[twice, "sample_id"].iloc[0]
        count = int((table["sample_id"] == name).sum())
        raise UserError(f"sample_id '{name}' is used by {count} samples; each needs its own")
    if section.group_by is not None:
        collection = collection.grouped_by(section.group_by)
    if section.limit is None:
        return Listed(collection, ())
    chosen = draw_limit(collection, section.limit, section.stratify, seed)
    left_out = table["sample_id"][~table["sample_id"].isin(chosen.table["sample_id"])]
    return Listed(chosen, tuple(map(str, left_out)))


def _base_and_novel(
    collection: Collection, section: DataSection, seed: int
) -> tuple[Collection, ImageData | None, ImageData | None]:
    """Return the samples of base classes, and those of novel and novel validation classes."""
    if section.few_shot is None:
        return collection, None, None
    with within("few_shot"):
        parts = class_parts(collection.classes, collection.roles, section.few_shot, seed)
    novel = _set_aside(collection.of_classes(parts.novel), "test")
    validation = None
    if parts.validation:
        validation = _set_aside(collection.of_classes(parts.validation), "validation")
    return collection.of_classes(parts.base, unlabelled=True), novel, validation


def _set_aside(collection: Collection, split: str) -> ImageData:
    """Return samples that are not trained on, all in one split."""
    table = collection.table[list(TABLE_COLUMNS)].assign(split=split)
    return ImageData(
        table.assign(given=table["label"]),
        collection.classes,
        collection.domains,
        collection.images,
        _image_fingerprint(collection.images, table),
    )


def _split_table(
    collection: Collection, section: DataSection, seed: int, teacher_train: bool
) -> tuple[pd.DataFrame, bool]:
    """Return the table with its splits, checked, and whether they were drawn."""
    table = collection.table
    splits = split_samples(
        collection,
        section.splits,
        absent=section.absent_splits(teacher_train),
        stratify=section.stratify,
        groups=integer_codes(table["group"]) if collection.grouped else None,
        seed=seed,
        divide_test=section.divide_test,
    )
    table = table[list(TABLE_COLUMNS)].assign(split=pd.Series(splits.names, dtype="str"))
    check_splits(
        table,
        collection.classes,
        section.wanted_splits(teacher_train),
        collection.grouped,
        share_train=section.share_train,
        few_shot=section.few_shot is not None,
    )
    return table, splits.drawn


def _training_labels(
    table: pd.DataFrame, classes: tuple[str, ...], section: DataSection, seed: int
) -> Ints:
    """Return the labels used in training [N]: with noise in the splits that are trained on."""
    label = table["label"].to_numpy(np.int64)
    if section.noise is None:
        return label
    training = table["split"].isin(TRAINING_SPLITS).to_numpy(bool)
    with within("noise"):
        given = np.where(training, noisy_labels(section.noise, label, classes, seed), label)
    changed, known = int((given != label).sum()), int((training & (label >= 0)).sum())
    log.info("data.noise: %d of %d training labels are wrong", changed, known)
    return given


def _image_fingerprint(images: Images, table: pd.DataFrame) -> str:
    return images.fingerprint(table["image"].to_numpy(np.int64))


def _table_digest(table: pd.DataFrame) -> str:
    """Return a hash of the samples' ids, labels, domains and splits, in order."""
    digest = hashlib.sha256()
    for column in ("sample_id", "split"):
        digest.update("\x1f".join(table[column]).encode(errors="surrogateescape"))
    for column in ("label", "domain", "given", "image"):
        digest.update(table[column].to_numpy(np.int64).tobytes())
    return digest.hexdigest()
