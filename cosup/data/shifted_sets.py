"""The samples of shifted test sets (`data.shifted`)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cosup.data.broken import without_broken
from cosup.data.corruptions import CorruptedImages
from cosup.data.images import Ints
from cosup.data.notes import Note
from cosup.data.section import DataSection
from cosup.data.shares import draw_limit
from cosup.data.shifted import ShiftedSection
from cosup.data.sources import SOURCES, Collection
from cosup.data.sources.base import TABLE_COLUMNS
from cosup.data.table import ImageData, Known
from cosup.errors import UserError, unknown_name, within
from cosup.words import plural

__all__ = ["with_shifted"]


def with_shifted(
    data: ImageData,
    section: DataSection,
    seed: int,
    workers: int,
    cache: Path | None,
    known: Mapping[str, Known] | None = None,
) -> ImageData:
    """Return the samples of a run with its shifted sets, each listed and checked as `load_data`
    does it, all in its split `test`.

    known: facts that another process found about these sets; no image is read then. Raise
    `UserError`, keyed within `data.shifted`, for a set without a sample that can measure, and
    `RunError` if the samples are not those of `known`.
    """
    if not section.shifted:
        return data
    found, notes = dict[str, ImageData](), []
    for name, shifted in section.shifted.items():
        facts = None if known is None else known[name]
        with within(("data", "shifted", name)):
            found[name], left_out = _shifted(data, section, shifted, seed, workers, cache, facts)
        if facts is not None:
            facts.check(found[name].table, f"data.shifted.{name}")
        text = f"shifted set {name}: {plural(len(found[name]), 'sample')}"
        if left_out:
            text += f"; left out {left_out} without a label that is a class of the run"
        notes.append(Note(text))
    return replace(data, shifted=found, notes=(*data.notes, *notes))


def _shifted(
    data: ImageData,
    section: DataSection,
    shifted: ShiftedSection,
    seed: int,
    workers: int,
    cache: Path | None,
    facts: Known | None,
) -> tuple[ImageData, int]:
    """Return a set, and how many samples are left out. facts: about it, if they are known."""
    if shifted.source is None:
        whole = _rows_of(data, data.rows("test"))
    else:
        with within("source"):
            collection = SOURCES.build(shifted.source).load()
        collection = _of_split(collection, shifted.split)
        if shifted.limit is not None:
            collection = draw_limit(collection, shifted.limit, section.stratify, seed)
        if facts is None:
            collection, broken = without_broken(collection, section, workers, cache)
        else:
            collection, broken = collection.without(facts.broken), facts.broken
        whole = _as_data(collection, data.classes, broken)
    known = _rows_of(whole, whole.labelled(np.arange(len(whole))))
    if shifted.source is None and shifted.limit is not None:
        known = _rows_of(known, _spread(len(known), shifted.limit))
    if not len(known):
        problem = "no sample of it has a label that is a class of the run"
        if shifted.source is None:
            problem = "corrupts the test split, and there is none with labels"
        raise UserError(problem, key="source" if shifted.source else "corruption")
    if shifted.corruption is not None:
        known = _corrupted(known, shifted.corruption, shifted.strength)
    order = known.table["image"].to_numpy(np.int64)
    fingerprint = known.images.fingerprint(order) if facts is None else facts.fingerprint
    # Noise, reviews and splits of the run are none of its own.
    own = replace(known, fingerprint=fingerprint, drawn=False, notes=(), shifted={})
    return own, len(whole) - len(known)


def _rows_of(data: ImageData, rows: Ints) -> ImageData:
    """Return these samples, with the fingerprint of all: it takes a look at every file."""
    return replace(data, table=data.table.iloc[rows].reset_index(drop=True))


def _of_split(collection: Collection, split: str | None) -> Collection:
    if split is None:
        return collection
    named = collection.table["split"]
    if not (named == split).any():
        raise unknown_name("split of the source", split, set(named) - {""}, key="split")
    table = collection.table[named == split].reset_index(drop=True)
    return replace(collection, table=table)


def _as_data(
    collection: Collection, classes: tuple[str, ...], broken: tuple[str, ...]
) -> ImageData:
    """Return a collection as samples of the run's classes (-1: of no such class), without a
    fingerprint."""
    place = {name: number for number, name in enumerate(classes)}
    codes = np.array([*(place.get(name, -1) for name in collection.classes), -1], dtype=np.int64)
    table: pd.DataFrame = collection.table[list(TABLE_COLUMNS)]
    label = codes[table["label"].to_numpy(np.int64)]  # -1 takes the last entry
    table = table.assign(label=label, given=label, split="test")
    return ImageData(table, classes, collection.domains, collection.images, "", broken)


def _corrupted(data: ImageData, kind: str, strength: int) -> ImageData:
    samples: Mapping[int, str] = dict(
        zip(data.table["image"].tolist(), data.table["sample_id"].tolist(), strict=True)
    )
    return replace(data, images=CorruptedImages(data.images, kind, strength, samples))


def _spread(count: int, most: int) -> Ints:
    """Return at most so many places, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)
