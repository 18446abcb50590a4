"""The records of a run, read from its directory when they are first used: its tables and
predictions, beside its stages."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cosup.analysis.arrays import Codes, Singles, categorical, categories, codes, repeated
from cosup.analysis.stages import RunStages
from cosup.errors import RunError, UserError
from cosup.evidence import Truth
from cosup.layout import Layout
from cosup.layout.kinds import TableFile
from cosup.origins import has_folder, obtain
from cosup.probabilities import ProbTable
from cosup.remote_copy import folder_of
from cosup.words import listed

__all__ = ["Answers", "Run", "load_run", "runs_inside"]

MOST_RUNS = 20
"""Runs that an error lists before "and N more"."""


@dataclass(frozen=True)
class Answers:
    """The most probable answer to each sample.

    label: [M] int64, -1 for an abstention. confidence: [M] float32, its probability.
    """

    label: Codes
    confidence: Singles

    @staticmethod
    def of(table: ProbTable) -> "Answers":
        """Return the answers of a table of probabilities."""
        label, confidence = table.top()
        return Answers(torch.where(confidence > 0, label, -1).numpy(), confidence.numpy())

    def take(self, rows: Codes) -> "Answers":
        """Return the answers to these samples."""
        return Answers(self.label[rows], self.confidence[rows])


class Run(RunStages):
    """The records of one run.

    path: its directory; for a run at a URI, a copy in which a file is fetched when it is first read
    (`cosup.remote_copy`). absent: the reason for each table that `tables` could not make.

    An unfinished run has the records of its finished stages; its student is that of the last
    finished round. A sharded run has no table of the samples of student_train, and of each round
    sums over the decisions, whose length does not depend on the number of samples. Files are read
    when they are first needed; one that cannot be read raises `RunError`, which names it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.absent: dict[str, str] = {}
        self._answers: dict[tuple[str, str], Answers] = {}

    @cached_property
    def samples(self) -> pd.DataFrame:
        """`samples.parquet`: a row per sample of student_train, then per test sample."""
        return self.files.samples.read()

    @cached_property
    def train(self) -> pd.DataFrame:
        """The samples of student_train, in the order of each round's decisions."""
        return self._split("student_train")

    @cached_property
    def test(self) -> pd.DataFrame:
        """The test samples, in the order of all predictions."""
        return self._split("test")

    @property
    def measured(self) -> bool:
        """Whether there are test samples, so that accuracies are known."""
        return len(self.test) > 0

    @cached_property
    def answers(self) -> list[str]:
        """The possible predictions: the classes, or the ways of an episode."""
        return list(self.prepared["answers"])

    @cached_property
    def truth(self) -> Codes:
        """[M] int64 the true answer to each test sample, as an index of `answers`."""
        return codes(self.test["answer"], self.answers)

    @cached_property
    def decisions(self) -> pd.DataFrame:
        """The decisions of all finished rounds. Raises `UserError` for a sharded run."""
        self.check_listed("read the tables in its folder shards/decisions, or `round(number)`")
        return pd.concat([self.round(number) for number in self.rounds], ignore_index=True)

    def round(self, number: int) -> pd.DataFrame:
        """Return the decisions of one round, a row per sample of student_train. Of a sharded run, a
        row for all samples with the same decision, with the number of samples in `samples`."""
        return self._decisions[number]

    def answer_sums(self, number: int) -> pd.DataFrame:
        """Return sums over the annotations of the teachers of a round of a sharded run: samples,
        answered, correct by teacher and true_label, where that is known."""
        return self.files.round(number).answer_sums.read()

    @cached_property
    def scalars(self) -> pd.DataFrame:
        """`metrics.jsonl`: tag, step, value (nan if not finite), time (Unix seconds)."""
        file = self.files.metrics
        rows = file.read() if file.exists() else []
        table = pd.DataFrame(rows, columns=["tag", "step", "value", "time"])
        return table.astype({"tag": "str", "step": "int64", "value": "float64", "time": "float64"})

    @cached_property
    def thumbnails(self) -> dict[str, bytes]:
        """PNGs by sample_id, of the samples in the report; {} if there are none."""
        file = self.files.thumbnails
        if not file.exists():
            return {}
        table = file.read()
        return dict(zip(table["sample_id"], table["png"], strict=True))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The predictions of student, rounds, controls and teachers on the test samples.

        Columns: who, kind (student, round, control, teacher), sample_id, position (in `test`),
        label (null: abstains), confidence, correct.
        """
        entries = self.predictors()
        size = len(self.test)
        found = [self.answered(kind, who) for kind, who in entries]
        label = np.concatenate([answers.label for answers in found] or [np.zeros(0, np.int64)])
        position = np.tile(np.arange(size, dtype=np.int32), len(found))
        ids = pd.Categorical(self.test["sample_id"])
        return pd.DataFrame(
            {
                "who": repeated([who for _, who in entries], size),
                "kind": repeated([kind for kind, _ in entries], size),
                "sample_id": pd.Categorical.from_codes(
                    np.tile(ids.codes, len(found)), dtype=ids.dtype
                ),
                "position": position,
                "label": categories(label, self.answers),
                "confidence": np.concatenate(
                    [a.confidence for a in found] or [np.zeros(0, np.float32)]
                ),
                "correct": label == np.tile(self.truth, len(found)),
            }
        )

    def predictors(self) -> list[tuple[str, str]]:
        """Return (kind, who) of student, rounds, controls and teachers with predictions."""
        student = [("student", "student")] if self.rounds else []
        return [
            *student,
            *(("round", f"round {number}") for number in self.rounds),
            *(("control", name) for name in self.controls),
            *(("teacher", name) for name in self.teacher_names),
        ]

    def answered(self, kind: str, who: str) -> Answers:
        """Return the answers of one of the `predictors` to the test samples."""
        if (kind, who) not in self._answers:
            self._answers[kind, who] = Answers.of(self.probs(kind, who))
        return self._answers[kind, who]

    def correct(self, kind: str, who: str) -> NDArray[np.bool_]:
        """Return [M] bool: is one of the `predictors` correct on each test sample?"""
        found: NDArray[np.bool_] = self.answered(kind, who).label == self.truth
        return found

    def probs(self, kind: str, who: str) -> ProbTable:
        """Return the probabilities of one of the `predictors`, a row per test sample."""
        files, answers, samples = self.files, len(self.answers), len(self.test)
        if kind == "teacher" and not self.few_shot:
            return files.annotations.read("test", who, answers, samples)
        if kind == "teacher":
            return files.episode_answers(who).read(answers, samples)
        if kind == "control":
            obtain(*(files.control(name).path for name in self.controls))
            return files.control(who).read(answers, samples)
        number = self.rounds[-1] if kind == "student" else int(who.removeprefix("round "))
        return files.round(number).test.read(answers, samples)

    def annotations(self, teacher: str) -> ProbTable:
        """Return the annotations of a teacher, a row per sample of student_train."""
        return self.files.annotations.read(
            "student_train", teacher, len(self.classes), len(self.train)
        )

    def annotated(self, teacher: str) -> Answers:
        """Return the most probable class of each annotation of a teacher."""
        if ("annotations", teacher) not in self._answers:
            self._answers["annotations", teacher] = Answers.of(self.annotations(teacher))
        return self._answers["annotations", teacher]

    def holds(self, samples: pd.DataFrame) -> NDArray[np.bool_]:
        """Return [n, T] bool: is each sample (of `train` or `test`) in each teacher's scope?"""
        labels = torch.from_numpy(codes(samples["true_label"], self.classes))
        domains = torch.from_numpy(codes(samples["domain"], self.domains))
        held: NDArray[np.bool_] = self.scopes().hold(Truth(labels, domains)).numpy()
        return held

    def _split(self, name: str) -> pd.DataFrame:
        return self.samples[self.samples["split"] == name].reset_index(drop=True)

    @cached_property
    def _decisions(self) -> dict[int, pd.DataFrame]:
        """The decisions by round, with the same categories in all, so that they can be joined."""
        obtain(*(self._decided(number).path for number in self.rounds))
        tables = {number: self._read_round(number) for number in self.rounds}
        for table in tables.values():
            for column in ("assigned_teacher", "rejected_by"):
                table[column] = categorical(table[column])
        reasons = [table["rejected_by"].cat.categories for table in tables.values()]
        names = {
            "assigned_teacher": self.teacher_names,
            "rejected_by": list(dict.fromkeys(name for found in reasons for name in found)),
        }
        for table in tables.values():
            for column, known in names.items():
                table[column] = table[column].cat.set_categories(known)
        return tables

    def _decided(self, number: int) -> TableFile:
        files = self.files.round(number)
        return files.decision_sums if self.sharded else files.decisions

    def _read_round(self, number: int) -> pd.DataFrame:
        file = self._decided(number)
        table = file.read()
        if self.sharded:
            found, wanted = int(table["samples"].sum()), self.stages[f"round-{number}"]["samples"]
        else:
            found, wanted = len(table), len(self.train)
        if found != wanted:
            raise RunError(f"{file.path} is damaged or incomplete: {found} samples, not {wanted}")
        return table


def load_run(path: str | Path) -> Run:
    """Open the run in a directory or at a URI, finished or not.

    Raises `UserError` for a place that is not a run's, and for one with several runs (over seeds,
    or losses), which it lists; for a URI also what `cosup.remote_copy.folder_of` raises.
    """
    path = folder_of(path)
    if Layout(path).has_records():
        Layout(path).check_format()
        return Run(path)
    inside = runs_inside(path)
    if inside:
        problem = "the directory contains several runs; give one of them"
        names = listed([run.relative_to(path) for run in inside], MOST_RUNS)
        raise UserError(problem, where=str(path), allowed=names)
    if Layout(path).is_run():
        raise UserError("no stage of the run is finished yet", where=str(path))
    exists = has_folder(path) or path.exists()
    problem = "not a run's directory" if exists else "no such directory"
    expected = "a directory with config.yaml, samples.parquet, decisions/ and summary.json"
    raise UserError(
        f"{problem}; runs are made by `cosup run CONFIG`", where=str(path), allowed=expected
    )


def runs_inside(path: Path) -> list[Path]:
    """Return the directories of runs up to two levels below this one."""
    return [run.path for run in Layout(path).runs_below()]
