"""Check the settings of different sections against each other."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cosup.config.rounds import Assigners, Filters, Losses, RoundsSection
from cosup.config.student import StudentSection
from cosup.config.teacher_checks import (
    check_episodes,
    check_even,
    check_teacher_train,
    check_trainings,
)
from cosup.config.teachers import TeachersSection
from cosup.controls import CONTROLS, needing
from cosup.data.section import DataSection
from cosup.errors import UserError


def _losses(
    teachers: TeachersSection, student: StudentSection, rounds: RoundsSection
) -> Iterator[UserError]:
    """Check that losses on feature maps, and live annotations, have networks on both sides."""
    asked: list[tuple[str, object]] = [
        (key, name) for key, name in _names(rounds) if Losses.entry(name).settings.reads_features
    ]
    if rounds.live_annotations:
        asked.append(("rounds.live_annotations", True))
    for key, value in asked:
        if student.mode != "finetune":
            yield UserError(
                "needs student.mode 'finetune' (a head has features only)", key=key, value=value
            )
        for _, name, kind in teachers.kinds():
            if not kind.is_network:
                yield UserError(
                    f"needs teachers that are networks, not {name}", key=key, value=value
                )
    yield from _live(rounds)
    if rounds.annotation_weight == 0 and rounds.label_weight == 0:
        yield UserError(
            "must be above 0 if rounds.true_label_weight is 0: there is nothing to learn from",
            key="rounds.annotation_weight",
            value=0,
        )


def _live(rounds: RoundsSection) -> Iterator[UserError]:
    """Check that live annotations, mixed by weights, are what would be stored."""
    if not rounds.live_annotations:
        return
    assigner = rounds.assignment
    own = not Assigners.settings(assigner).mixes
    for wrong, key, name in (
        (own, "rounds.assignment", assigner.name),
        (rounds.refine is not None, "rounds.refine", rounds.refine and rounds.refine.name),
    ):
        if wrong:
            yield UserError(
                f"{key} '{name}' changes the annotations of plain images, which live annotations "
                "would replace by the teachers' own",
                key="rounds.live_annotations",
                value=True,
                allowed="false",
            )


def _report_epoch(
    student: StudentSection, data: DataSection, rounds: RoundsSection
) -> Iterator[UserError]:
    """Check that the last round has epochs after which a head can be measured."""
    if rounds.report_epoch == "last":
        return

    def error(reason: str) -> UserError:
        return UserError(reason, key="rounds.report_epoch", value="best_test", allowed="last")

    if student.mode != "head":
        yield error("is for heads, and needs student.mode 'head'")
    if student.training.optimizer == "lbfgs":
        yield error("compares epochs, and optimizer lbfgs takes all samples in every iteration")
    if student.training.steps == 0:
        yield error("compares trained students, and student.training.steps is 0")
    if data.few_shot is not None:
        yield error("is for the classes of the teachers, and data.few_shot measures others")


def _labels(rounds: RoundsSection) -> Iterator[UserError]:
    """Check that filters read labels only if the student may."""
    for number, choice in enumerate(rounds.consistency):
        if "labels" in Filters.settings(choice).needs and not rounds.true_label_weight:
            yield UserError(
                "reads labels, which are not used while rounds.true_label_weight is 0",
                key=f"rounds.consistency.{number}",
                value=choice.name,
            )


def _own_labels(student: StudentSection, rounds: RoundsSection) -> Iterator[UserError]:
    """Check that there are labels for the student to correct, and images to see without
    augmentation."""
    if not rounds.own_labels:
        return
    key, value = "rounds.own_labels", rounds.own_labels
    if student.mode != "finetune":
        yield UserError("needs student.mode 'finetune'", key=key, value=value, allowed="0")
    if not rounds.true_label_weight:
        problem = "replaces labels, which are not used while rounds.true_label_weight is 0"
        yield UserError(problem, key=key, value=value, allowed="0")
    for _, name in _names(rounds):
        if Losses.entry(name).settings.one_class:
            problem = f"makes labels of two classes, and {name} singles out one"
            yield UserError(problem, key=key, value=value, allowed="0")


def _choice(student: StudentSection, rounds: RoundsSection) -> Iterator[UserError]:
    """Check that recipes can be compared: by heads, one loss at a time."""
    if rounds.choose is None:
        return

    def error(reason: str, allowed: str = "null") -> UserError:
        return UserError(reason, key="rounds.choose", value="auto", allowed=allowed)

    if student.mode != "head":
        yield error("compares recipes by heads, and needs student.mode 'head'")
    if rounds.losses is not None:
        yield error("chooses one loss, and rounds.losses compares several; leave one of them out")
    if Losses.settings(rounds.loss).candidates():
        yield error("chooses a recipe, and rounds.loss a constant; leave one of them out")
    if student.training.steps == 0:
        yield error("compares trained students, and student.training.steps is 0")
    if student.cross_fit == 0:
        yield UserError(
            "rounds.choose compares students by cross-fitted predictions",
            key="student.cross_fit",
            value=0,
            allowed="auto, or at least 2 folds",
        )


def _labelled(
    student: StudentSection, data: DataSection, rounds: RoundsSection
) -> Iterator[UserError]:
    """Check that labelled samples can be learned beside annotations."""
    if not rounds.labelled:
        return

    def error(reason: str) -> UserError:
        return UserError(reason, key="rounds.labelled", value=True, allowed="false")

    if rounds.true_label_weight:
        yield error("learns labels of teacher_train, and rounds.true_label_weight of student_train")
    if data.share_train:
        yield error("learns labelled samples of teacher_train, which data.share_train has not")
    if data.few_shot is not None:
        yield error("is for the classes of the teachers, and data.few_shot measures others")
    if rounds.live_annotations:
        yield error("has samples without a teacher, which rounds.live_annotations would ask")
    if student.mode == "finetune" and student.training.mixing.active:
        yield error("has labels and annotations, and student.training.mixing mixes images of both")
    for _, name in _names(rounds):
        if Losses.entry(name).settings.reads_features:
            yield error(f"has samples without a teacher, whose features {name} compares")
    if student.cross_fit == 0 and rounds.labelled_weight == "auto" and student.mode == "head":
        yield UserError(
            "the weight of labelled samples is chosen by cross-fitted predictions of them",
            key="student.cross_fit",
            value=0,
            allowed="auto, or at least 2 folds (or a number as rounds.labelled_weight)",
        )


def _refinement(student: StudentSection, rounds: RoundsSection) -> Iterator[UserError]:
    """Check that there is a trained student to refine by."""
    if rounds.refine is None:
        return
    if student.training.steps == 0:
        yield UserError(
            "corrects annotations by the trained student, and student.training.steps is 0",
            key="rounds.refine",
            value=rounds.refine.name,
            allowed="null",
        )


def _witness(student: StudentSection, rounds: RoundsSection) -> Iterator[UserError]:
    """Check that a student that is a source does not repeat what it was trained on."""
    if student.cross_fit != 0:
        return
    if rounds.refine is not None:
        yield UserError(
            "rounds.refine corrects annotations by the student, which must not have learned the "
            "annotation that it corrects",
            key="student.cross_fit",
            value=0,
            allowed="auto, or at least 2 folds",
        )
    elif rounds.reads_student and rounds.choose is None:
        yield UserError(
            f"the assigner {rounds.assignment.name} takes the student for a source: it must not "
            "predict the samples that it was trained on",
            key="student.cross_fit",
            value=0,
            allowed="auto, or at least 2 folds (or rounds.assignment.student: false)",
        )


def _mixing(student: StudentSection, rounds: RoundsSection) -> Iterator[UserError]:
    if student.mode != "finetune" or not student.training.mixing.active:
        return
    for key, name in _names(rounds):
        if Losses.entry(name).settings.one_class:
            yield UserError(
                "singles out one class per image, but student.training.mixing makes images of two; "
                "turn one of them off",
                key=key,
                value=name,
            )
    yield from check_even(student.training, "student.training")


def _full_batch(student: StudentSection, rounds: RoundsSection) -> Iterator[UserError]:
    """Check that the loss of a head that is fitted by L-BFGS is one function to the end."""
    if student.mode != "head" or student.training.optimizer != "lbfgs":
        return
    fixed = [name for name in Losses.known() if Losses.entry(name).settings.fixed]
    if "loss" in rounds.open:
        yield UserError(
            "compares losses that change during a training, for which student.training.optimizer "
            "lbfgs is not made; give rounds.loss",
            key="rounds.choose",
            value="auto",
            allowed=f"rounds.loss {' or '.join(fixed)}",
        )
        return
    for key, name in _names(rounds):
        if name not in fixed:
            yield UserError(
                "changes with the student or the step, for which student.training.optimizer lbfgs "
                "is not made",
                key=key,
                value=name,
                allowed=" or ".join(fixed),
            )


def _zero_start(student: StudentSection, rounds: RoundsSection) -> Iterator[UserError]:
    """Check that a head that starts at zero has a loss that learns from there."""
    if student.mode != "head" or student.head.start != "zero":
        return
    for choice in rounds.losses or [rounds.loss]:
        if Losses.settings(choice).starts_random:
            yield UserError(
                f"is where the loss {choice.name} has no gradient, so that the head never learns",
                key="student.head.start",
                value="zero",
                allowed="random, normal or null",
            )


NEEDS_TEXT = "needs student.head.init 'text': other heads cannot predict before they are trained"


def _untrained(student: StudentSection, rounds: RoundsSection) -> Iterator[UserError]:
    """Check that a student that guides the first round can predict without training."""
    if rounds.first_guide == "student" and student.head.init != "text":
        yield UserError(NEEDS_TEXT, key="rounds.first_guide", value="student")
    if student.mode == "head" and student.head.init == "prompts" and not rounds.fresh_head:
        problem = "would go on from prototypes: a head that learns prompts keeps none of them"
        yield UserError(problem, key="rounds.fresh_head", value=False, allowed="true")


def _untrained_controls(student: StudentSection, controls: Sequence[str]) -> Iterator[UserError]:
    """Check the controls of a student that is not trained."""
    if student.head.init != "text":
        for name in needing("text_prototypes", controls):
            yield UserError(NEEDS_TEXT, key="controls", value=name)
    if student.training.steps == 0:
        trained = [name for name in controls if CONTROLS[name].is_trained]
        if trained:
            yield UserError(
                "no control is trained with student.training.steps 0",
                key="controls",
                value=trained,
                allowed=", ".join(name for name in CONTROLS if not CONTROLS[name].is_trained),
            )


def _names(rounds: RoundsSection) -> list[tuple[str, str]]:
    """Return the key and the name of every loss that the run uses."""
    if rounds.losses is None:
        return [("rounds.loss", rounds.loss.name)]
    return [(f"rounds.losses.{i}", choice.name) for i, choice in enumerate(rounds.losses)]


CROSS_CHECKS: tuple[tuple[Callable[..., Iterable[UserError]], tuple[str, ...]], ...] = (
    (_losses, ("teachers", "student", "rounds")),
    (_mixing, ("student", "rounds")),
    (_full_batch, ("student", "rounds")),
    (_zero_start, ("student", "rounds")),
    (_untrained, ("student", "rounds")),
    (_untrained_controls, ("student", "controls")),
    (_labels, ("rounds",)),
    (_own_labels, ("student", "rounds")),
    (_choice, ("student", "rounds")),
    (_report_epoch, ("student", "data", "rounds")),
    (_labelled, ("student", "data", "rounds")),
    (_refinement, ("student", "rounds")),
    (_witness, ("student", "rounds")),
    (check_episodes, ("data", "teachers", "student")),
    (check_teacher_train, ("data", "teachers", "rounds")),
    (check_trainings, ("teachers",)),
)
"""Each check, and the sections that it compares."""


def find_conflicts(sections: Mapping[str, Any]) -> list[UserError]:
    """Return every pair of settings that cannot be combined.

    sections: by name; a check of one that is not there is left out.
    """
    return [
        error
        for check, needs in CROSS_CHECKS
        if sections.keys() >= set(needs)
        for error in check(*(sections[name] for name in needs))
    ]
