"""What sections, each right in itself, can get wrong together."""

from collections.abc import Iterator, Sequence

from cosup.config.rounds import Filters, Losses, RoundsSection
from cosup.config.student import StudentSection
from cosup.config.teachers import TeachersSection
from cosup.controls import CONTROLS, needing
from cosup.data.section import DataSection
from cosup.models.section import TrainingSection
from cosup.registry import mistakes


def check_together(
    data: DataSection,
    teachers: TeachersSection,
    student: StudentSection,
    rounds: RoundsSection,
    controls: Sequence[str],
) -> None:
    """Raise pydantic's error with every mistake: settings that don't go together."""
    found = [
        *_losses(teachers, student, rounds),
        *_mixing(student, rounds),
        *_untrained(student, rounds, controls),
        *_labels(rounds),
        *_few_shot(data, teachers, student),
        *_teachers_training(teachers),
    ]
    if found:
        raise mistakes([(tuple(key.split(".")), text) for key, text in found])


def _losses(
    teachers: TeachersSection, student: StudentSection, rounds: RoundsSection
) -> Iterator[tuple[str, str]]:
    """Losses on feature maps, and live annotations, need networks on both sides."""
    asked = [each for each in _names(rounds) if Losses.entry(each[1]).settings.reads_features]
    asked += [("rounds.live_annotations", "true")] if rounds.live_annotations else []
    for key, value in asked:
        if student.mode != "finetune":
            yield key, f"{value}: needs student.mode 'finetune' (a head sees features alone)"
        for _, name, kind in teachers.kinds():
            if not kind.is_network:
                yield key, f"{value}: needs teachers that are networks, not {name}"
    if rounds.annotation_weight == 0 and rounds.true_label_weight == 0:
        yield "rounds.annotation_weight", "0, and true_label_weight 0: nothing to learn from"


def _labels(rounds: RoundsSection) -> Iterator[tuple[str, str]]:
    """A filter may look at labels only where the student may."""
    for number, choice in enumerate(rounds.consistency):
        if "labels" in Filters.settings(choice).needs and not rounds.true_label_weight:
            yield (
                f"rounds.consistency.{number}",
                f"{choice.name}: looks at labels, which the student may not see while "
                "rounds.true_label_weight is 0",
            )


def _mixing(student: StudentSection, rounds: RoundsSection) -> Iterator[tuple[str, str]]:
    if student.mode != "finetune" or not student.training.mixing.active:
        return
    for key, name in _names(rounds):
        if Losses.entry(name).settings.one_class:
            yield (
                key,
                f"{name}: singles out one class per image, and student.training.mixing makes "
                "images of two; turn one of them off",
            )
    yield from _even(student.training, "student.training")


def _untrained(
    student: StudentSection, rounds: RoundsSection, controls: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """What asks the student before its training needs one that has something to say."""
    text = student.head.init == "text"
    need = "needs student.head.init 'text' (others say nothing before they are trained)"
    if rounds.first_guide == "student" and not text:
        yield "rounds.first_guide", f"student: {need}"
    if not text:
        for name in needing("text_prototypes", controls):
            yield "controls", f"{name}: {need}"
    if student.training.steps == 0:
        learning = [name for name in controls if CONTROLS[name].is_trained]
        untrained = ", ".join(name for name in CONTROLS if not CONTROLS[name].is_trained)
        if learning:
            yield (
                "controls",
                f"{', '.join(learning)}: with student.training.steps 0 no control learns either "
                f"(allowed: {untrained})",
            )


def _even(training: TrainingSection, where: str) -> Iterator[tuple[str, str]]:
    part = training.batch_size // training.accumulate
    if training.mixing.active and part % 2:
        yield f"{where}.batch_size", f"{part} images at a time: mixing pairs them, make it even"


def _few_shot(
    data: DataSection, teachers: TeachersSection, student: StudentSection
) -> Iterator[tuple[str, str]]:
    """Episodes are of classes that nobody has learnt: they measure embeddings."""
    if data.few_shot is None:
        if student.meta is not None:
            yield "student.meta", "learns from episodes, and needs data.few_shot"
        return
    if student.mode != "finetune":
        yield "data.few_shot", "measures what a network sees, and needs student.mode 'finetune'"
    for key, name, kind in teachers.kinds():
        if not kind.has_embedding:
            yield (
                key,
                f"{name}: data.few_shot measures embeddings, which these teachers lack (allowed: "
                "a network, or linear_features)",
            )


def _teachers_training(teachers: TeachersSection) -> Iterator[tuple[str, str]]:
    training, kind = teachers.training, teachers.model.match.traits
    if teachers.hierarchy is None or kind.training is None:
        return
    try:
        check = training.check_head if kind.training == "head" else training.check_network
        check()
    except ValueError as error:
        key, _, text = str(error).partition(": ")
        yield f"teachers.training.{key}", text
    yield from _even(training, "teachers.training")


def _names(rounds: RoundsSection) -> list[tuple[str, str]]:
    """The key and the name of every loss that is run."""
    if rounds.losses is None:
        return [("rounds.loss", rounds.loss.name)]
    return [(f"rounds.losses.{i}", choice.name) for i, choice in enumerate(rounds.losses)]
