"""Check what a config names: folders, files, networks, functions, classes. No sample is listed.

Nothing here imports torch or pandas, except for what a setting asks for: a function of the user's,
a network that is unknown at first sight (`cosup.models.known_networks`), an annotation table
(pandas, and torch if it has probabilities).
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from cosup.config import needs
from cosup.config.loggers import TENSORBOARD, Loggers
from cosup.config.rounds import RoundsSection
from cosup.config.schema import ExecutionSection, RunSection
from cosup.config.student import StudentSection
from cosup.config.teacher_model import TeacherModelSection
from cosup.config.teachers import TeachersSection
from cosup.data.section import DataSection
from cosup.data.sources import SOURCES
from cosup.data.sources.base import Names
from cosup.errors import Mistakes, UserError, raise_all, within
from cosup.models.known_networks import check_backbone, check_features, check_network_name
from cosup.models.names import check_weights, weights_file
from cosup.models.prompts import OPEN_CLIP
from cosup.remote import is_uri
from cosup.settings.teachers import CALL, NETWORK, PRETRAINED, import_function

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def names_of_source(data: DataSection) -> Names:
    """Look for the source's folders and files; return the names of classes and domains, if known.

    Of few-shot learning they are not: some classes are set aside. A class alone is no task.
    """
    with within("data"):
        names = SOURCES.build(data.source).peek()
    if data.few_shot is not None or len(names.classes or ()) == 1:
        return Names()
    return names


def check_output(run: RunSection) -> None:
    """Check that nothing but a folder is where the run's folder is to be."""
    if is_uri(run.output):
        return
    folder = (Path(run.output) / run.name).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        problem = f"'{there}' is a file, and the run needs a folder there"
        raise UserError(problem, key="run.output", value=run.output)


def check_loggers(run: RunSection) -> None:
    """Check that the loggers can be used here, as far as their servers can be reached."""
    mistakes = Mistakes()
    for place, choice in enumerate(run.loggers):
        if choice.name != TENSORBOARD:
            with mistakes.caught(), within(("run", "loggers", str(place))):
                Loggers.build(choice).check()
    mistakes.raise_all()


def check_data_files(data: DataSection) -> None:
    """Check that the files exist that the section names beside its source."""
    noise, mistakes = data.noise, Mistakes()
    named = {"data.answers": data.answers, "data.noise.matrix": noise and noise.matrix}
    for key, name in named.items():
        if isinstance(name, str) and not Path(name).is_file():
            mistakes.add([UserError("no file {value}", key=key, value=name)])
    for name, shifted in data.shifted.items():
        if shifted.source is not None:
            with mistakes.caught(), within(("data", "shifted", name, "source")):
                SOURCES.build(shifted.source).peek()
    mistakes.raise_all()


def check_teacher_models(teachers: TeachersSection) -> None:
    """Check the networks, weights, checkpoints and functions of the teachers."""
    mistakes = Mistakes()
    for key, model in {setup.model_key: setup.model for setup in teachers.setups}.items():
        with mistakes.caught(), within(key):
            _check_model(model)
    mistakes.raise_all()


def _check_model(model: TeacherModelSection) -> None:
    kind, mistakes = model.traits.kind, Mistakes()
    if kind == CALL:
        with mistakes.caught(), within("name"):
            import_function(model.name)
    if kind in (NETWORK, PRETRAINED):
        weights = model.weights or ("pretrained" if kind == PRETRAINED else None)
        with mistakes.caught():
            check_network_name(model.name, weights)
        with mistakes.caught():
            check_weights(weights)
    if model.features is not None:
        with mistakes.caught(), within("backbone" if model.features is model.backbone else ()):
            check_backbone(model.features)
    if model.checkpoint is not None and "{name}" not in model.checkpoint:
        with mistakes.caught(), within("checkpoint"):
            weights_file(model.checkpoint)
    mistakes.raise_all()


def streams_tables(data: DataSection, teachers: TeachersSection) -> bool:
    """Return whether annotation tables are not held in memory: those of a sharded run."""
    if not _has_tables(teachers) or data.source.name != "manifest":
        return False
    from cosup.sharded.opening import is_sharded  # imports torch

    with suppress(UserError):  # of the source; told by others
        return is_sharded(data)
    return False


def check_table_files(teachers: TeachersSection, streamed: bool) -> None:
    """Check the files, forms, columns and annotators of annotation tables."""
    _check_tables(teachers, None, streamed)


def check_tables(teachers: TeachersSection, names: Names, streamed: bool) -> None:
    """Check the answers in annotation tables, where the classes are known."""
    if names.classes:
        _check_tables(teachers, names.classes, streamed)


def _check_tables(teachers: TeachersSection, classes: Sequence[str] | None, streamed: bool) -> None:
    if _has_tables(teachers):
        from cosup.teachers.tables.checks import check_tables as errors  # imports pandas

        raise_all(errors(teachers, classes, streamed=streamed))


def _has_tables(teachers: TeachersSection) -> bool:
    return any(external.simulate is None for external in teachers.external)


def check_scopes(teachers: TeachersSection, names: Names) -> None:
    """Check the names of classes and domains in scopes, and the classes that pretrained models are
    mapped onto, as far as the source's are known."""
    mistakes = Mistakes()
    for key, scope in teachers.scopes():
        with mistakes.caught(), within(key):
            scope.resolve(names.classes, names.domains)
    for setup in teachers.setups if names.classes is not None else ():
        if setup.model.classes is not None:
            with mistakes.caught(), within(setup.model_key):
                setup.model.own_classes(names.classes or ())
    mistakes.raise_all()


def check_student_names(student: StudentSection) -> None:
    """Check the network and the weights of the student."""
    mistakes = Mistakes()
    with mistakes.caught(), within("student.backbone"):
        check_network_name(student.backbone.name, student.backbone.weights)
        check_features(student.backbone)
    with mistakes.caught(), within("student.backbone"):
        if not student.backbone.name.startswith(OPEN_CLIP):  # a tag, which goes into the name
            check_weights(student.backbone.weights)
    mistakes.raise_all()


def check_execution(execution: ExecutionSection) -> str:
    """Check the name of the device, and that Ray is there if it is asked for; return that name."""
    mistakes = Mistakes()
    if not DEVICE.fullmatch(execution.device):
        mistakes.add(
            [
                UserError(
                    "no such device",
                    key="execution.device",
                    value=execution.device,
                    allowed="auto, cpu, cuda, cuda:N, mps",
                )
            ]
        )
    if execution.backend == "ray" and find_spec("ray") is None:
        mistakes.add(
            [
                UserError(
                    "needs Ray, which is not installed (pip install '.[cluster]')",
                    key="execution.backend",
                    value="ray",
                )
            ]
        )
    mistakes.raise_all()
    return execution.device


def trains_on_labels(teachers: TeachersSection) -> bool:
    """Return whether a teacher is trained on the split teacher_train."""
    return teachers.trains_on_labels


def wants_teacher_train(teachers: TeachersSection, rounds: RoundsSection) -> bool:
    """Return whether the run needs the split teacher_train."""
    return needs.wants_teacher_train(teachers, rounds)
