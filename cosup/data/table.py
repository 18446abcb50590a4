"""The sample table: every sample's name, class, domain, group and split, and its image."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cosup.data.checks import broken_images, check_ids, check_splits, report_broken
from cosup.data.few_shot import class_parts, of_classes
from cosup.data.images import Images
from cosup.data.noise import noisy_labels
from cosup.data.section import SPLITS, DataSection
from cosup.data.sources import SOURCES, Collection
from cosup.data.sources.base import COLUMNS
from cosup.data.splits import codes, draw, split_samples, strata_of
from cosup.errors import RunError, UserError, unknown_name
from cosup.evidence import Truth
from cosup.seeds import numpy_generator

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]

TRAINING = ("teacher_train", "student_train")
"""The splits that something is trained on."""


@dataclass(frozen=True)
class Known:
    """What one process has found out about the samples, so that another need not look again.

    broken: names that were set aside. fingerprint: of the images. digest: of the sample table.
    """

    broken: tuple[str, ...]
    fingerprint: str
    digest: str


@dataclass(frozen=True)
class ImageData:
    """All samples of a run.

    table: rows 0 .. N-1 with sample_id (str, unique), label (int64, -1 unknown), domain (int64),
    group (str), split (one of `SPLITS`, or "" for unused), image (int64 index into `images`), given
    (int64, the label that trainers are given: `label`, but for noise).
    domains: ("all",) where there are none. fingerprint: a hash of the images in the rows' order,
    whatever their labels and splits. broken: names of the samples that were set aside. drawn: the
    splits were drawn, and change with the seed. share_train: teachers train on student_train.
    novel, novel_validation: samples of the classes that were set aside for few-shot learning, with
    classes and labels of their own, all of them in the split test, or validation.
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

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, split: str) -> Rows:
        """The rows of a split, ascending; those of teacher_train may be student_train's."""
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        if self.share_train and split == "teacher_train":
            split = "student_train"
        return np.flatnonzero((self.table["split"] == split).to_numpy(bool)).astype(np.int64)

    def truth(self, rows: Rows) -> Truth:
        """True classes and domains of these rows, as tensors."""
        label = self.table["label"].to_numpy(np.int64)[rows]
        domain = self.table["domain"].to_numpy(np.int64)[rows]
        return Truth(torch.from_numpy(label), torch.from_numpy(domain))

    def given(self, rows: Rows) -> Tensor:
        """[len(rows)] int64 classes as trainers are given them, noise included; -1 unknown."""
        return torch.from_numpy(self.table["given"].to_numpy(np.int64)[rows])

    def noisy(self, rows: Rows) -> Tensor:
        """[len(rows)] bool: whether the given class is another than the true one."""
        return self.given(rows) != self.truth(rows).labels

    def groups(self, rows: Rows) -> Rows:
        """[len(rows)] numbers, equal where the samples belong to one group."""
        return codes(self.table["group"].iloc[rows])

    def sample_ids(self, rows: Rows) -> list[str]:
        """The samples' names."""
        return [str(name) for name in self.table["sample_id"].iloc[rows]]

    def read(self, row: int) -> Image.Image:
        """The sample's image as PIL RGB; `BrokenImage` if it can't be read."""
        return self.images.read(int(self.table["image"].to_numpy(np.int64)[row]))

    def subset(self, rows: Rows) -> "ImageData":
        """These samples alone, in this order."""
        table = self.table.iloc[rows].reset_index(drop=True)
        images = table["image"].to_numpy(np.int64)
        return replace(self, table=table, fingerprint=self.images.fingerprint(images))

    def known(self) -> Known:
        """What `load_data` needs to give these samples again without looking at the images."""
        return Known(self.broken, self.fingerprint, _digest(self.table))

    def split_fingerprint(self, split: str) -> str:
        """A hash of a split's images, names, true and given labels and domains, in their order."""
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
) -> ImageData:
    """List the samples, draw those asked for, set broken ones aside, and split.

    workers: threads that decode while checking. cache: a folder that keeps which files were found
    good. known: what another process found out about the same samples; no image is looked at.
    `UserError` for every way in which the data are not as they should be, `RunError` if they are
    not those that are known.
    """
    collection = SOURCES.build(section.source).load()
    check_ids(collection.table)
    collection = _grouped(collection, section.group_by)
    collection = _limited(collection, section, seed)
    if known is None:
        collection, broken = _sound(collection, section, workers, cache)
    else:
        collection, broken = _without(collection, known.broken), known.broken
    novel = novel_validation = None
    if section.few_shot is not None:
        parts = class_parts(collection.classes, collection.roles, section.few_shot, seed)
        novel = _set_aside(of_classes(collection, parts.novel), "test")
        if parts.validation:
            novel_validation = _set_aside(of_classes(collection, parts.validation), "validation")
        collection = of_classes(collection, parts.base, unlabelled=True)
    table = _split(collection, section, seed)
    table = table.assign(given=_given(table, collection.classes, section, seed))
    if known is not None and known.digest != _digest(table):
        raise RunError(
            f"data: the {len(table)} samples found here are not those that the run was started "
            "with; every node must see the same data"
        )
    return ImageData(
        table,
        collection.classes,
        collection.domains,
        collection.images,
        collection.images.fingerprint(table["image"].to_numpy(np.int64))
        if known is None
        else known.fingerprint,
        broken,
        drawn=section.splits != "given",
        share_train=section.share_train,
        novel=novel,
        novel_validation=novel_validation,
    )


def _set_aside(collection: Collection, split: str) -> ImageData:
    """Samples that nothing is trained on."""
    table = collection.table[list(COLUMNS)].assign(split=split)
    return ImageData(
        table.assign(given=table["label"]),
        collection.classes,
        collection.domains,
        collection.images,
        collection.images.fingerprint(table["image"].to_numpy(np.int64)),
    )


def _split(collection: Collection, section: DataSection, seed: int) -> pd.DataFrame:
    """The table with its splits, checked."""
    table = collection.table
    split = split_samples(
        collection,
        section.splits,
        stratify=section.stratify,
        groups=codes(table["group"]) if collection.grouped else None,
        seed=seed,
    )
    table = table[list(COLUMNS)].assign(split=pd.Series(split, dtype="str"))
    check_splits(
        table,
        collection.classes,
        _wanted(section),
        collection.grouped,
        share_train=section.share_train,
    )
    return table


def _given(table: pd.DataFrame, classes: tuple[str, ...], section: DataSection, seed: int) -> Rows:
    """[N] the labels that trainers are given: with noise in the splits that train."""
    label = table["label"].to_numpy(np.int64)
    if section.noise is None:
        return label
    training = table["split"].isin(TRAINING).to_numpy(bool)
    given = np.where(training, noisy_labels(section.noise, label, classes, seed), label)
    changed, known = int((given != label).sum()), int((training & (label >= 0)).sum())
    log.info("data.noise: %d of %d training labels are wrong", changed, known)
    return given


def _grouped(collection: Collection, column: str | None) -> Collection:
    if column is None:
        return collection
    table = collection.table
    known = set(table.columns) - {"sample_id", "label", "split", "image"}
    if not collection.grouped:
        known.discard("group")
    if column not in known:
        raise UserError(f"data.group_by: {unknown_name('column', column, known)}")
    if column == "group":
        return collection
    names = table[column].astype("str")
    # A sample that names no group is one of its own.
    names = names.where(names != "", "(" + table["sample_id"] + ")")
    return replace(collection, table=table.assign(group=names), grouped=True)


def _limited(collection: Collection, section: DataSection, seed: int) -> Collection:
    table, limit = collection.table, section.limit
    if limit is None or limit >= len(table):
        return collection
    # Within strata of the splits too: a quick try keeps the set's own proportions.
    strata = strata_of(table, section.stratify)
    strata = strata * (table["split"].nunique() + 1) + codes(table["split"])
    groups = codes(table["group"]) if collection.grouped else None
    chosen = draw(strata, [limit / len(table)], numpy_generator(seed, "limit"), groups)
    # Whole groups may come to a little more than asked for.
    rows = np.flatnonzero(chosen == 0)[:limit] if groups is None else _trim(chosen, groups, limit)
    return replace(collection, table=table.iloc[rows].reset_index(drop=True))


def _trim(chosen: Rows, groups: Rows, limit: int) -> Rows:
    rows = np.flatnonzero(chosen == 0)
    while len(rows) > limit:
        rows = rows[groups[rows] != groups[rows[-1]]]
    return rows


def _sound(
    collection: Collection, section: DataSection, workers: int, cache: Path | None
) -> tuple[Collection, tuple[str, ...]]:
    """The collection without broken images, and their names."""
    if section.check == "none":
        return collection, ()
    table = collection.table
    broken = broken_images(collection.images, table["image"].to_numpy(np.int64), workers, cache)
    places = sorted(broken)
    names = [str(name) for name in table["sample_id"].iloc[places]]
    report_broken(names, [broken[place] for place in places], len(table), section.max_broken)
    return _without(collection, names), tuple(names)


def _without(collection: Collection, names: Sequence[str]) -> Collection:
    """The collection without the samples of these names."""
    table = collection.table
    kept = table[~table["sample_id"].isin(list(names))].reset_index(drop=True)
    return replace(collection, table=kept)


def _digest(table: pd.DataFrame) -> str:
    """A hash of the samples' names, labels, domains and splits, in their order."""
    digest = hashlib.sha256()
    for column in ("sample_id", "split"):
        digest.update("\x1f".join(table[column]).encode(errors="surrogateescape"))
    for column in ("label", "domain", "given", "image"):
        digest.update(table[column].to_numpy(np.int64).tobytes())
    return digest.hexdigest()


def _wanted(section: DataSection) -> set[str]:
    """The splits that must hold samples."""
    if isinstance(section.splits, str):
        wanted = {"teacher_train", "student_train", "test"}
        absent = {"teacher_train"} if section.share_train else set()
        return wanted - absent - ({"test"} if section.few_shot is not None else set())
    return {name for name in SPLITS if getattr(section.splits, name) > 0}
