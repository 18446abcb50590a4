"""Prepare a run: load data, extract features, train teachers and annotate."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cosup.analysis.records import Run
from cosup.config import Draft
from cosup.config.load import check_config
from cosup.config.schema import Config, ExecutionSection, RunSection
from cosup.data.load import load_data
from cosup.data.shifted_sets import with_shifted
from cosup.data.table import ImageData
from cosup.models.compute import Compute, resolve_device, resolve_precision
from cosup.models.watch import recorded
from cosup.progress import working_on
from cosup.runs.assemble import Annotated, Prepared, assemble
from cosup.runs.backend import Backend
from cosup.runs.bars import Pace
from cosup.runs.checks import check_samples
from cosup.runs.context import RunContext
from cosup.runs.control_teachers import control_teachers
from cosup.runs.inputs import student_inputs
from cosup.runs.staging import feature_cache
from cosup.teachers.annotate import note_outside, open_store
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec, plan_hierarchy
from cosup.teachers.table import TableRead, TableTeacher
from cosup.teachers.train import obtain_level, teacher_groups
from cosup.words import plural

log = logging.getLogger(__name__)

MOST_THREADS = 16


def prepare(context: RunContext) -> Prepared:
    """Load and split the data, extract features, train the teachers and let them annotate.

    What is already on disk is reused. A new run was checked before its directory was made; one that
    is resumed is checked here, and what is wrong now raised as `UserError`.
    """
    config = context.config
    if context.run.resumed:
        check_samples(Draft.of(config))
    compute = make_compute(config.run, config.execution)
    threads = plural(compute.workers, "thread")
    log.info("computing on %s in %s, %s to decode", compute.device, compute.precision, threads)
    with context.timed("data"):
        data = list_samples(config, compute)
    prepared, _ = prepare_listed(context, data, compute)
    return prepared


def prepare_listed(
    context: RunContext,
    data: ImageData,
    compute: Compute,
    hierarchy: Hierarchy | None = None,
    tables: Callable[[TeacherSpec], TableRead] | None = None,
) -> tuple[Prepared, FeatureCache]:
    """Do so for samples that are listed. Returns the features that were read, too.

    hierarchy: if it is planned already. tables: as of `Training`.
    """
    config, backend = context.config, context.backend
    for note in data.notes:
        log.log(logging.WARNING if note.is_warning else logging.INFO, "data: %s", note.text)
    if hierarchy is None:
        hierarchy = plan_hierarchy(config.teachers, data.classes, data.domains, config.run.seed)
    simulated = [spec.name for level in hierarchy for spec in level if spec.simulated]
    if simulated:
        names = ", ".join(simulated)
        log.warning("simulated from the true labels, so no measurement of anybody: %s", names)
    features = backend.begin(config, data, FeatureCache(compute))
    with context.timed("features"):
        inputs = student_inputs(config, data, features)
    with context.timed("teachers"):
        levels, for_controls = _train_teachers(context, hierarchy, data, features, tables)
    with context.timed("annotate"):
        folder = context.run.folder(context.files.annotations.folder)
        precision = backend.compute_of("teachers", compute).precision
        store = open_store(folder, data, config.execution.shard_size, precision)
        annotated = Annotated(data, levels, for_controls, store, compute)
        _annotate_missing(annotated, backend)
    return assemble(context, annotated, inputs), features


def list_samples(config: Config, compute: Compute | None = None) -> ImageData:
    """Load and split the data of a config. Raises `UserError` for anything wrong with them."""
    compute = make_compute(config.run, config.execution) if compute is None else compute
    section, seed, workers, cache = config.data, config.run.seed, compute.workers, compute.cache
    data = load_data(section, seed, workers, cache, teacher_train=config.wants_teacher_train)
    return with_shifted(data, section, seed, workers, cache)


def list_samples_of(run: Run) -> ImageData:
    """List the images of a run as it did itself before any answer of a review."""
    config = check_config(run.files.config.read(), str(run.files.config.path))
    section = config.data.model_copy(update={"answers": None, "shifted": {}})
    return list_samples(config.model_copy(update={"data": section}))


def make_compute(run: RunSection, execution: ExecutionSection) -> Compute:
    """Return the compute context of this process, with every `auto` resolved.

    With Ray, actors and workers have devices of their own, and this process has the CPU alone: it
    has reserved no GPU.
    """
    if execution.threads != "auto":
        torch.set_num_threads(execution.threads)
    device = torch.device("cpu") if execution.backend == "ray" else resolve_device(execution.device)
    usable = min(MOST_THREADS, torch.get_num_threads())
    workers = usable if execution.workers == "auto" else execution.workers
    return Compute(
        device,
        resolve_precision(execution.precision, device),
        workers,
        execution.batch_size,
        Path(execution.cache or feature_cache(run.output)),
    )


def _train_teachers(
    context: RunContext,
    hierarchy: Hierarchy,
    data: ImageData,
    features: FeatureCache,
    tables: Callable[[TeacherSpec], TableRead] | None,
) -> tuple[list[list[Teacher]], dict[str, list[Teacher]]]:
    """Train the teachers of every level, and those of controls by control."""
    config = context.config
    folder, paces = context.run.folder(context.files.teachers.folder), dict[str, Pace]()

    def record(name: str, step: int, loss: float, steps: int) -> None:
        paces.setdefault(name, Pace(f"teacher {name}", steps))(step, loss)
        if recorded(step, steps):
            context.recorder.scalar(f"teacher/{name}/loss", loss, step)

    extra = control_teachers(config, hierarchy, data)
    parts = [*hierarchy, *extra.values()]
    groups = [group for specs in parts for group in teacher_groups(specs)]
    seed = config.run.seed
    training = Training(config.teachers, data, seed, features, record, folder, tables=tables)
    context.backend.train(groups, training)
    levels = obtain_levels(parts, training)
    own = len(hierarchy)
    return levels[:own], dict(zip(extra, levels[own:], strict=True))


def obtain_levels(
    levels: Sequence[Sequence[TeacherSpec]], training: Training
) -> list[list[Teacher]]:
    """Load or train the teachers of each level, and log those that were trained in this run."""
    found = [obtain_level(specs, training) for specs in levels]
    for teacher in (teacher for level in found for teacher in level):
        if teacher.steps:
            log.info("teacher %s: trained for %d steps", teacher.name, teacher.steps)
        else:
            log.debug("teacher %s: there already", teacher.name)
        if teacher.temperature != 1:
            log.info(
                "teacher %s: calibrated by temperature %.3g", teacher.name, teacher.temperature
            )
    return found


def _annotate_missing(annotated: Annotated, backend: Backend) -> None:
    """Compute the annotations that the store lacks."""
    store, data, compute = annotated.store, annotated.data, annotated.compute
    levels = [*annotated.levels, *annotated.for_controls.values()]
    teachers = [teacher for level in levels for teacher in level]
    missing = {t.name: sum(len(store.missing(split, t)) for split in store.sizes) for t in teachers}
    with working_on("annotating: shard", sum(missing.values())) as advance:
        backend.annotate(teachers, data, store, compute, lambda *_: advance(1))
    for teacher in teachers:
        if not missing[teacher.name]:
            log.debug("teacher %s: all annotations are in %s", teacher.name, store.directory)
        elif isinstance(teacher, TableTeacher):
            log.info("teacher %s: %s", teacher.name, teacher.counts)
        else:
            log.info("teacher %s: annotated %d samples", teacher.name, sum(store.sizes.values()))
    note_outside(teachers, data, store, compute)
