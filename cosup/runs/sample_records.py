"""What a run keeps for its analysis alone: the samples, who they are measured with, thumbnails."""

import io
import logging
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosup.analysis.arrays import categories
from cosup.analysis.examples import examples_table
from cosup.analysis.figure import Unavailable
from cosup.analysis.records import load_run
from cosup.config.schema import Config
from cosup.data.images import BrokenImage
from cosup.data.section import SPLITS
from cosup.data.table import ImageData
from cosup.layout import PREPARED
from cosup.runs.assemble import Prepared
from cosup.runs.directory import RunDirectory
from cosup.runs.inputs import feature_splits, measured_on

log = logging.getLogger(__name__)

THUMBNAIL = 64
"""Pixels of a thumbnail's longer side."""


def keep_samples(config: Config, run: RunDirectory, prepared: Prepared) -> None:
    """Write `samples.parquet` and `stages/prepared.json`, anew whenever a run is prepared.

    samples.parquet: a row per sample of student_train, then of what measures, in the order of all
    arrays that are kept: split ("student_train" or "test"), sample_id, true_label (null where
    unknown), domain, group (int64: what is drawn together by a bootstrap), answer (what a
    prediction must be: the true label, or the way of an episode), and, with label noise,
    given_label. What teachers say in episodes is in no store: it is kept as `ProbTable`s,
    `checkpoints/teacher-NAME.safetensors`.
    """
    data, test, task = prepared.data, prepared.test, prepared.task
    answers = _answers(prepared)
    truth = task.truth
    kinds = test.labels if test.kinds is None else test.kinds
    ids = [*prepared.sample_ids, *prepared.test_ids]
    sizes = (len(prepared.sample_ids), len(prepared.test_ids))
    columns = {
        "split": categories(np.repeat([0, 1], sizes), ["student_train", "test"]),
        "sample_id": pd.Series(ids, dtype="str"),
        "true_label": _joined((truth.labels, data.classes), (kinds, test.classes)),
        "domain": _joined((truth.domains, data.domains), (test.domains, test.domain_names)),
        "group": torch.cat([prepared.groups, test.groups]).numpy(),
        "answer": _joined((truth.labels, data.classes), (test.labels, answers)),
    }
    if prepared.given is not None:
        columns["given_label"] = _joined((prepared.given, data.classes), (kinds, test.classes))
    table = pd.DataFrame(columns)
    run.files.samples.write(table)
    if test.kinds is not None:
        for name, probs in prepared.said.items():
            run.files.episode_answers(name).write(probs)
    run.finish(PREPARED, _record(config, prepared, answers))


def _record(config: Config, prepared: Prepared, answers: tuple[str, ...]) -> dict[str, object]:
    """The names that samples and predictions are counted by, and the teachers, level by level."""
    return {
        "classes": list(prepared.data.classes),
        "domains": list(prepared.data.domains),
        "measured": measured_on(config),
        "measured_classes": list(prepared.test.classes),
        "measured_domains": list(prepared.test.domain_names),
        "answers": list(answers),
        "teachers": [asdict(record) for record in prepared.teachers],
        "floor": {"teacher": prepared.floor.name, "chosen_on": prepared.chosen_on},
        "samples": {split: len(prepared.data.rows(split)) for split in SPLITS},
        "features": sum(len(prepared.data.rows(split)) for split in feature_splits(config)),
    }


def keep_thumbnails(run: RunDirectory, data: ImageData) -> None:
    """Write `report/thumbnails.parquet`, of the samples in the table `examples`: sample_id, png
    (bytes, at most 64 pixels a side).

    An image that can't be read any more is left out; a failure is told, and costs the run nothing.
    """
    try:
        wanted = set(examples_table(load_run(run.path))["sample_id"])
        _write_thumbnails(run, data, wanted)
    except Unavailable as reason:
        log.info("no thumbnails: %s", reason)
    except Exception as error:
        log.warning("no thumbnails: %s", " ".join(str(error).split()) or type(error).__name__)


def _write_thumbnails(run: RunDirectory, data: ImageData, wanted: set[str]) -> None:
    sources = [source for source in (data, data.novel) if source is not None]
    found: dict[str, bytes] = {}
    for source in sources:
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


def _answers(prepared: Prepared) -> tuple[str, ...]:
    """What a prediction can be: the classes, or the ways of an episode, by number."""
    if prepared.test.kinds is None:
        return prepared.test.classes
    return tuple(f"way {way + 1}" for way in range(prepared.test.answers))


def _joined(*parts: tuple[Tensor, tuple[str, ...]]) -> "pd.Categorical[str]":
    """Indices (-1: missing), each into its own names, as categories of all names together."""
    names = list(dict.fromkeys(name for _, own in parts for name in own))
    place = {name: number for number, name in enumerate(names)}
    codes: list[NDArray[np.int64]] = []
    for index, own in parts:
        table = np.array([place[name] for name in own] + [-1], dtype=np.int64)
        codes.append(table[index.numpy()])  # -1 takes the last entry
    return categories(np.concatenate(codes), names)
