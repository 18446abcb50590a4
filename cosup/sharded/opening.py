"""Open a manifest of any length: list its labelled samples, and count the others by shard.

The labels and splits of all rows are read twice, some rows at a time: first to learn the classes,
the domains and whether splits are named, then to find the split of each row.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosup.data.broken import without_broken
from cosup.data.checks import check_splits
from cosup.data.section import DataSection
from cosup.data.sources import SOURCES, Collection
from cosup.data.sources.base import TABLE_COLUMNS, ordered_names
from cosup.data.sources.manifest import Manifest
from cosup.data.sources.manifest_rows import KINDS, ManifestFile, Rows
from cosup.data.sources.table import class_names
from cosup.data.table import ImageData
from cosup.errors import Mistakes, UserError, unknown_name, within
from cosup.secrets import mask
from cosup.sharded.distinct_ids import DistinctIds
from cosup.sharded.shards import Shard, ShardReader, Shards, take
from cosup.sharded.splits import Found, plan_splits

__all__ = ["SHARDED_ABOVE", "is_sharded", "open_shards"]

SHARDED_ABOVE = 500_000
"""Rows of Parquet files above which `sharded: auto` does not list the samples."""
LABELLED = ("teacher_train", "validation", "test")
SCANNED = ("label", "domain", "split", "group")
FORMAT = 1


def is_sharded(section: DataSection) -> bool:
    """Return whether the samples of a config are worked on by shards.

    Raise `UserError`, keyed within `data`, for a manifest that cannot be read.
    """
    source = SOURCES.build(section.source)
    if not isinstance(source, Manifest) or source.sharded is False:
        return False
    if source.sharded is True:
        return True
    with within("data"):
        files = source.files()
        return not files[0].is_tar and sum(file.count() for file in files) > SHARDED_ABOVE


def open_shards(
    section: DataSection,
    seed: int,
    shard_size: int,
    *,
    teacher_train: bool = True,
    workers: int = 1,
    cache: Path | None = None,
) -> tuple[ImageData, Shards]:
    """Return the labelled samples of a manifest, checked as in `load_data`, and the shards.

    teacher_train: that split is wanted. workers: threads that decode images to check them. cache:
    folder for the results of the check. Raise `UserError`, keyed within `data`.
    """
    with within("data"):
        source = SOURCES.build(section.source)
        assert isinstance(source, Manifest)
        _check_settings(section)
        files = tuple(source.files())
        found = _survey(files)
        reader = _reader(section, source, files, found, seed, shard_size, teacher_train)
        with DistinctIds(found.rows) as ids:
            shards, labelled, known = _list(reader, source.max_labelled, shard_size, ids)
            ids.check(files)
        if not shards:
            raise UserError("no sample in student_train", key="splits")
        collection, broken = without_broken(labelled, section, workers, cache)
        table = collection.table[list(TABLE_COLUMNS)].assign(given=collection.table["label"])
        wanted = section.wanted_splits(teacher_train) - {"student_train"}
        check_splits(table, reader.classes, wanted, collection.grouped)
    order = table["image"].to_numpy(np.int64)
    fingerprint = collection.images.fingerprint(order)
    data = ImageData(table, reader.classes, reader.domains, collection.images, fingerprint, broken)
    return data, Shards(reader, tuple(shards), known)


def _check_settings(section: DataSection) -> None:
    """Raise `UserError` for settings that need all samples at once."""
    mistakes = Mistakes()
    for name in ("share_train", "noise", "answers", "few_shot", "limit", "group_by"):
        value = getattr(section, name)
        if value not in (None, False):
            with mistakes.caught():
                raise UserError(
                    "cannot be used with data.sharded, whose samples are not listed",
                    key=name,
                    value=str(value),
                )
    mistakes.raise_all()


def _survey(files: Sequence[ManifestFile]) -> Found:
    """Read the labels, domains and splits of all rows."""
    found = Found(set(), set(), Counter())
    for file in files:
        for rows in file.rows(SCANNED if not file.is_tar else KINDS):
            count = len(rows)
            labels = rows.texts.get("label") or [""] * count
            splits = rows.texts.get("split") or [""] * count
            found.labels.update(labels)
            found.domains.update(rows.texts.get("domain") or [""])
            found.splits.update(zip(splits, map(bool, labels), strict=True))
            found.grouped = found.grouped or any(rows.texts.get("group", ()))
    if not found.splits:
        raise UserError("no row in it", key="path", value=mask(files[0].file.path))
    return found


def _reader(
    section: DataSection,
    source: Manifest,
    files: tuple[ManifestFile, ...],
    found: Found,
    seed: int,
    shard_size: int,
    teacher_train: bool,
) -> ShardReader:
    labels = sorted(found.labels - {""})
    if not labels and not source.classes:
        raise UserError("every label is empty, so it must have the classes' names", key="classes")
    classes = tuple(class_names(source.classes, labels))
    for label in labels:
        if label not in classes:
            raise unknown_name("class in the manifest", label, classes, "path")
    if "" in found.domains and len(found.domains) > 1:
        raise UserError("some rows have a domain and others none", key="path", value=source.path)
    domains = tuple(ordered_names(found.domains - {""})) or ("all",)
    plan = plan_splits(section, found, seed, teacher_train)
    about = [
        FORMAT,
        [(file.file.path.rpartition("/")[2], file.file.stat) for file in files],
        source.root,
        files[0].columns.model_dump(),
        classes,
        domains,
        plan.named,
        dict(plan.shares),
        plan.seed if plan.draws_student_train else 0,
        shard_size,
    ]
    fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    return ShardReader(files, plan, classes, domains, fingerprint)


def _list(
    reader: ShardReader, max_labelled: int, shard_size: int, ids: DistinctIds
) -> tuple[list[Shard], Collection, bool]:
    """Return the shards, the samples of the labelled splits, and whether any sample of the shards
    has a label. ids: gets those of all rows."""
    shards: list[Shard] = []
    parts: list[Rows] = []
    owners: list[ManifestFile] = []
    labelled, known = 0, False
    for number, file in enumerate(reader.files):
        own = _FileShards(number, shard_size)
        # Ids and uris are texts that take most of the time, and are needed of few rows.
        for rows in file.rows(KINDS):
            ids.add(rows)
            splits = reader.plan.splits(rows)
            students = splits == "student_train"
            own.add(rows, students)
            labels = zip(rows.texts.get("label", ()), students, strict=False)
            known = known or any(label and student for label, student in labels)
            chosen = np.isin(splits, LABELLED)
            labelled += int(chosen.sum())
            if labelled > max_labelled:
                raise _too_many(max_labelled)
            if chosen.any():
                parts.append(take(rows, chosen))
                owners.append(file)
        shards.extend(own.shards(len(shards)))
    return shards, reader.collection(parts, owners), known


def _too_many(allowed: int) -> UserError:
    return UserError(
        "more samples than that are in teacher_train, validation and test; these are held in "
        "memory: give smaller data.splits, or name the splits in the manifest",
        key="max_labelled",
        value=allowed,
    )


class _FileShards:
    """The shards of one file, as its rows come in."""

    def __init__(self, file: int, size: int) -> None:
        self.file = file
        self.size = size
        self.rows = 0
        self.samples: list[int] = []
        self.heads: list[int] = []

    def add(self, rows: Rows, chosen: NDArray[np.bool_]) -> None:
        """Count the chosen ones of the next rows."""
        places = np.arange(rows.first, rows.first + len(rows))
        counts = np.bincount(
            places[chosen] // self.size, minlength=int(places[-1]) // self.size + 1
        )
        grown = len(counts) - len(self.samples)
        self.samples.extend([0] * grown)
        self.heads.extend(
            rows.head[start - rows.first] if rows.head else 0
            for start in range(len(self.heads) * self.size, int(places[-1]) + 1, self.size)
        )
        first = rows.first // self.size
        for number in range(first, len(counts)):
            self.samples[number] += int(counts[number])
        self.rows = int(places[-1]) + 1

    def shards(self, first: int) -> Iterator[Shard]:
        """Yield the shards that have samples; `first`: number of the first."""
        for place, samples in enumerate(self.samples):
            if samples:
                start = place * self.size
                rows = min(self.size, self.rows - start)
                yield Shard(first, self.file, start, rows, self.heads[place], samples)
                first += 1
