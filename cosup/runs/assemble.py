"""Assemble what rounds and controls read, and measure each teacher alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from cosup.assigning import Assignments
from cosup.config.schema import Config, Losses
from cosup.data.loader import ImageRows
from cosup.data.table import ImageData
from cosup.evidence import Truth
from cosup.levels import Labelled, Level, Task
from cosup.models.compute import Compute
from cosup.probabilities import ProbTable
from cosup.runs.context import RunContext
from cosup.runs.inputs import PROVENANCE as LABELLED
from cosup.runs.inputs import Evaluation, StudentInputs
from cosup.runs.measure import Score, TeacherRecord, best_teacher, score, teacher_records
from cosup.runs.scores import estimated_scores
from cosup.seeds import seed_for
from cosup.teachers.annotate import OUTSIDE
from cosup.teachers.base import Teacher
from cosup.teachers.hierarchy import scopes, speakers
from cosup.teachers.live import LiveTeachers
from cosup.teachers.store import AnnotationStore

ESTIMATE = "student_train, estimated without labels"
"""What the best teacher is chosen on where no true label is known outside the test split."""


@dataclass(frozen=True)
class Annotated:
    """Trained teachers and their annotations of a run's data.

    levels: from the coarsest to the finest. for_controls: the generalists that were trained for a
    control, by control.
    """

    data: ImageData
    levels: Sequence[Sequence[Teacher]]
    for_controls: Mapping[str, Sequence[Teacher]]
    store: AnnotationStore
    compute: Compute

    def level(self, index: int, teachers: Sequence[Teacher], features: Tensor | None) -> Level:
        """Return a level as rounds read it.

        features: [M, D] of teacher_train. Its provenance is which teacher's scope holds which
        labelled sample of teacher_train.
        """
        data, specs = self.data, [teacher.spec for teacher in teachers]
        table = scopes(specs, len(data.classes), len(data.domains))
        provenance = None
        if features is not None:
            rows = data.rows("teacher_train")
            known = Truth(data.given(rows), data.truth(rows).domains)
            provenance = (features, table.hold(known).float())
        names = [spec.name for spec in specs]
        return Level(index, table, self.store.level("student_train", names), provenance)

    def answers(self, teacher: Teacher, evaluation: Evaluation) -> ProbTable:
        """Return a teacher's probabilities of the samples of an evaluation."""
        return evaluation.answers(teacher, self.store, self.compute)


@dataclass(frozen=True)
class MeasuredTeachers:
    """The teachers of the hierarchy, each measured alone.

    floor: the best teacher. answers: each teacher's probabilities of the test samples. chosen_on:
    the samples by which the best teacher is chosen. best_level: a level of that teacher alone.
    control_levels: of the generalists that were trained for controls, by control.
    """

    records: tuple[TeacherRecord, ...]
    floor: TeacherRecord
    answers: dict[str, ProbTable]
    chosen_on: str
    best_level: Level
    control_levels: Mapping[str, Level]

    @property
    def floor_answers(self) -> ProbTable:
        """Return the best teacher's probabilities of the test samples."""
        return self.answers[self.floor.name]


@dataclass(frozen=True)
class TrainingSamples:
    """The samples of student_train.

    sample_ids: names. groups: [N] int64, resampled together. noisy_labels: [N] labels as trainers
    get them if the data have label noise, else None.
    """

    sample_ids: list[str]
    groups: Tensor
    noisy_labels: Tensor | None


@dataclass(frozen=True)
class Prepared:
    """Everything that rounds, controls and the summary read.

    task: as the assigner of the config reads it. annotated: the teachers and their annotations.
    compute: with the folder of the states of unfinished trainings as its scratch. assignments: what
    rounds, candidates and controls assign alike.
    """

    data: ImageData
    task: Task
    samples: TrainingSamples
    inputs: StudentInputs
    teachers: MeasuredTeachers
    annotated: Annotated
    compute: Compute
    assignments: Assignments = field(default_factory=Assignments)

    @property
    def student_groups(self) -> Tensor:
        """Return the groups of the samples that the student learns from: [N], and [M] labelled."""
        if self.task.labelled is None:
            return self.samples.groups
        rows = np.concatenate([self.data.rows(split) for split in ("student_train", LABELLED)])
        return torch.from_numpy(self.data.groups(rows))

    @property
    def test(self) -> Evaluation:
        """Return the test samples."""
        return self.inputs.test

    def by_set(self, probs: ProbTable) -> tuple[ProbTable, dict[str, ProbTable]]:
        """Return probabilities of all test samples by set: those of the test split, and those of
        each shifted set by name."""
        first = len(self.test.split)
        test, parts = probs.take(slice(first)), dict[str, ProbTable]()
        for name, one in self.inputs.shifted.items():
            parts[name] = probs.take(slice(first, first + len(one.split)))
            first += len(one.split)
        assert first == len(probs), "there is a row for every test sample"
        return test, parts

    def for_rounds(self, config: Config) -> "Prepared":
        """Return what the rounds of another recipe read: with some losses, networks of teachers,
        and the labelled samples if they are learned."""
        task = self.task
        if asks_live(config) or any(level.live is not None for level in task.levels):
            levels = _levels(config, self.annotated, self.inputs.provenance)
            task = replace(task, levels=levels)
        if config.rounds.labelled != (task.labelled is not None):
            labels, labelled = _labels(config, self.data, self.inputs)
            task = replace(task, labels=labels, labelled=labelled)
        return self if task is self.task else replace(self, task=task)


def assemble(context: RunContext, annotated: Annotated, inputs: StudentInputs) -> Prepared:
    """Assemble what the rounds read, and measure each teacher alone."""
    config, data = context.config, annotated.data
    rows, validation = data.rows("student_train"), inputs.validation
    levels = _levels(config, annotated, inputs.provenance)
    labels, labelled = _labels(config, data, inputs)
    task = Task(
        levels=levels,
        inputs=inputs.train,
        test_inputs=inputs.test_inputs,
        truth=data.truth(rows),
        num_classes=len(data.classes),
        features=inputs.features,
        labels=labels,
        labelled=labelled,
        reviewed=data.reviewed(rows),
        validation_inputs=None if validation is None else validation.inputs,
    )
    samples = TrainingSamples(
        sample_ids=data.sample_ids(rows),
        groups=torch.from_numpy(data.groups(rows)),
        noisy_labels=None if config.data.noise is None else data.given(rows),
    )
    return Prepared(
        data=data,
        task=task,
        samples=samples,
        inputs=inputs,
        teachers=_measured(config, annotated, inputs, levels),
        annotated=annotated,
        compute=replace(annotated.compute, scratch=context.files.training),
    )


def _labels(
    config: Config, data: ImageData, inputs: StudentInputs
) -> tuple[Tensor | None, Labelled | None]:
    """Return the labels of student_train, or the labelled samples that are learned in their place,
    with the inputs of student_train and of them in one."""
    if not config.rounds.labelled:
        return data.given(data.rows("student_train")), None
    parts = inputs.train, inputs.of_split(LABELLED)
    labels = data.given(data.rows(LABELLED))
    if isinstance(parts[0], Tensor):
        assert isinstance(parts[1], Tensor)
        return None, Labelled(torch.cat([parts[0], parts[1]]), labels)
    rows = np.concatenate([data.rows("student_train"), data.rows(LABELLED)])
    return None, Labelled(ImageRows(data, rows), labels)


def asks_live(config: Config) -> bool:
    """Return whether the student's training asks the teachers about its augmented images."""
    return config.rounds.live_annotations or reads_maps(config) or answers_episodes(config)


def answers_episodes(config: Config) -> bool:
    """Return whether the teacher answers the episodes of the student's meta stage itself."""
    meta = config.student.meta
    return meta is not None and meta.teacher != "annotations"


def reads_maps(config: Config) -> bool:
    """Return whether the loss compares feature maps of student and teachers."""
    return bool(Losses.entry(config.rounds.loss.name).settings.reads_features)


def _levels(config: Config, annotated: Annotated, provenance: Tensor | None) -> tuple[Level, ...]:
    """Return the levels, each with all teachers that speak in its rounds."""
    everyone = {teacher.name: teacher for level in annotated.levels for teacher in level}
    specs = speakers([[one.spec for one in level] for level in annotated.levels])
    levels = [[everyone[spec.name] for spec in level] for level in specs]
    return tuple(
        _level(config, annotated, index, level, provenance) for index, level in enumerate(levels)
    )


def _level(
    config: Config,
    annotated: Annotated,
    index: int,
    members: Sequence[Teacher],
    provenance: Tensor | None,
) -> Level:
    """Return a level; with its teachers as networks if the student's training runs them."""
    level = annotated.level(index, members, provenance)
    if not asks_live(config):
        return level
    features = reads_maps(config) or answers_episodes(config)
    return replace(level, live=LiveTeachers(members, annotated.compute, features))


def _measured(
    config: Config, annotated: Annotated, inputs: StudentInputs, levels: Sequence[Level]
) -> MeasuredTeachers:
    """Measure each teacher, and choose the best one."""
    everyone = {teacher.name: teacher for level in annotated.levels for teacher in level}
    answers = {name: annotated.answers(one, inputs.test) for name, one in everyone.items()}
    chosen_on, scores = _scores(annotated, everyone, inputs.validation)
    if chosen_on == ESTIMATE:
        stored = annotated.store.level("student_train", list(everyone))
        tables = {name: stored.table(name) for name in everyone}
        scores = estimated_scores(levels[-1], tables, inputs.features, config.run.seed)
    seed = seed_for(config.run.seed, "bootstrap")
    noted = {name: annotated.store.noted("student_train", name) for name in everyone}
    outside = {name: facts[OUTSIDE] for name, facts in noted.items() if OUTSIDE in facts}
    records = teacher_records(everyone, answers, inputs.test.split, scores, seed, outside)
    best = best_teacher(scores)
    after, features = len(annotated.levels), inputs.provenance
    return MeasuredTeachers(
        records=records,
        floor=next(record for record in records if record.name == best),
        answers=answers,
        chosen_on=chosen_on,
        best_level=_level(config, annotated, after, [everyone[best]], features),
        control_levels={
            name: _level(config, annotated, after, members, features)
            for name, members in annotated.for_controls.items()
        },
    )


def _scores(
    annotated: Annotated, teachers: Mapping[str, Teacher], validation: Evaluation | None
) -> tuple[str, dict[str, Score]]:
    """Return the samples by which the best teacher is chosen, and each teacher's score on them.

    They are never the test samples: validation, if there is one and every teacher answers some of
    it; else student_train, whose true labels favour the floor. Where none of these is known, the
    scores are to be estimated (`ESTIMATE`). A few reviewed images choose nothing, as an
    estimate is closer (METHODS.md section 12).
    """
    if validation is not None and not validation.split.few:
        labels = validation.split.labels
        found = {
            name: score(annotated.answers(one, validation), labels)
            for name, one in teachers.items()
        }
        if all(one.answered for one in found.values()):
            return validation.part, found
    data, store = annotated.data, annotated.store
    labels = data.truth(data.rows("student_train")).labels
    level = store.level("student_train", list(teachers))
    found = {name: score(level.table(name), labels) for name in teachers}
    return ("student_train" if bool((labels >= 0).any()) else ESTIMATE), found
