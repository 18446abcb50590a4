"""Train the teachers of a level, and store them for resumed runs."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from cosup.config.teacher_model import TeacherModelSection, TeacherSetup
from cosup.data.table import ImageData
from cosup.errors import Mistakes, RunError, UserError, about
from cosup.files import discard
from cosup.layout.folders import TeacherFiles
from cosup.layout.kinds import damaged
from cosup.models.training_section import TrainingSection
from cosup.settings.teachers import SIMULATED, TABLE, TEACHERS
from cosup.teachers.base import TEMPERATURE, Teacher, Training
from cosup.teachers.calibration import calibrate
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec
from cosup.teachers.rows import calibration_rows, training_rows
from cosup.teachers.tables.frames import file_digest

__all__ = [
    "check_teachers",
    "kind_of",
    "load_group",
    "load_teacher",
    "obtain_level",
    "planned_steps",
    "recorded_spec",
    "restored",
    "save_group",
    "save_teacher",
    "stored_teacher",
    "teacher_groups",
    "train_group",
    "train_level",
    "train_teacher",
]

log = logging.getLogger(__name__)

RECIPE_FORMAT = 3


def kind_of(spec: TeacherSpec) -> type[Teacher]:
    """Return the class of a teacher: an external one's, or what its model selects.

    Raises `UserError` for a misspelt kind.
    """
    if spec.external is None:
        entry = spec.model.match.entry
    else:
        entry = TEACHERS[TABLE if spec.external.simulate is None else SIMULATED]
    kind: type[Teacher] = entry.load()
    return kind


def _alike(specs: Sequence[TeacherSpec]) -> list[tuple[type[Teacher], list[TeacherSpec]]]:
    """Group specs of the same kind, model and training, in order of first appearance."""
    groups: list[tuple[type[Teacher], list[TeacherSpec]]] = []
    for spec in specs:
        kind = kind_of(spec)
        for other, chosen in groups:
            if other is kind and chosen[0].setup == spec.setup:
                chosen.append(spec)
                break
        else:
            groups.append((kind, [spec]))
    return groups


def check_teachers(hierarchy: Hierarchy, training: Training) -> None:
    """Raise `UserError` for errors that can be found before any teacher is trained.

    Examples: a scope without samples, an unknown model, missing weights, a wrong annotation table.
    """
    mistakes = Mistakes()
    for kind, chosen in _alike([spec for level in hierarchy for spec in level]):
        found = Mistakes()
        with found.caught():
            kind.check(chosen, training)
        if found.errors:  # it stops at the first: look at each teacher alone
            for spec in chosen:
                with found.caught():
                    kind.check([spec], training)
        mistakes.add(_once_per_setting(found.errors))
        mistakes.add(_once_per_setting(_uncalibrated(chosen, training)))
    mistakes.raise_all()


def _uncalibrated(specs: Sequence[TeacherSpec], training: Training) -> list[UserError]:
    """Return why teachers cannot be calibrated."""
    found = Mistakes()
    for spec in specs:
        if spec.setup.calibrate is not None:
            with found.caught():
                calibration_rows(spec, training.data)
    return found.errors


def _once_per_setting(errors: Sequence[UserError]) -> list[UserError]:
    """Leave out that a setting is wrong for the same reason for another teacher too."""
    first = {(error.key or (str(error),), error.problem): error for error in reversed(errors)}
    return [error for error in errors if error in first.values()]


def train_level(specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
    """Train the teachers of one level (or read their tables); return them in order.

    Raises `UserError` for errors in the config or in an annotation table, `RunError` for a loss
    that diverges.
    """
    made: dict[str, Teacher] = {}
    for kind, chosen in _alike(specs):
        made.update((teacher.name, teacher) for teacher in _train(kind, chosen, training))
    return [made[spec.name] for spec in specs]


def _train(kind: type[Teacher], specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
    """Train teachers of one kind and setup, and calibrate them if asked for."""
    teachers = kind.train(specs, training)
    calibrate(teachers, training)
    return teachers


def train_teacher(spec: TeacherSpec, training: Training) -> Teacher:
    """Train one teacher by itself."""
    return train_level((spec,), training)[0]


def obtain_level(specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
    """Return the teachers of one level: load those that `training.directory` has, train the others.

    Each group of teachers that are trained together (`teacher_groups`) is stored when it is
    trained, and loaded only if it is complete.
    """
    made: dict[str, Teacher] = {}
    for group in teacher_groups(specs):
        teachers = load_group(group, training)
        if teachers is None:
            teachers = train_group(group, training)
            save_group(teachers, training)
            for teacher in teachers:
                teacher.unload()
        made.update((teacher.name, teacher) for teacher in teachers)
    return [made[spec.name] for spec in specs]


def teacher_groups(specs: Sequence[TeacherSpec]) -> list[list[TeacherSpec]]:
    """Group a level's teachers by what is trained together: those of a kind with `fits_many` and of
    the same model and training in one group, others (and those whose images are augmented) one by
    one."""
    groups = []
    for kind, chosen in _alike(specs):
        together = kind.fits_many and not chosen[0].training.augments
        groups += [chosen] if together else [[spec] for spec in chosen]
    return groups


def planned_steps(spec: TeacherSpec, data: ImageData) -> int:
    """Return the optimiser steps that a teacher will be trained for; 0 if it is not trained.

    Raises `UserError` if its scope has no samples.
    """
    return spec.training.total_steps(len(training_rows(spec, data))) if spec.trained else 0


def train_group(specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
    """Train the teachers of a group (`teacher_groups`); raises the errors of `train_level`."""
    return _train(kind_of(specs[0]), specs, training)


def load_group(specs: Sequence[TeacherSpec], training: Training) -> list[Teacher] | None:
    """Load the teachers of a group; None if `training.directory` lacks any of them."""
    companions = tuple(spec.name for spec in specs)
    found = [load_teacher(spec, training, companions) for spec in specs]
    teachers = [teacher for teacher in found if teacher is not None]
    return teachers if len(teachers) == len(specs) else None


def save_group(teachers: Sequence[Teacher], training: Training) -> None:
    """Store a trained group, and delete the states of its unfinished trainings."""
    companions = tuple(teacher.name for teacher in teachers)
    for teacher in teachers:
        save_teacher(teacher, training, companions)
        discard(_files(training).pending(teacher.name))


def save_teacher(teacher: Teacher, training: Training, companions: Sequence[str] = ()) -> None:
    """Write a teacher's weights, then its JSON file, each of them atomically.

    companions: the names of all teachers that were trained together with it. Raises `RunError` if
    the disk is full.
    """
    files = _files(training)
    tensors = teacher.tensors()
    if tensors:
        files.weights(teacher.name).write(tensors)
    # The JSON file is written last: where it exists, the weights do.
    files.record(teacher.name).write(
        {
            "name": teacher.name,
            "kind": teacher.kind,
            "level": teacher.spec.level,
            "model": teacher.spec.model.model_dump(mode="json"),
            "training": teacher.spec.training.model_dump(mode="json"),
            "classes": teacher.spec.classes,
            "domains": teacher.spec.domains,
            "steps": teacher.steps,
            "temperature": teacher.temperature,
            "identity": teacher.identity,
            "recipe": _recipe(teacher.spec, companions, training),
        },
    )


def load_teacher(
    spec: TeacherSpec, training: Training, companions: Sequence[str] = ()
) -> Teacher | None:
    """Load a teacher that `save_teacher` wrote.

    Returns None if it is absent or broken, or if anything it depends on has changed.
    """
    files = _files(training)
    try:
        found = files.record(spec.name).read()
    except RunError:
        return None
    if found.get("recipe") != _recipe(spec, companions, training):
        return None
    try:
        teacher = _read(spec, found, training)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        log.warning(
            "cannot load teacher %s from %s, training it again: %s", spec.name, files.folder, error
        )
        return None
    if teacher.identity != found["identity"]:
        log.info("teacher %s has changed since it was stored: training it again", spec.name)
        return None
    return teacher


def _read(spec: TeacherSpec, record: Mapping[str, Any], training: Training) -> Teacher:
    """Return the teacher of a record, with its tensors if it has a file of them."""
    weights = _files(training).weights(spec.name)
    state = weights.read() if kind_of(spec).has_weights or weights.exists() else {}
    return restored(spec, training, state, int(record["steps"]))


def restored(
    spec: TeacherSpec, training: Training, tensors: Mapping[str, Tensor], steps: int
) -> Teacher:
    """Return the teacher that had these tensors (`Teacher.tensors`) after `steps` steps."""
    state = {name: tensor for name, tensor in tensors.items() if name != TEMPERATURE}
    teacher = kind_of(spec).restore(spec, training, state, steps)
    if TEMPERATURE in tensors:
        teacher.temperature = float(tensors[TEMPERATURE][0])
    return teacher


def recorded_spec(record: Mapping[str, Any]) -> TeacherSpec:
    """Return the spec of a teacher from the JSON file that `save_teacher` wrote, without its entry
    of `teachers.external` if it has one."""
    classes, domains = (
        None if part is None else tuple(part) for part in (record["classes"], record["domains"])
    )
    setup = TeacherSetup(
        TeacherModelSection.model_validate(record["model"]),
        TrainingSection.model_validate(record["training"]),
    )
    return TeacherSpec(record["name"], record["level"], classes, domains, setup=setup)


def stored_teacher(name: str, training: Training) -> Teacher:
    """Return a teacher that `save_teacher` wrote, whatever it was trained on.

    It is not external. If it depends on something that has changed (a backbone, a function, the
    precision), a warning is logged. Raises `UserError` for what is not available, and `RunError`
    for a file that is damaged.
    """
    files = _files(training)
    record = files.record(name)
    found = record.read()
    with about(f"teacher '{name}'"):
        try:
            teacher = _read(recorded_spec(found), found, training)
        except (KeyError, TypeError, RuntimeError) as error:
            raise damaged(record.path, error) from error
    if teacher.identity != found["identity"]:
        log.warning(
            "teacher %s may answer otherwise than in the run: its function, the weights of its "
            "backbone or the precision has changed",
            name,
        )
    return teacher


def _files(training: Training) -> TeacherFiles:
    assert training.directory is not None, "the training has no directory"
    return TeacherFiles(training.directory)


def _recipe(spec: TeacherSpec, companions: Sequence[str], training: Training) -> str:
    """Hash everything that a teacher depends on: its spec, model, budget, samples and seed."""
    model, data = spec.model, training.data
    files = [
        Path(file.replace("{name}", spec.name))
        for file in (model.weights, model.checkpoint)
        if file
    ]
    parts: tuple[object, ...] = (
        RECIPE_FORMAT,
        spec.name,
        spec.classes,
        spec.domains,
        None if spec.external is None else spec.external.model_dump(mode="json"),
        list(companions),
        model.hashed(),
        [file_digest(file) for file in files if file.is_file()],
        spec.training.hashed(),
        data.split_fingerprint("teacher_train"),
        training.seed,
        spec.bootstrap,
    )
    if spec.setup.calibrate is not None:
        validation = data.split_fingerprint("validation")
        parts = (*parts, spec.setup.calibrate, spec.setup.calibration_share, validation)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
