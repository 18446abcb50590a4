"""All that rounds and controls read, put together; and each teacher measured alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cosup.config.schema import Config, Losses
from cosup.controls import needing
from cosup.data.table import ImageData
from cosup.evidence import Truth
from cosup.levels import Level, Task
from cosup.models.compute import Compute
from cosup.models.section import HeadSection
from cosup.probabilities import ProbTable
from cosup.runs.inputs import Measured, StudentReads
from cosup.runs.summary import TestSplit
from cosup.student.jobs import Launcher
from cosup.teachers.base import Teacher
from cosup.teachers.hierarchy import TeacherSpec, scopes
from cosup.teachers.live import LiveTeachers
from cosup.teachers.store import AnnotationStore


@dataclass(frozen=True)
class TeacherRecord:
    """A teacher as the summary names it. accuracy: on the test split; chosen_by: on the samples
    that serve to choose the best one (`choose_split`), None where no label is known."""

    name: str
    level: int
    steps: int
    accuracy: float
    chosen_by: float | None


@dataclass(frozen=True)
class Prepared:
    """All that rounds, controls and the summary read. groups: [N] of student_train's samples;
    scratch: the folder that keeps the states of trainings which are not finished;
    given: [N] labels of student_train as trainers see them, where they have noise; launcher: who
    trains students; test_ids: the names of the samples that measure; said: what each teacher says
    about those; head, prototypes: as of `StudentReads`."""

    data: ImageData
    task: Task
    test: TestSplit
    teachers: tuple[TeacherRecord, ...]
    floor: TeacherRecord
    chosen_on: str
    floor_probs: ProbTable
    best_level: Level
    generalist_level: Level | None
    groups: Tensor
    sample_ids: list[str]
    validation: TestSplit | None
    compute: Compute
    scratch: Path
    given: Tensor | None
    launcher: Launcher
    test_ids: list[str]
    said: dict[str, ProbTable]
    head: HeadSection
    prototypes: Tensor | None


def assemble(
    config: Config,
    data: ImageData,
    teachers: Sequence[Sequence[Teacher]],
    store: AnnotationStore,
    reads: StudentReads,
    compute: Compute,
    scratch: Path,
    launcher: Launcher,
) -> Prepared:
    """Put together what the rounds read, and measure each teacher alone."""
    rows, test, validation = data.rows("student_train"), reads.test, reads.validation
    levels = [
        _level(index, [teacher.spec for teacher in level], data, store, reads.provenance)
        for index, level in enumerate(teachers)
    ]
    generalist = levels.pop() if needing("generalist", config.controls) else None
    if asks_live(config):
        for index, level in enumerate(levels):
            levels[index] = replace(
                level,
                live=LiveTeachers(teachers[index], compute, reads_maps(config)),
            )
    everyone = {teacher.name: teacher for level in teachers for teacher in level}
    records, said = [], {}
    for teacher in (teacher for level in teachers[: len(levels)] for teacher in level):
        said[teacher.name] = test.of_teacher(teacher, store, compute)
        chosen_by = _chosen_by(teacher, data, store, validation, compute)
        records.append(
            TeacherRecord(
                teacher.name,
                teacher.spec.level,
                teacher.steps,
                test.split.accuracy(said[teacher.name]),
                chosen_by,
            )
        )
    floor = max(records, key=lambda record: record.chosen_by or 0.0)
    best = [everyone[floor.name].spec]
    task = Task(
        tuple(levels),
        reads.train,
        test.inputs,
        data.truth(rows),
        len(data.classes),
        reads.features,
        data.given(rows),
        None if validation is None else validation.inputs,
    )
    return Prepared(
        data,
        task,
        test.split,
        tuple(records),
        floor,
        "student_train" if validation is None else validation.part,
        said[floor.name],
        _level(len(levels), best, data, store, reads.provenance),
        generalist,
        torch.from_numpy(data.groups(rows)),
        data.sample_ids(rows),
        None if validation is None else validation.split,
        compute,
        scratch,
        None if config.data.noise is None else data.given(rows),
        launcher,
        test.sample_ids,
        said,
        reads.head,
        reads.prototypes,
    )


def asks_live(config: Config) -> bool:
    """Whether the student's training asks the teachers about its own, augmented images."""
    return config.rounds.live_annotations or reads_maps(config)


def reads_maps(config: Config) -> bool:
    """Whether the loss compares what student and teachers see, not only what they say."""
    return bool(Losses.entry(config.rounds.loss.name).settings.reads_features)


def _chosen_by(
    teacher: Teacher,
    data: ImageData,
    store: AnnotationStore,
    validation: Measured | None,
    compute: Compute,
) -> float | None:
    """The accuracy that the best single teacher is chosen by: never on what measures.

    On validation if there is one; else on student_train's true labels, a choice with hindsight
    that favours the floor; where none of those is known, the first teacher is taken.
    """
    if validation is not None:
        return validation.split.accuracy(validation.of_teacher(teacher, store, compute))
    truth: Truth = data.truth(data.rows("student_train"))
    known = truth.labels >= 0
    label, confidence = store.level("student_train", [teacher.name]).table(teacher.name).top()
    right = (label == truth.labels) & (confidence > 0)
    return float(right[known].double().mean()) if bool(known.any()) else None


def _level(
    index: int,
    specs: Sequence[TeacherSpec],
    data: ImageData,
    store: AnnotationStore,
    features: Tensor | None,
) -> Level:
    """A level as rounds read it; its provenance is which teacher's scope holds which labelled
    sample of teacher_train, whose features these are."""
    table = scopes(specs, len(data.classes), len(data.domains))
    provenance = None
    if features is not None:
        rows = data.rows("teacher_train")
        taught = Truth(data.given(rows), data.truth(rows).domains)
        provenance = (features, table.hold(taught).float())
    names = [spec.name for spec in specs]
    return Level(index, table, store.level("student_train", names), provenance)
