"""The first part of a run: data, teachers, annotations, features. What is on disk is not redone."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cosup.config.schema import Assigners, Config
from cosup.controls import check_controls
from cosup.data.table import ImageData, load_data
from cosup.errors import UserError, about
from cosup.evidence import Truth
from cosup.levels import Level, Task
from cosup.models.device import resolve_device, resolve_precision
from cosup.probabilities import ProbTable
from cosup.runs.directory import RunDirectory
from cosup.runs.logs import progress
from cosup.runs.records import Recorder
from cosup.runs.summary import TestSplit
from cosup.teachers.annotate import annotate, open_store
from cosup.teachers.base import Resources, Teacher
from cosup.teachers.features import cached_part, feature_source
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec, plan_hierarchy, scopes
from cosup.teachers.store import AnnotationStore
from cosup.teachers.train import check_teachers, obtain_level

log = logging.getLogger(__name__)

BUDGET_GENERALIST = "equal_budget_generalist"
MOST_THREADS = 16


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
    """All that rounds, controls and the summary read. groups: [N] of student_train's samples."""

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


def prepare(config: Config, run: RunDirectory, recorder: Recorder) -> Prepared:
    """Load and split the data, train the teachers, let them annotate, extract features.

    What can be seen to be wrong before training is raised before it, as `UserError`.
    """
    resources = make_resources(config)
    with timed(run, "data"):
        data = load_data(config.data, config.run.seed, resources.workers, resources.cache)
    hierarchy = plan_hierarchy(config.teachers, data.classes, data.domains, config.run.seed)
    check_task(config, hierarchy, data)
    check_teachers(hierarchy, config.teachers, data, seed=config.run.seed, resources=resources)
    with timed(run, "features"):
        features = student_features(config, data, resources)
    with timed(run, "teachers"):
        levels = train_hierarchy(config, hierarchy, data, resources, run, recorder)
    with timed(run, "annotate"):
        store = open_store(run.folder("annotations"), data, config.execution.shard_size)
        everyone = [teacher for level in levels for teacher in level]
        with progress("annotating", _missing(everyone, store)) as advance:
            annotate(everyone, data, store, resources, on_shard=lambda *_: advance(1))
    return assemble(config, data, levels, store, features)


def make_resources(config: Config) -> Resources:
    """Device, precision, threads and cache of the `execution` section, made definite."""
    execution = config.execution
    device = resolve_device(execution.device)
    usable = min(MOST_THREADS, torch.get_num_threads())
    workers = usable if execution.workers == "auto" else execution.workers
    return Resources(
        device,
        resolve_precision(execution.precision, device),
        workers,
        execution.batch_size,
        Path(execution.cache or Path(config.run.output) / ".cache"),
    )


def check_task(config: Config, hierarchy: Hierarchy, data: ImageData) -> None:
    """What config and data, each right in itself, can get wrong together: `UserError`."""
    check_controls(config, data.truth(data.rows("student_train")))
    assigner = Assigners.build(config.rounds.assignment)
    for number, level in enumerate(hierarchy):
        with about(f"rounds.assignment, level {number}"):
            assigner.check(scopes(level, len(data.classes), len(data.domains)))
    if BUDGET_GENERALIST in config.controls and all(
        spec.external is not None for spec in hierarchy[-1]
    ):
        raise UserError(
            f"controls: {BUDGET_GENERALIST}: the finest level's teachers are all external, and "
            "their budget isn't known; leave it out"
        )


def student_features(config: Config, data: ImageData, resources: Resources) -> dict[str, Tensor]:
    """The student's features [n, D] float16 of each split that a round reads."""
    splits = ["student_train", "test"]
    if "provenance" in Assigners.build(config.rounds.assignment).needs:
        splits.append("teacher_train")
    with about("student.backbone"):
        source = feature_source(config.student.backbone, resources)
    found = {}
    for split in splits:
        with progress(f"features of {source.backbone.name}", len(cached_part(data, split))) as show:
            found[split] = source.of_split(data, split, _steps(show))
    return found


def _steps(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Turn how many are done into how many are newly done."""
    last = 0

    def tell(done: int) -> None:
        nonlocal last
        advance(done - last)
        last = done

    return tell


def train_hierarchy(
    config: Config,
    hierarchy: Hierarchy,
    data: ImageData,
    resources: Resources,
    run: RunDirectory,
    recorder: Recorder,
) -> list[list[Teacher]]:
    """Every level's teachers; last, on a level of its own, the generalist with their budget."""
    folder = run.folder("teachers")

    def record(name: str, step: int, loss: float) -> None:
        if step == 1 or step % 50 == 0:
            recorder.scalar(f"teachers/{name}", loss, step)

    levels = [
        obtain_level(
            specs,
            config.teachers,
            data,
            seed=config.run.seed,
            resources=resources,
            directory=folder,
            on_step=record,
        )
        for specs in hierarchy
    ]
    if BUDGET_GENERALIST in config.controls:
        steps = sum(teacher.steps for teacher in levels[-1])
        budget = config.teachers.training.model_copy(update={"steps": steps, "epochs": None})
        section = config.teachers.model_copy(update={"training": budget})
        spec = TeacherSpec(BUDGET_GENERALIST, len(levels))
        levels.append(
            obtain_level(
                [spec],
                section,
                data,
                seed=config.run.seed,
                resources=resources,
                directory=folder,
                on_step=record,
            )
        )
    for teacher in (teacher for level in levels for teacher in level):
        if teacher.steps:
            log.info("teacher %s: %d steps", teacher.name, teacher.steps)
    return levels


def assemble(
    config: Config,
    data: ImageData,
    teachers: Sequence[Sequence[Teacher]],
    store: AnnotationStore,
    features: dict[str, Tensor],
) -> Prepared:
    """Put together what the rounds read, and measure each teacher alone."""
    rows, test_rows = data.rows("student_train"), data.rows("test")
    truth = data.truth(test_rows)
    groups = torch.from_numpy(data.groups(test_rows))
    test = TestSplit(truth.labels, truth.domains, groups, data.classes, data.domains)
    levels = [
        _level(index, [teacher.spec for teacher in level], data, store, features)
        for index, level in enumerate(teachers)
    ]
    generalist = levels.pop() if BUDGET_GENERALIST in config.controls else None
    choose = choose_split(data)
    records = [
        _record(teacher, store, test, data, choose)
        for level in teachers[: len(levels)]
        for teacher in level
    ]
    floor = max(records, key=lambda record: record.chosen_by or 0.0)
    specs = {teacher.name: teacher.spec for level in teachers for teacher in level}
    return Prepared(
        data,
        Task(
            tuple(levels),
            features["student_train"],
            features["test"],
            data.truth(rows),
            len(data.classes),
        ),
        test,
        tuple(records),
        floor,
        choose,
        store.level("test", [floor.name]).table(floor.name),
        _level(len(levels), [specs[floor.name]], data, store, features),
        generalist,
        torch.from_numpy(data.groups(rows)),
        data.sample_ids(rows),
    )


def choose_split(data: ImageData) -> str:
    """Where the best single teacher is chosen: never on the test split.

    On validation if there is one; else on student_train's true labels, a choice with hindsight
    that favours the floor; where none of those is known, the first teacher is taken.
    """
    return "validation" if len(data.rows("validation")) else "student_train"


def _level(
    index: int,
    specs: Sequence[TeacherSpec],
    data: ImageData,
    store: AnnotationStore,
    features: dict[str, Tensor],
) -> Level:
    """A level as rounds read it; its provenance is which teacher's scope holds which labelled
    sample of teacher_train."""
    table = scopes(specs, len(data.classes), len(data.domains))
    provenance = None
    if "teacher_train" in features:
        truth = data.truth(data.rows("teacher_train"))
        provenance = (features["teacher_train"], table.hold(truth).float())
    names = [spec.name for spec in specs]
    return Level(index, table, store.level("student_train", names), provenance)


def _record(
    teacher: Teacher, store: AnnotationStore, test: TestSplit, data: ImageData, choose: str
) -> TeacherRecord:
    probs = store.level("test", [teacher.name]).table(teacher.name)
    truth: Truth = data.truth(data.rows(choose))
    known = truth.labels >= 0
    label, confidence = store.level(choose, [teacher.name]).table(teacher.name).top()
    right = (label == truth.labels) & (confidence > 0)
    return TeacherRecord(
        teacher.name,
        teacher.spec.level,
        teacher.steps,
        test.accuracy(probs),
        float(right[known].double().mean()) if bool(known.any()) else None,
    )


def _missing(teachers: Sequence[Teacher], store: AnnotationStore) -> int:
    return sum(len(store.missing(split, t)) for t in teachers for split in store.sizes)


@contextmanager
def timed(run: RunDirectory, part: str) -> Iterator[None]:
    """Record the seconds spent, added to those of the run that is being resumed."""
    started = time.monotonic()
    before = run.load(part)["seconds"] if run.is_done(part) else 0.0
    yield
    run.finish(part, {"seconds": before + time.monotonic() - started})
