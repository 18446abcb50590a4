"""List the samples of a run, check their images, and draw the splits."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cosup.data.answers import NOT_REVIEWED, Answer, Applied, apply_answers, read_answers
from cosup.data.broken import without_broken
from cosup.data.checks import check_splits
from cosup.data.few_shot import class_parts
from cosup.data.images import Ints
from cosup.data.noise import noisy_labels
from cosup.data.notes import Note, split_notes
from cosup.data.section import DataSection
from cosup.data.shares import draw_limit
from cosup.data.sources import SOURCES, Collection
from cosup.data.sources.base import TABLE_COLUMNS, integer_codes
from cosup.data.splits import split_samples
from cosup.data.table import ImageData, Known, image_fingerprint
from cosup.errors import UserError, within

__all__ = ["Listed", "list_source", "load_data"]

log = logging.getLogger(__name__)

TRAINING_SPLITS = ("teacher_train", "student_train")


class Listed(NamedTuple):
    """The samples of a source, and the ids of those that `limit` leaves out."""

    samples: Collection
    left_out: tuple[str, ...]


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
        image_fingerprint(images, table) if known is None else known.fingerprint,
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
        image_fingerprint(collection.images, table),
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
