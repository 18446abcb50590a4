"""Check that teachers can be trained, and answer episodes, as other sections ask."""

from collections.abc import Iterator

from cosup.config.needs import wants_teacher_train
from cosup.config.rounds import RoundsSection
from cosup.config.student import StudentSection
from cosup.config.teachers import TeachersSection
from cosup.data.section import DataSection
from cosup.errors import UserError
from cosup.models.training_section import TrainingSection


def check_even(training: TrainingSection, key: str) -> Iterator[UserError]:
    """Check that images which are mixed come in pairs. key: of the section."""
    part = training.batch_size // training.accumulate
    if training.mixing.active and part % 2:
        yield UserError(
            f"gives {part} images at a time; mixing pairs them and needs an even number",
            key=f"{key}.batch_size",
            value=training.batch_size,
        )


def check_episodes(
    data: DataSection, teachers: TeachersSection, student: StudentSection
) -> Iterator[UserError]:
    """Check that student and teachers have embeddings: episodes are of classes not trained on."""
    if data.few_shot is None:
        if student.meta is not None:
            yield UserError("needs data.few_shot: it learns from episodes", key="student.meta")
        return
    if student.meta is not None and student.meta.teacher != "annotations":
        yield from _episode_teacher(teachers, student.meta.teacher)
    if student.mode != "finetune":
        yield UserError(
            "needs student.mode 'finetune': it measures the network's embeddings",
            key="data.few_shot",
        )
    for key, name, kind in teachers.kinds():
        if not kind.has_embedding:
            yield UserError(
                f"data.few_shot measures embeddings, which are not available from {name}",
                key=key,
                allowed="a network, or linear_features",
            )


def _episode_teacher(teachers: TeachersSection, value: str) -> Iterator[UserError]:
    """Check that one network answers the episodes of the meta stage."""
    hierarchy, key = teachers.hierarchy, "student.meta.teacher"
    levels = [0] if hierarchy is None else hierarchy.levels
    if hierarchy is not None and hierarchy.teachers is not None:
        levels = [len(level) for level in hierarchy.teachers]
    if teachers.external or set(levels) != {1}:
        problem = "needs levels of one teacher, who answers whole episodes"
        yield UserError(problem, key=key, value=value, allowed="annotations")
    for _, name, kind in teachers.kinds():
        if not kind.is_network:
            problem = f"needs a teacher that is a network, not {name}"
            yield UserError(problem, key=key, value=value, allowed="annotations")


def check_teacher_train(
    data: DataSection, teachers: TeachersSection, rounds: RoundsSection
) -> Iterator[UserError]:
    """Check that there are labelled samples for the teachers that are trained on some."""
    if isinstance(data.splits, str) or data.splits.teacher_train or data.share_train:
        return
    if data.splits.validation:  # teachers are calibrated by it
        teachers = teachers.model_copy(update={"calibrate": None})
    if wants_teacher_train(teachers, rounds):
        reader = "the assigner learns" if teachers.calibrate is None else "teachers are calibrated"
        reader = "teachers are trained" if teachers.trains_on_labels else reader
        yield UserError(
            f"must be above 0 without data.share_train: {reader} on it",
            key="data.splits.teacher_train",
            value=data.splits.teacher_train,
        )


def check_trainings(teachers: TeachersSection) -> Iterator[UserError]:
    """Check that each training is one of what it trains: a linear model, or a network."""
    seen = set[tuple[str, str]]()
    for setup in teachers.setups:
        if setup.training is not teachers.training and not setup.trained:
            yield UserError(f"is given, and {setup.text} is not trained", key=setup.training_key)
        training, key, asked = setup.training, setup.training_key, setup.model.traits.training
        if setup.model.other_classes and training.sampling != "independent":
            yield UserError(
                "must be {allowed} with teachers.model.other_classes",
                key=f"{key}.sampling",
                value=training.sampling,
                allowed="independent",
            )
        if asked is None or (key, asked) in seen:
            continue
        seen.add((key, asked))
        try:
            if asked == "head":
                training.check_head(augments=setup.model.traits.augments)
            else:
                training.check_network()
        except UserError as error:
            yield error.moved(key)
        yield from check_even(training, key)
