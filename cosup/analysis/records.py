"""A run's records as pandas tables, read from its directory when they are first asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cosup.analysis.arrays import Codes, Floats, categories, codes, repeated
from cosup.errors import RunError, UserError
from cosup.evidence import Scopes, Truth
from cosup.layout import PREPARED, Layout
from cosup.probabilities import ProbTable
from cosup.words import listed

__all__ = ["Answers", "Run", "Teacher", "load_run", "runs_inside"]

SHOWN = 20
"""Runs that a message names before "and N more"."""


@dataclass(frozen=True)
class Teacher:
    """A teacher of the hierarchy. classes, domains: its scope, as places in the run's; None: all.
    steps: optimiser steps of its training here."""

    name: str
    level: int
    kind: str
    classes: tuple[int, ...] | None
    domains: tuple[int, ...] | None
    steps: int


@dataclass(frozen=True)
class Answers:
    """The most probable answer to each sample: label [M] int64 (-1: abstains) and confidence [M]
    float32, its share of the row's mass."""

    label: Codes
    confidence: Floats

    @staticmethod
    def of(table: ProbTable) -> "Answers":
        """Those of a table's rows."""
        label, value = table.top()
        total = table.values.to(torch.float32).sum(1)
        if table.rest is not None:
            total += table.rest.to(torch.float32)
        confidence = value / torch.where(total > 0, total, torch.ones_like(total))
        return Answers(torch.where(value > 0, label, -1).numpy(), confidence.numpy())


class Run:
    """The records of one run.

    path: its directory. absent: of the tables that `tables` could not make, why not; filled by it.

    An unfinished run has what its finished stages left: its student is that of the last finished
    round. A file that can't be read is a `RunError` that names it, raised when the file is first
    needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = Layout(path)
        self.absent: dict[str, str] = {}
        self._answers: dict[tuple[str, str], Answers] = {}

    def __repr__(self) -> str:
        return f"<run {self.name} in {self.path}{'' if self.finished else ', unfinished'}>"

    @property
    def name(self) -> str:
        """What the config calls it (`run.name`)."""
        return str(self.config.get("run", {}).get("name", self.path.name))

    @cached_property
    def finished(self) -> bool:
        """Is the run's summary written?"""
        return self.files.summary.exists()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`; {} of an unfinished run."""
        return self.files.summary.read() if self.finished else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config, as a tree."""
        return self.files.config.read()

    @cached_property
    def environment(self) -> dict[str, Any]:
        """`environment.json`: versions, machine, device, commit, command."""
        file = self.files.environment
        return file.read() if file.exists() else {}

    @cached_property
    def stages(self) -> dict[str, dict[str, Any]]:
        """What each finished stage left, by its name, in the order in which they were finished."""
        return {name: file.read() for name, file in self.files.finished_stages().items()}

    @cached_property
    def missing(self) -> list[str]:
        """What a finished run has and this one has not, in words."""
        if not self.prepared:
            if self.finished:
                name = self.files.samples.path.name
                return [f"{name} (the run was made by an earlier version of cosup)"]
            return ["teachers, annotations, rounds and controls"]
        rounds = self.expected_rounds
        lacking = [f"round {n} of {rounds}" for n in range(1, rounds + 1) if n not in self.rounds]
        controls = [name for name in self.config["controls"] if name not in self.controls]
        lacking += [f"control {name}" for name in controls]
        return lacking if self.finished else [*lacking, "summary"]

    @cached_property
    def prepared(self) -> dict[str, Any]:
        """What `stages/prepared.json` says of classes, domains and teachers; {} before that."""
        return self.stages.get(PREPARED, {})

    @property
    def classes(self) -> list[str]:
        """The classes that teachers and student were trained on."""
        return list(self.prepared.get("classes", []))

    @property
    def domains(self) -> list[str]:
        """The domains; ["all"] where there are none."""
        return list(self.prepared.get("domains", []))

    @property
    def few_shot(self) -> bool:
        """Is it measured by episodes of classes that nobody has learnt?"""
        return self.config["data"].get("few_shot") is not None

    @property
    def expected_rounds(self) -> int:
        """How many rounds the config asks for."""
        levels = {teacher.level for teacher in self.teachers}
        return len(levels) * int(self.config["rounds"]["repeat"])

    @cached_property
    def rounds(self) -> list[int]:
        """The numbers of the finished rounds, in order."""
        names = [name.removeprefix("round-") for name in self.stages if name.startswith("round-")]
        return sorted(int(name) for name in names)

    @cached_property
    def controls(self) -> list[str]:
        """The controls that are finished, in the config's order."""
        return [name for name in self.config["controls"] if f"control-{name}" in self.stages]

    @cached_property
    def teachers(self) -> list[Teacher]:
        """The teachers of the hierarchy, level by level."""
        return [self._teacher(entry["name"]) for entry in self.prepared.get("teachers", [])]

    @property
    def teacher_names(self) -> list[str]:
        """Their names."""
        return [teacher.name for teacher in self.teachers]

    @cached_property
    def samples(self) -> pd.DataFrame:
        """`samples.parquet`: a row per sample of student_train, then of what measures."""
        return self.files.samples.read()

    @cached_property
    def train(self) -> pd.DataFrame:
        """The samples of student_train, numbered from 0: the order of each round's decisions."""
        return self._split("student_train")

    @cached_property
    def test(self) -> pd.DataFrame:
        """The samples that measure, numbered from 0: the order of all predictions."""
        return self._split("test")

    @cached_property
    def answers(self) -> list[str]:
        """What a prediction can be: the classes, or the ways of an episode."""
        return list(self.prepared["answers"])

    @cached_property
    def truth(self) -> Codes:
        """[M] int64 the right answer to each sample that measures, a place in `answers`."""
        return codes(self.test["answer"], self.answers)

    @cached_property
    def decisions(self) -> pd.DataFrame:
        """The decisions of all finished rounds, one below the other."""
        return pd.concat([self.round(number) for number in self.rounds], ignore_index=True)

    def round(self, number: int) -> pd.DataFrame:
        """The decisions of one round, a row per sample of student_train, in their order."""
        return self._decisions[number]

    @cached_property
    def scalars(self) -> pd.DataFrame:
        """`metrics.jsonl`: tag, step, value (nan where it wasn't finite), time (Unix seconds)."""
        file = self.files.metrics
        rows = file.read() if file.exists() else []
        table = pd.DataFrame(rows, columns=["tag", "step", "value", "time"])
        return table.astype({"tag": "str", "step": "int64", "value": "float64", "time": "float64"})

    @cached_property
    def thumbnails(self) -> dict[str, bytes]:
        """PNGs by sample_id, of the samples that the report shows; {} where none were kept."""
        file = self.files.thumbnails
        if not file.exists():
            return {}
        table = file.read()
        return dict(zip(table["sample_id"], table["png"], strict=True))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """What everybody says of the samples that measure, one below the other.

        Columns: who, kind (student, round, control, teacher), sample_id, position (in `test`),
        label (null: abstains), confidence, correct.
        """
        everybody = self.predictors()
        size = len(self.test)
        found = [self.answered(kind, who) for kind, who in everybody]
        label = np.concatenate([answers.label for answers in found] or [np.zeros(0, np.int64)])
        position = np.tile(np.arange(size, dtype=np.int32), len(found))
        ids = pd.Categorical(self.test["sample_id"])
        return pd.DataFrame(
            {
                "who": repeated([who for _, who in everybody], size),
                "kind": repeated([kind for kind, _ in everybody], size),
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
        """(kind, who) of everybody whose answers are there: the student, its rounds, controls,
        teachers."""
        student = [("student", "student")] if self.rounds else []
        return [
            *student,
            *(("round", f"round {number}") for number in self.rounds),
            *(("control", name) for name in self.controls),
            *(("teacher", name) for name in self.teacher_names),
        ]

    def answered(self, kind: str, who: str) -> Answers:
        """What one of the `predictors` says of the samples that measure."""
        if (kind, who) not in self._answers:
            self._answers[kind, who] = Answers.of(self.probs(kind, who))
        return self._answers[kind, who]

    def correct(self, kind: str, who: str) -> NDArray[np.bool_]:
        """[M] bool: where is one of the `predictors` right?"""
        found: NDArray[np.bool_] = self.answered(kind, who).label == self.truth
        return found

    def probs(self, kind: str, who: str) -> ProbTable:
        """The whole probabilities of one of the `predictors`, a row per sample that measures."""
        files, answers, samples = self.files, len(self.answers), len(self.test)
        if kind == "teacher" and not self.few_shot:
            return files.annotations.read("test", who, answers, samples)
        if kind == "teacher":
            return files.episode_answers(who).read(answers, samples)
        if kind == "control":
            return files.control(who).read(answers, samples)
        number = self.rounds[-1] if kind == "student" else int(who.removeprefix("round "))
        return files.round(number).test.read(answers, samples)

    def annotations(self, teacher: str) -> ProbTable:
        """What a teacher says about the samples of student_train, a row for each of `train`."""
        return self.files.annotations.read(
            "student_train", teacher, len(self.classes), len(self.train)
        )

    def annotated(self, teacher: str) -> Answers:
        """The most probable class of each of a teacher's annotations of student_train."""
        if ("annotations", teacher) not in self._answers:
            self._answers["annotations", teacher] = Answers.of(self.annotations(teacher))
        return self._answers["annotations", teacher]

    def scopes(self) -> Scopes:
        """The scopes of all teachers of the hierarchy, in their order."""
        return Scopes.of(
            [teacher.classes for teacher in self.teachers],
            len(self.classes),
            [teacher.domains for teacher in self.teachers],
            len(self.domains),
            self.teacher_names,
        )

    def holds(self, samples: pd.DataFrame) -> NDArray[np.bool_]:
        """[n, T] bool: does each teacher's scope hold each of these samples (`train`, `test`)?"""
        labels = torch.from_numpy(codes(samples["true_label"], self.classes))
        domains = torch.from_numpy(codes(samples["domain"], self.domains))
        held: NDArray[np.bool_] = self.scopes().hold(Truth(labels, domains)).numpy()
        return held

    def _split(self, name: str) -> pd.DataFrame:
        return self.samples[self.samples["split"] == name].reset_index(drop=True)

    def _teacher(self, name: str) -> Teacher:
        found = self.files.teachers.record(name).read()
        scope = [
            None if found[key] is None else tuple(found[key]) for key in ("classes", "domains")
        ]
        return Teacher(name, int(found["level"]), found["kind"], scope[0], scope[1], found["steps"])

    @cached_property
    def _decisions(self) -> dict[int, pd.DataFrame]:
        """Each round's decisions; all with the same categories, so that they can be joined."""
        tables = {number: self._read_round(number) for number in self.rounds}
        reasons = [table["rejected_by"].cat.categories for table in tables.values()]
        names = {
            "assigned_teacher": self.teacher_names,
            "rejected_by": list(dict.fromkeys(name for found in reasons for name in found)),
        }
        for table in tables.values():
            for column, known in names.items():
                table[column] = table[column].cat.set_categories(known)
        return tables

    def _read_round(self, number: int) -> pd.DataFrame:
        file = self.files.round(number).decisions
        table = file.read()
        if len(table) != len(self.train):
            raise RunError(
                f"{file.path} is damaged or incomplete: {len(table)} samples, not {len(self.train)}"
            )
        return table


def load_run(path: str | Path) -> Run:
    """The records of the run in a directory, finished or not.

    Raises `UserError` for what is no run's directory, and for one that holds several runs (over
    seeds, or losses): it names them.
    """
    path = Path(path)
    if Layout(path).has_records():
        return Run(path)
    inside = runs_inside(path)
    if inside:
        names = listed([run.relative_to(path) for run in inside], SHOWN)
        raise UserError(f"{path}: holds several runs; give one of them: {names}")
    if Layout(path).is_run():
        raise UserError(f"{path}: the run has not finished anything yet")
    there = "there is no such directory" if not path.exists() else "not a run's directory"
    raise UserError(
        f"{path}: {there}; a run's holds config.yaml, samples.parquet, decisions/ and summary.json "
        "(`cosup run CONFIG` makes it)"
    )


def runs_inside(path: Path) -> list[Path]:
    """The directories of runs up to two levels below this one: of seeds, of losses, of a folder of
    runs."""
    return [run.path for run in Layout(path).runs_below()]
