"""The first part of a run: data, teachers, annotations, features. What is on disk is not redone."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from cosup.config.schema import Config
from cosup.controls import GENERALIST, needing
from cosup.data.table import ImageData, load_data
from cosup.models.compute import Compute, resolve_device, resolve_precision
from cosup.models.fit import recorded
from cosup.runs.assemble import Prepared, assemble
from cosup.runs.backend import Backend, TeacherGroup
from cosup.runs.check import check_task
from cosup.runs.directory import RunDirectory
from cosup.runs.inputs import student_reads
from cosup.runs.logs import Pace, progress
from cosup.runs.recorder import Recorder
from cosup.runs.staging import staging_root
from cosup.teachers.annotate import open_store
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec, plan_hierarchy
from cosup.teachers.store import AnnotationStore
from cosup.teachers.train import check_teachers, obtain_level, planned_steps, teacher_groups

log = logging.getLogger(__name__)

MOST_THREADS = 16


def prepare(config: Config, run: RunDirectory, recorder: Recorder, backend: Backend) -> Prepared:
    """Load and split the data, train the teachers, let them annotate, extract features.

    What can be seen to be wrong before training is raised before it, as `UserError`.
    """
    compute = make_compute(config)
    with timed(run, "data"):
        data = load_data(config.data, config.run.seed, compute.workers, compute.cache)
    hierarchy = plan_hierarchy(config.teachers, data.classes, data.domains, config.run.seed)
    check_task(config, hierarchy, data)
    features = FeatureCache(compute)
    check_teachers(hierarchy, Training(config.teachers, data, config.run.seed, features))
    features = backend.begin(config, data, features)
    with timed(run, "features"):
        reads = student_reads(config, data, features)
    with timed(run, "teachers"):
        levels = train_hierarchy(config, hierarchy, data, features, run, recorder, backend)
    with timed(run, "annotate"):
        folder = run.folder(run.files.annotations.folder)
        store = open_store(folder, data, config.execution.shard_size)
        _annotate([teacher for level in levels for teacher in level], data, store, compute, backend)
    scratch = run.files.training
    return assemble(config, data, levels, store, reads, compute, scratch, backend.launcher)


def make_compute(config: Config) -> Compute:
    """Device, precision, threads and cache of the `execution` section, made definite."""
    execution = config.execution
    if execution.threads != "auto":
        torch.set_num_threads(execution.threads)
    device = resolve_device(execution.device)
    usable = min(MOST_THREADS, torch.get_num_threads())
    workers = usable if execution.workers == "auto" else execution.workers
    return Compute(
        device,
        resolve_precision(execution.precision, device),
        workers,
        execution.batch_size,
        Path(execution.cache or staging_root(config.run.output) / ".cache"),
    )


def train_hierarchy(
    config: Config,
    hierarchy: Hierarchy,
    data: ImageData,
    features: FeatureCache,
    run: RunDirectory,
    recorder: Recorder,
    backend: Backend,
) -> list[list[Teacher]]:
    """Every level's teachers; last, on a level of its own, the generalist with their budget."""
    folder, paces = run.folder(run.files.teachers.folder), dict[str, Pace]()

    def record(name: str, step: int, loss: float) -> None:
        paces.setdefault(name, Pace(f"teacher {name}"))(step, loss)
        if recorded(step):
            recorder.scalar(f"teachers/{name}", loss, step)

    parts = list(_parts(config, hierarchy, data))
    groups = [(g, section) for specs, section in parts for g in teacher_groups(specs, section)]
    training = Training(config.teachers, data, config.run.seed, features, record, folder)
    backend.train(groups, training)
    levels = [obtain_level(specs, replace(training, section=section)) for specs, section in parts]
    for teacher in (teacher for level in levels for teacher in level):
        if teacher.steps:
            log.info("teacher %s: trained for %d steps", teacher.name, teacher.steps)
    return levels


def _parts(config: Config, hierarchy: Hierarchy, data: ImageData) -> Iterator[TeacherGroup]:
    """Every level's teachers and what they are made with."""
    for specs in hierarchy:
        yield specs, config.teachers
    if needing("generalist", config.controls):
        steps = sum(planned_steps(spec, config.teachers, data) for spec in hierarchy[-1])
        budget = config.teachers.training.model_copy(update={"steps": steps, "epochs": None})
        section = config.teachers.model_copy(update={"training": budget})
        yield [TeacherSpec(GENERALIST, len(hierarchy))], section


def _annotate(
    teachers: Sequence[Teacher],
    data: ImageData,
    store: AnnotationStore,
    compute: Compute,
    backend: Backend,
) -> None:
    """Let these teachers annotate what they have not, and say so."""
    missing = {t.name: sum(len(store.missing(split, t)) for split in store.sizes) for t in teachers}
    with progress("annotating", sum(missing.values())) as advance:
        backend.annotate(teachers, data, store, compute, lambda *_: advance(1))
    for name in (name for name, count in missing.items() if count):
        log.info("teacher %s: annotated %d samples", name, sum(store.sizes.values()))


@contextmanager
def timed(run: RunDirectory, part: str) -> Iterator[None]:
    """Record the seconds spent, added to those of the run that is being resumed."""
    started = time.monotonic()
    before = run.load(part)["seconds"] if run.is_done(part) else 0.0
    yield
    run.finish(part, {"seconds": before + time.monotonic() - started})
