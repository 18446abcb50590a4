"""`cosup export labels`: the labels of a run, and what they were made from, for other tools.

`FORMATS` is the only list of formats.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from cosup.analysis.arrays import Singles, categories, codes, rows_of
from cosup.analysis.labels import NOT_LABELLED
from cosup.analysis.records import Answers, Run, load_run
from cosup.cells import to_csv
from cosup.errors import UserError, unknown_name
from cosup.files import write_atomic
from cosup.origins import is_there, shown
from cosup.probabilities import ProbTable
from cosup.remote import is_uri
from cosup.remote_copy import alone
from cosup.runs.deliver import delivered
from cosup.runs.prepare import list_samples_of
from cosup.runs.sharded_labels import label_tables
from cosup.sources import STUDENT
from cosup.words import listed, plural

__all__ = ["FORMATS", "Format", "export_labels"]

AT_ONCE = 65536
"""Samples whose probabilities are dense at a time."""


@dataclass(frozen=True)
class Format:
    """A format of labels.

    file: the default name of the file, in the run's directory. about: what it is, in short. write:
    writes the labels of a run to a path, and yields lines on what the reader must know.
    """

    file: str
    about: str
    write: Callable[[Run, Path], Iterator[str]]


def export_labels(
    place: str, name: str, output: Path | None = None, overwrite: bool = False
) -> list[str]:
    """Write the labels of a run in a format of `FORMATS`, and return the lines to print.

    output: the file; None is the format's own name in the run's directory, or at its URI. Raises
    `UserError` for an unknown format, for what is not a run with labels, for a file that exists,
    unless `overwrite` is set, and for one that belongs to the run.
    """
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS, key=("--format",))
    run, form = load_run(place), FORMATS[name]
    if name != "csv":
        run.check_listed("only format csv can be written of their labels")
    if not (run.sharded or run.files.labels.exists()) or "labels" not in run.stages:
        raise UserError(NOT_LABELLED, where=run.place)
    path = run.path / form.file if output is None else output
    _check_output(run, path, overwrite)
    with alone(path):
        notes = list(form.write(run, path))
        if output is None:
            place, told = delivered(path, Path(f"{run.title}-{form.file}"), overwrite)
            notes += told
        else:
            place = str(path)
    samples = run.stages["labels"]["labels"]["samples"]
    return [f"{form.about} of {plural(samples, 'sample')}: {place}", *notes]


def _check_output(run: Run, path: Path, overwrite: bool) -> None:
    own = run.files.labels.path, run.files.labels_csv.path
    if path.is_dir():
        raise UserError("is a directory; give a file", key=("--output",), value=str(path))
    if path.resolve() in [one.resolve() for one in own]:
        raise UserError("is the run's own file", key=("--output",), value=str(path))
    if is_there(path) and not overwrite:
        raise UserError("the file exists; --overwrite replaces it", where=shown(path))
    folder = next(one for one in path.absolute().parents if one.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError("is not a folder to write to", key=("--output",), value=str(folder))


def _write_csv(run: Run, path: Path) -> Iterator[str]:
    """Write CSV with the columns sample_id, label, probability; of shards one after another."""
    columns = ["sample_id", "label", "probability"]
    parts = label_tables(run) if run.sharded else [run.files.labels.read(columns)]

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as handle:
            for number, table in enumerate(parts):
                handle.write(to_csv(table[columns], header=number == 0))

    write_atomic(path, write)
    yield from ()


def _write_label_studio(run: Run, path: Path) -> Iterator[str]:
    """Write the tasks of Label Studio, each with the label as a prediction; the least sure first.

    The format is that of https://labelstud.io/guide/predictions: `data` with the address of the
    image, and `predictions` with `model_version`, `score` and a `result` of type `choices`. The
    names of the controls are those of Label Studio's template *Image Classification*. An image is
    given as a file that Label Studio serves itself (https://labelstud.io/guide/storage, "Local
    storage"): its path below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, which the notes name; it must
    lie above the folder that is connected. Raises `UserError` for images that are no files.
    """
    table = run.files.labels.read().sort_values("review_rank", kind="stable")
    paths = _image_paths(run, [str(name) for name in table["sample_id"]])
    folder = Path(os.path.commonpath([os.path.dirname(one) for one in paths]))
    tasks = [
        {
            "data": {
                "image": f"/data/local-files/?d={quote(os.path.relpath(image, folder.parent))}",
                "sample_id": str(row["sample_id"]),
            },
            "predictions": [
                {
                    "model_version": f"cosup {run.title}",
                    "score": round(float(row["probability"]), 6),
                    "result": [
                        {
                            "from_name": "choice",
                            "to_name": "image",
                            "type": "choices",
                            "value": {"choices": [str(row["label"])]},
                        }
                    ],
                }
            ],
        }
        for row, image in zip(rows_of(table), paths, strict=True)
    ]
    write_atomic(path, (json.dumps(tasks, indent=1) + "\n").encode())
    yield (
        "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={folder.parent}"
    )
    yield (
        "give a project of the template Image Classification the choices "
        f"{listed(run.classes, 20)}, connect the local storage {folder}, and import the file"
    )


def _image_paths(run: Run, sample_ids: Sequence[str]) -> list[str]:
    """Return the absolute path of each sample's image."""
    data = list_samples_of(run)
    if not data.images.files:
        raise _no_files(run, "in memory")
    places = [data.where(row) for row in data.find(sample_ids).tolist()]
    if any(map(is_uri, places)):
        raise _no_files(run, "at URIs")
    return [os.path.abspath(place) for place in places]


def _no_files(run: Run, where: str) -> UserError:
    problem = f"format label-studio needs image files, and those of {run.title} are {where}"
    return UserError(problem, key="data.source", value=run.config["data"]["source"])


def _write_cleanlab(run: Run, path: Path) -> Iterator[str]:
    """Write the arrays that cleanlab's functions take, as .npz (without pickled objects).

    labels: [N] int64, the final labels as indices of the classes. pred_probs: [N, C] float32, rows
    that sum to 1: the student's predictions, each by one that was not trained on the sample, or the
    posterior of all sources where the run has no such ones (`pred_probs_of` says which). sample_id:
    [N]. classes: [C]. cleanlab wants the whole array at once, and so it is made here.
    """
    table = run.files.labels.read(["sample_id", "label"])
    student = _cross_fitted(run)
    of, probs = STUDENT, student
    if probs is None:
        if not run.files.posterior.exists():
            raise UserError("the run has no probabilities of all classes", where=str(run.path))
        of, probs = "posterior", run.files.posterior.read(len(run.classes), len(run.train))
    labels, classes = codes(table["label"], run.classes), np.array(run.classes, dtype=np.str_)
    names = np.array([str(name) for name in table["sample_id"]], dtype=np.str_)
    dense = _dense(probs)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:  # numpy adds .npz to a name without it
            np.savez(
                handle,
                labels=labels,
                pred_probs=dense,
                sample_id=names,
                classes=classes,
                pred_probs_of=np.array(of),
            )

    write_atomic(path, write)
    if student is None:
        yield (
            "pred_probs are the posterior of all sources: the run has no predictions of a student "
            "that was not trained on the sample"
        )
    else:
        yield "pred_probs are of the student, each by one that was not trained on the sample"


def _dense(probs: ProbTable) -> Singles:
    """Return probabilities [N, C]; all classes alike for a sample without any."""
    found = np.empty((len(probs), probs.num_classes), np.float32)
    for start in range(0, len(probs), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        found[rows] = probs.dense(rows).numpy()
    found[found.sum(1) <= 0] = 1 / probs.num_classes
    return found


def _write_long(run: Run, path: Path) -> Iterator[str]:
    """Write what every source said of each sample, a row per answer, as CSV.

    Columns: task, worker, label (crowd-kit's) and probability, of the label by that source. Sources
    are all teachers, in their order, and the student. Samples that a source abstains from have no
    row.
    """
    student = _cross_fitted(run)
    own = student is not None
    if student is None:
        student = run.files.round(run.rounds[-1]).train.read(len(run.classes), len(run.train))
    answers = 0

    def write(temporary: Path) -> None:
        nonlocal answers
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as handle:
            for number, (name, said) in enumerate(_said(run, student)):
                table = _long_table(run, name, said)
                answers += len(table)
                handle.write(to_csv(table, header=number == 0))

    write_atomic(path, write)
    teachers = plural(len(run.teacher_names), "teacher")
    yield f"{plural(answers, 'answer')} of {teachers} and the student"
    if not own:
        yield "the student was trained on the samples that it answers: leave it out of a vote"


def _said(run: Run, student: ProbTable) -> Iterator[tuple[str, Answers]]:
    for name in run.teacher_names:
        yield name, run.annotated(name)
    yield STUDENT, Answers.of(student)


def _long_table(run: Run, name: str, said: Answers) -> pd.DataFrame:
    answered = said.label >= 0
    return pd.DataFrame(
        {
            "task": run.train["sample_id"][answered].astype("str"),
            "worker": name,
            "label": categories(said.label[answered], run.classes),
            "probability": said.confidence[answered],
        }
    )


def _cross_fitted(run: Run) -> ProbTable | None:
    """Return the student's probabilities of student_train, each by one that was not trained on the
    sample; None if there are none."""
    files = run.files.round(run.rounds[-1])
    told = run.stages["labels"].get("agreement", {})
    if not told.get("cross_fitted", files.cross_fitted.exists()):
        return None
    file = files.cross_fitted if files.cross_fitted.exists() else files.train
    return file.read(len(run.classes), len(run.train))


FORMATS = {
    "csv": Format("labels-only.csv", "labels and their probabilities", _write_csv),
    "label-studio": Format(
        "labels-label-studio.json", "tasks with a prediction", _write_label_studio
    ),
    "cleanlab": Format(
        "labels-cleanlab.npz", "labels and predicted probabilities", _write_cleanlab
    ),
    "long": Format("labels-long.csv", "what every source said", _write_long),
}
"""The formats by name."""
