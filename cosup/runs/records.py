"""Write what a run records for its analysis: samples and thumbnails."""

import io
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from itertools import chain

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosup.analysis.arrays import categories
from cosup.analysis.examples import examples_table
from cosup.analysis.figure import Unavailable
from cosup.analysis.records import load_run
from cosup.analysis.review_list import review_list_table
from cosup.config.schema import Config
from cosup.data.images import BrokenImage
from cosup.data.section import SPLITS
from cosup.data.table import ImageData
from cosup.errors import in_short
from cosup.layout import PREPARED
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.directory import RunDirectory
from cosup.runs.inputs import Evaluation, feature_splits, measured_on
from cosup.runs.summary import Numbers, TestSplit
from cosup.sharded.shards import Shards

log = logging.getLogger(__name__)

THUMBNAIL = 64
"""Pixels of the longer side of a thumbnail."""
PICTURED = (examples_table, review_list_table)
"""The tables whose samples the report shows with pictures."""


def write_samples(context: RunContext, prepared: Prepared, shards: Shards | None = None) -> None:
    """Write `samples.parquet` and `stages/prepared.json`, whenever a run has been prepared.

    samples.parquet: a row per sample of student_train, then of the test samples, in the order of
    all arrays of the run: split ("student_train" or "test"), sample_id, true_label (null where
    unknown), domain, group (int64: resampled together by a bootstrap), answer (the right
    prediction: the true label, or the way of an episode), and, with label noise, given_label. A
    teacher's answers in episodes are in no store: `checkpoints/teacher-NAME.safetensors`. shards:
    the samples of student_train where they are not listed, and so not in `samples.parquet`.
    """
    data, truth, samples = prepared.data, prepared.task.truth, prepared.samples
    test, files = prepared.test.split, context.files
    answers = _answers(test)
    kinds = test.labels if test.kinds is None else test.kinds
    ids = [*samples.sample_ids, *prepared.test.sample_ids]
    sizes = (len(samples.sample_ids), len(prepared.test.sample_ids))
    columns = {
        "split": categories(np.repeat([0, 1], sizes), ["student_train", "test"]),
        "sample_id": pd.Series(ids, dtype="str"),
        "true_label": _joined((truth.labels, data.classes), (kinds, test.classes)),
        "domain": _joined((truth.domains, data.domains), (test.domains, test.domain_names)),
        "group": torch.cat([samples.groups, test.groups]).numpy(),
        "answer": _joined((truth.labels, data.classes), (test.labels, answers)),
    }
    if samples.noisy_labels is not None:
        columns["given_label"] = _joined(
            (samples.noisy_labels, data.classes), (kinds, test.classes)
        )
    files.samples.write(pd.DataFrame(columns))
    for name, one in prepared.inputs.shifted.items():
        files.shifted(name).samples.write(_shifted_samples(one, data.classes))
    if test.kinds is not None:
        for name, probs in prepared.teachers.answers.items():
            files.episode_answers(name).write(probs)
    record = _prepared_record(context.config, prepared)
    if shards is not None:
        record["samples"]["student_train"] = shards.samples
        record["features"] += shards.samples
        record["shards"] = len(shards)
    context.run.finish(PREPARED, record)


def _shifted_samples(one: Evaluation, classes: tuple[str, ...]) -> pd.DataFrame:
    """Return the samples of a shifted set, with the columns of `samples.parquet`."""
    split, count = one.split, len(one.split)
    label = categories(split.labels.numpy(), list(classes))
    return pd.DataFrame(
        {
            "split": categories(np.zeros(count, np.int64), [one.part]),
            "sample_id": pd.Series(one.sample_ids, dtype="str"),
            "true_label": label,
            "domain": categories(split.domains.numpy(), list(split.domain_names)),
            "group": split.groups.numpy(),
            "answer": label,
        }
    )


def _prepared_record(config: Config, prepared: Prepared) -> Numbers:
    """Return the names that samples and predictions are counted by, and the teachers in order."""
    data, test, teachers = prepared.data, prepared.test.split, prepared.teachers
    return {
        "classes": list(data.classes),
        "domains": list(data.domains),
        "measured": measured_on(config, data),
        "measured_classes": list(test.classes),
        "measured_domains": list(test.domain_names),
        "answers": list(_answers(test)),
        "teachers": [asdict(record) for record in teachers.records],
        "floor": {"teacher": teachers.floor.name, "chosen_on": teachers.chosen_on},
        "samples": {split: len(data.rows(split)) for split in SPLITS},
        "review": asdict(data.applied),
        "features": sum(len(data.rows(split)) for split in feature_splits(config, data)),
        **({"shifted": {n: len(part) for n, part in data.shifted.items()}} if data.shifted else {}),
    }


def write_thumbnails(run: RunDirectory, data: ImageData, more: Iterable[ImageData] = ()) -> None:
    """Write `report/thumbnails.parquet`, of the samples in the tables `PICTURED`: sample_id, png
    (bytes, at most 64 pixels a side).

    more: samples beside those of data. An image that cannot be read any more is left out. A failure
    is a warning: the run continues.
    """
    wanted: set[str] = set()
    try:
        records = load_run(run.path)  # once: each table reads parts that the others have read
        for table in PICTURED:
            with suppress(Unavailable):
                wanted.update(table(records)["sample_id"])
        if wanted:
            _write_thumbnails(run, data, more, wanted)
        else:
            log.info("no thumbnails: no sample is shown")
    except Exception as error:
        log.warning("no thumbnails: %s", in_short(error))


def _write_thumbnails(
    run: RunDirectory, data: ImageData, more: Iterable[ImageData], wanted: set[str]
) -> None:
    sources = [source for source in (data, data.novel) if source is not None]
    found: dict[str, bytes] = {}
    for source in chain(sources, more):
        ids = source.table["sample_id"]
        for row in np.flatnonzero(ids.isin(wanted).to_numpy(bool)).tolist():
            try:
                found[str(ids.iloc[row])] = _thumbnail(source, row)
            except BrokenImage as error:
                log.warning("no thumbnail: %s", error)
    table = pd.DataFrame({"sample_id": list(found), "png": list(found.values())})
    run.files.thumbnails.write(table)


def _thumbnail(data: ImageData, row: int) -> bytes:
    image = data.read(row)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    image.save(content, format="png")
    return content.getvalue()


def _answers(test: TestSplit) -> tuple[str, ...]:
    """Return the possible predictions: the classes, or the ways of an episode, by number."""
    if test.kinds is None:
        return test.classes
    return tuple(f"way {way + 1}" for way in range(test.answers))


def _joined(*parts: tuple[Tensor, tuple[str, ...]]) -> "pd.Categorical[str]":
    """Return indices into several lists of names (-1: missing) as one categorical column."""
    names = list(dict.fromkeys(name for _, own in parts for name in own))
    place = {name: number for number, name in enumerate(names)}
    codes: list[NDArray[np.int64]] = []
    for index, own in parts:
        table = np.array([place[name] for name in own] + [-1], dtype=np.int64)
        codes.append(table[index.numpy()])  # -1 takes the last entry
    return categories(np.concatenate(codes), names)
