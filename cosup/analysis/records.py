"""The records of a run, read from its directory when they are first used."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cosup.analysis.arrays import Codes, Singles, categorical, categories, codes, repeated
from cosup.config.rounds import RoundsSection
from cosup.errors import RunError, UserError, in_short
from cosup.evidence import Scopes, Truth
from cosup.layout import PREPARED, Layout
from cosup.layout.kinds import TableFile
from cosup.links import is_file_name
from cosup.origins import has_folder, obtain, shown
from cosup.probabilities import ProbTable
from cosup.remote_copy import folder_of
from cosup.words import listed, literal

__all__ = ["NOT_LISTED", "Answers", "Run", "RunTeacher", "load_run", "runs_inside"]

NOT_LISTED = "the samples of student_train are not listed (data.sharded)"
MOST_RUNS = 20
"""Runs that an error lists before "and N more"."""


@dataclass(frozen=True)
class RunTeacher:
    """A teacher of the hierarchy.

    classes, domains: its scope, as indices of the run's classes and domains; None: all. steps:
    optimizer steps of its training in this run. temperature: that calibrates it; 1 does nothing.
    """

    name: str
    level: int
    kind: str
    classes: tuple[int, ...] | None
    domains: tuple[int, ...] | None
    steps: int
    temperature: float = 1.0


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


class Run:
    """The records of one run.

    path: its directory; for a run at a URI, a copy in which a file is fetched when it is first read
    (`cosup.remote_copy`). absent: the reason for each table that `tables` could not make.

    An unfinished run has the records of its finished stages; its student is that of the last
    finished round. A sharded run has no table of the samples of student_train, and of each round
    sums over the decisions, whose length does not depend on the number of samples. Files are read
    when they are first needed; one that cannot be read raises `RunError`, which names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.absent: dict[str, str] = {}
        self._answers: dict[tuple[str, str], Answers] = {}

    @property
    def place(self) -> str:
        """Where the run is, to be printed: its directory or its URI."""
        return shown(self.path)

    @property
    def files(self) -> Layout:
        """The files of the run."""
        return Layout(self.path)

    def __repr__(self) -> str:
        return f"<run {self.name} in {self.place}{'' if self.finished else ', unfinished'}>"

    @property
    def name(self) -> str:
        """The name in the config (`run.name`)."""
        return str(self.config.get("run", {}).get("name", self.path.name))

    @property
    def title(self) -> str:
        """The name of the directory, which `--output` may have set apart from `run.name`; of one
        seed or loss of a run, `run.name`."""
        path = self.path.resolve()
        return self.name if Layout(path.parent).is_run() else path.name

    @cached_property
    def finished(self) -> bool:
        """Whether the summary of the run is written."""
        return self.files.summary.exists()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`; {} for an unfinished run."""
        return self.files.summary.read() if self.finished else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config, as a tree, with the recipe that the run chose if it has."""
        tree = self.files.config.read()
        if not tree.get("rounds", {}).get("choose"):
            return tree
        choice = self.stages.get("choose-recipe", {"chosen": None, "candidates": []})
        chosen = [one["rounds"] for one in choice["candidates"] if one["name"] == choice["chosen"]]
        defaults = RoundsSection().model_dump(mode="json")
        rounds = {**defaults, **tree["rounds"], **(chosen[0] if chosen else {})}
        return {**tree, "rounds": {**rounds, "choose": "auto"}}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """`environment.json`: versions, machine, device, commit, command."""
        file = self.files.environment
        return file.read() if file.exists() else {}

    @cached_property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The record of each finished stage by name, in the order in which they finished."""
        return {name: file.read() for name, file in self.files.finished_stages().items()}

    @cached_property
    def missing(self) -> list[str]:
        """The names of the records that a finished run has and this one lacks."""
        if not self.prepared:
            if self.finished:
                name = self.files.samples.path.name
                return [f"{name} (the run was made by an earlier version of cosup)"]
            return ["teachers, annotations, rounds and controls"]
        rounds = self.expected_rounds
        lacking = [f"round {n} of {rounds}" for n in range(1, rounds + 1) if n not in self.rounds]
        left_out = self.summary.get("controls_absent", {})
        asked = [name for name in self.config.get("controls", []) if name not in left_out]
        controls = [name for name in asked if name not in self.controls]
        lacking += [f"control {name}" for name in controls]
        return lacking if self.finished else [*lacking, "summary"]

    @cached_property
    def prepared(self) -> dict[str, Any]:
        """`stages/prepared.json` with classes, domains and teachers; {} before preparation."""
        return self.stages.get(PREPARED, {})

    @property
    def classes(self) -> list[str]:
        """The classes of teachers and student."""
        return list(self.prepared.get("classes", []))

    @property
    def domains(self) -> list[str]:
        """The domains; ["all"] if there are none."""
        return list(self.prepared.get("domains", []))

    @property
    def few_shot(self) -> bool:
        """Whether the student is evaluated on episodes of novel classes."""
        return self.config.get("data", {}).get("few_shot") is not None

    @property
    def expected_rounds(self) -> int:
        """The number of rounds in the config."""
        levels = {teacher.level for teacher in self.teachers}
        rounds = self.config.get("rounds", {})
        # The others may be unknown here: losses of packages, settings of other versions.
        counted = {key: rounds[key] for key in ("assignment", "repeat", "refine") if key in rounds}
        try:
            return RoundsSection.model_validate(counted).total(len(levels))
        except ValueError as error:
            problem = f"{self.files.config.path} is damaged: rounds: {in_short(error)}"
            raise RunError(problem) from None

    @cached_property
    def rounds(self) -> list[int]:
        """The numbers of the finished rounds, in order."""
        names = [name.removeprefix("round-") for name in self.stages if name.startswith("round-")]
        return sorted(int(name) for name in names)

    @cached_property
    def controls(self) -> list[str]:
        """The finished controls, in the order of the config."""
        return [
            name for name in self.config.get("controls", []) if f"control-{name}" in self.stages
        ]

    @cached_property
    def teachers(self) -> list[RunTeacher]:
        """The teachers of the hierarchy, level by level."""
        names = [entry["name"] for entry in self.prepared.get("teachers", [])]
        for name in names:
            if not is_file_name(str(name)):  # anybody may have written the run
                place = self.files.stage(PREPARED).path
                raise RunError(f"{place} is damaged: a teacher is named {literal(name)}")
        obtain(*(self.files.teachers.record(name).path for name in names))
        return [self._teacher(name) for name in names]

    @property
    def teacher_names(self) -> list[str]:
        """The names of the teachers."""
        return [teacher.name for teacher in self.teachers]

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

    @property
    def sharded(self) -> bool:
        """Whether the samples of student_train are not listed (`data.sharded`)."""
        return bool(self.prepared.get("shards")) or "shards" in self.summary.get("data", {})

    def check_listed(self, instead: str) -> None:
        """Raise `UserError` for a sharded run, with what to do instead."""
        if self.sharded:
            raise UserError(f"{NOT_LISTED}: {instead}", where=self.place)

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

    def scopes(self) -> Scopes:
        """Return the scopes of all teachers, in their order."""
        return Scopes.of(
            [teacher.classes for teacher in self.teachers],
            len(self.classes),
            [teacher.domains for teacher in self.teachers],
            len(self.domains),
            self.teacher_names,
        )

    def holds(self, samples: pd.DataFrame) -> NDArray[np.bool_]:
        """Return [n, T] bool: is each sample (of `train` or `test`) in each teacher's scope?"""
        labels = torch.from_numpy(codes(samples["true_label"], self.classes))
        domains = torch.from_numpy(codes(samples["domain"], self.domains))
        held: NDArray[np.bool_] = self.scopes().hold(Truth(labels, domains)).numpy()
        return held

    def _split(self, name: str) -> pd.DataFrame:
        return self.samples[self.samples["split"] == name].reset_index(drop=True)

    def _teacher(self, name: str) -> RunTeacher:
        found = self.files.teachers.record(name).read()
        scope = [
            None if found[key] is None else tuple(found[key]) for key in ("classes", "domains")
        ]
        return RunTeacher(
            name,
            int(found["level"]),
            found["kind"],
            scope[0],
            scope[1],
            found["steps"],
            float(found.get("temperature", 1.0)),
        )

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
