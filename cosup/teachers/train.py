"""Making teachers: training a level, and keeping what was trained for a resumed run."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.files import discard, save_tensors, write_json
from cosup.settings.teachers import TABLE, TEACHERS
from cosup.teachers.base import OnStep, Resources, Teacher, Training, training_rows
from cosup.teachers.external import file_digest
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec

__all__ = [
    "check_teachers",
    "keep_group",
    "kept_group",
    "kind_of",
    "load_teacher",
    "obtain_level",
    "planned_steps",
    "save_teacher",
    "teacher_groups",
    "train_group",
    "train_level",
    "train_teacher",
]

log = logging.getLogger(__name__)

FORMAT = 1


def kind_of(spec: TeacherSpec, section: TeachersSection) -> type[Teacher]:
    """Return the class of a teacher: its annotation table, or what `teachers.model.name` selects.

    Raises `UserError` for a misspelt kind.
    """
    entry = section.model.match.entry if spec.external is None else TEACHERS[TABLE]
    kind: type[Teacher] = entry.load()
    return kind


def _by_kind(
    specs: Sequence[TeacherSpec], section: TeachersSection
) -> list[tuple[type[Teacher], list[TeacherSpec]]]:
    """Group specs by their kind, in order of first appearance."""
    groups: dict[type[Teacher], list[TeacherSpec]] = {}
    for spec in specs:
        groups.setdefault(kind_of(spec, section), []).append(spec)
    return list(groups.items())


def check_teachers(
    hierarchy: Hierarchy,
    section: TeachersSection,
    data: ImageData,
    *,
    seed: int,
    resources: Resources,
) -> None:
    """Raise `UserError` for what can be seen to be wrong before any teacher is trained.

    Scopes without samples, models and weights that can't be had, annotation tables.
    """
    training = Training(section, data, seed, resources)
    specs = [spec for level in hierarchy for spec in level]
    for kind, chosen in _by_kind(specs, section):
        kind.check(chosen, training)


def train_level(
    specs: Sequence[TeacherSpec],
    section: TeachersSection,
    data: ImageData,
    *,
    seed: int,
    resources: Resources,
    on_step: OnStep | None = None,
) -> list[Teacher]:
    """The teachers of one level, in order, trained (or read) anew.

    Raises `UserError` for what the config or an annotation table gets wrong, `RunError` for a
    loss that diverges.
    """
    training = Training(section, data, seed, resources, on_step)
    made: dict[str, Teacher] = {}
    for kind, chosen in _by_kind(specs, section):
        made.update((teacher.name, teacher) for teacher in kind.train(chosen, training))
    return [made[spec.name] for spec in specs]


def train_teacher(
    spec: TeacherSpec,
    section: TeachersSection,
    data: ImageData,
    *,
    seed: int,
    resources: Resources,
    on_step: OnStep | None = None,
) -> Teacher:
    """One teacher, by itself."""
    return train_level((spec,), section, data, seed=seed, resources=resources, on_step=on_step)[0]


def obtain_level(
    specs: Sequence[TeacherSpec],
    section: TeachersSection,
    data: ImageData,
    *,
    seed: int,
    resources: Resources,
    directory: Path,
    on_step: OnStep | None = None,
) -> list[Teacher]:
    """The teachers of one level: those that `directory` holds are loaded, the others trained.

    Networks are kept one by one as they are finished. Linear teachers are fitted together, so
    they are loaded only if none of them is missing.
    """
    training = Training(section, data, seed, resources, on_step, directory)
    made: dict[str, Teacher] = {}
    for group in teacher_groups(specs, section):
        teachers = kept_group(group, training, directory)
        if teachers is None:
            teachers = train_group(group, training)
            keep_group(teachers, training, directory)
        made.update((teacher.name, teacher) for teacher in teachers)
    return [made[spec.name] for spec in specs]


def teacher_groups(
    specs: Sequence[TeacherSpec], section: TeachersSection
) -> list[list[TeacherSpec]]:
    """A level's teachers by what is trained at once: linear ones together, others one by one."""
    groups = []
    for kind, chosen in _by_kind(specs, section):
        groups += [chosen] if kind.fits_many else [[spec] for spec in chosen]
    return groups


def planned_steps(spec: TeacherSpec, section: TeachersSection, data: ImageData) -> int:
    """The optimiser steps that a teacher will be trained for; 0 for those made elsewhere.

    Raises `UserError` if its scope holds no sample.
    """
    trained = kind_of(spec, section).needs_labelled_samples
    if not trained or section.model.checkpoint is not None:
        return 0
    return section.training.total_steps(len(training_rows(spec, data)))


def train_group(specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
    """The teachers of a group (`teacher_groups`), trained (or read) anew; raises as
    `train_level`."""
    return kind_of(specs[0], training.section).train(specs, training)


def kept_group(
    specs: Sequence[TeacherSpec], training: Training, directory: Path
) -> list[Teacher] | None:
    """The teachers of a group if `directory` holds them all."""
    companions = tuple(spec.name for spec in specs)
    found = [load_teacher(spec, training, directory, companions) for spec in specs]
    teachers = [teacher for teacher in found if teacher is not None]
    return teachers if len(teachers) == len(specs) else None


def keep_group(teachers: Sequence[Teacher], training: Training, directory: Path) -> None:
    """Keep a group that was trained; what its trainings had left for a resumed run goes."""
    companions = tuple(teacher.name for teacher in teachers)
    for teacher in teachers:
        save_teacher(teacher, training, directory, companions)
        discard(directory / f"{teacher.name}.state")


def save_teacher(
    teacher: Teacher, training: Training, directory: Path, companions: Sequence[str] = ()
) -> None:
    """Keep a teacher: its weights, then readable JSON, each file whole or not there.

    companions: the names of all teachers it was trained together with. Raises `RunError` if the
    disk is full.
    """
    if teacher.has_weights:
        save_tensors(directory / f"{teacher.name}.safetensors", teacher.state())
    # The JSON comes last: where it stands, the weights do.
    write_json(
        directory / f"{teacher.name}.json",
        {
            "name": teacher.name,
            "kind": teacher.kind,
            "level": teacher.spec.level,
            "classes": teacher.spec.classes,
            "domains": teacher.spec.domains,
            "steps": teacher.steps,
            "identity": teacher.identity,
            "recipe": _recipe(teacher.spec, companions, training),
        },
    )


def load_teacher(
    spec: TeacherSpec, training: Training, directory: Path, companions: Sequence[str] = ()
) -> Teacher | None:
    """The teacher that `save_teacher` kept; None if it is absent, broken, or made otherwise."""
    try:
        about = json.loads((directory / f"{spec.name}.json").read_text())
    except (OSError, ValueError):
        return None
    if about.get("recipe") != _recipe(spec, companions, training):
        return None
    weights = directory / f"{spec.name}.safetensors"
    try:
        kind = kind_of(spec, training.section)
        state = load_file(weights) if kind.has_weights else {}
        teacher = kind.restore(spec, training, state, int(about["steps"]))
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        log.warning(
            "teacher %s in %s can't be loaded, training it anew: %s", spec.name, directory, error
        )
        return None
    if teacher.identity != about["identity"]:
        log.info("teacher %s has changed since it was kept: making it anew", spec.name)
        return None
    return teacher


def _recipe(spec: TeacherSpec, companions: Sequence[str], training: Training) -> str:
    """A hash of all that a teacher depends on: its spec, model, budget, samples and seed."""
    section, data = training.section, training.data
    files = [
        Path(file.replace("{name}", spec.name))
        for file in (section.model.weights, section.model.checkpoint)
        if file
    ]
    parts = (
        FORMAT,
        spec.name,
        spec.classes,
        spec.domains,
        None if spec.external is None else spec.external.model_dump(mode="json"),
        list(companions),
        section.model.model_dump(mode="json"),
        [file_digest(file) for file in files if file.is_file()],
        section.training.model_dump(mode="json"),
        data.split_fingerprint("teacher_train"),
        training.seed,
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
