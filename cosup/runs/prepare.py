"""The first part of a run: data, teachers, annotations, features. What is on disk is not redone."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from cosup.config.schema import Config
from cosup.data.table import ImageData, load_data
from cosup.models.device import resolve_device, resolve_precision
from cosup.runs.assemble import BUDGET_GENERALIST, Prepared, assemble
from cosup.runs.check import check_task
from cosup.runs.directory import RunDirectory
from cosup.runs.inputs import student_reads
from cosup.runs.logs import Pace, progress
from cosup.runs.records import Recorder
from cosup.teachers.annotate import annotate, open_store
from cosup.teachers.base import Resources, Teacher
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec, plan_hierarchy
from cosup.teachers.store import AnnotationStore
from cosup.teachers.train import check_teachers, obtain_level

log = logging.getLogger(__name__)

MOST_THREADS = 16


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
        reads = student_reads(config, data, resources)
    with timed(run, "teachers"):
        levels = train_hierarchy(config, hierarchy, data, resources, run, recorder)
    with timed(run, "annotate"):
        store = open_store(run.folder("annotations"), data, config.execution.shard_size)
        everyone = [teacher for level in levels for teacher in level]
        with progress("annotating", _missing(everyone, store)) as advance:
            annotate(everyone, data, store, resources, on_shard=lambda *_: advance(1))
    scratch = run.path / "checkpoints" / "training"
    return assemble(config, data, levels, store, reads, resources, scratch)


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

    paces: dict[str, Pace] = {}

    def record(name: str, step: int, loss: float) -> None:
        paces.setdefault(name, Pace(f"teacher {name}"))(step, loss)
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


def _missing(teachers: Sequence[Teacher], store: AnnotationStore) -> int:
    return sum(len(store.missing(split, t)) for t in teachers for split in store.sizes)


@contextmanager
def timed(run: RunDirectory, part: str) -> Iterator[None]:
    """Record the seconds spent, added to those of the run that is being resumed."""
    started = time.monotonic()
    before = run.load(part)["seconds"] if run.is_done(part) else 0.0
    yield
    run.finish(part, {"seconds": before + time.monotonic() - started})
