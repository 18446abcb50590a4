"""The `rounds` section: assignment, consistency filters and the student's loss."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from cosup.errors import UserError
from cosup.registries import Assigners, Filters, Losses, Refiners
from cosup.sections import Choice, Section
from cosup.settings import MOST_WEIGHT
from cosup.settings.assigners import AssignerSettings

__all__ = [
    "CHOSEN",
    "FUSED_ROUNDS",
    "Assigners",
    "Filters",
    "LossChoice",
    "Losses",
    "Refiners",
    "RoundsSection",
]

AssignerChoice = Annotated[Choice, Assigners]
FilterChoice = Annotated[Choice, Filters]
LossChoice = Annotated[Choice, Losses]
RefinerChoice = Annotated[Choice, Refiners]


FUSED_ROUNDS = 3
"""Rounds in all where the student is a source: it gains little after the third."""


CHOSEN = (
    "assignment",
    "consistency",
    "loss",
    "targets",
    "labelled",
    "labelled_weight",
    "refine",
)
"""The keys that `choose: auto` chooses, but for those that are given beside it."""


class RoundsSection(Section):
    """The algorithm: assign, filter, update, once per level."""

    choose: Literal["auto"] | None = None
    """`auto`: compare a short list of recipes (assigner, filters, loss, targets, labelled samples,
    refinement) and take the best, on labels if there are enough; of these keys, those that are
    given stay as they are. null: run the recipe that is written here."""
    assignment: AssignerChoice = Assigners.check("agreement")
    """The assigner of teachers to samples (`cosup ls assigners`)."""
    consistency: list[FilterChoice] = []
    """Consistency filters; an annotation is kept if all of them keep it (`cosup ls
    consistency`)."""
    report_epoch: Literal["last", "best_test"] = "last"
    """`best_test`: of the last round's head, also tell the highest accuracy on the test split after
    any of its epochs, and PGR with it over the generalist's accuracy on student_train, as CSL's
    published figures have it. Told beside the figures of the last step: choosing by test samples
    flatters."""
    loss: LossChoice = Losses.check("cross_entropy")
    """The student's loss (`cosup ls losses`)."""
    losses: list[LossChoice] | None = Field(default=None, min_length=1)
    """Repeat the run with each of these losses and compare them in pairs; null runs `loss` alone.
    """
    annotation_weight: float = Field(default=1.0, ge=0, le=MOST_WEIGHT)
    """The weight of the loss on annotations."""
    true_label_weight: float = Field(default=0.0, ge=0, le=MOST_WEIGHT)
    """The weight of cross-entropy on the labels of student_train; 0 is the weak-to-strong setting,
    which does not use them."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """The share of each label that is spread evenly over all classes in that cross-entropy."""
    own_labels: float = Field(default=0.0, ge=0, lt=1)
    """The share of each label that is replaced by the student's own class of the image without
    augmentation (bootstrapping; 0.2 in Sel-CL), for networks (`mode: finetune`)."""
    own_labels_from: float = Field(default=0.0, ge=0, lt=1)
    """The share of the training after which `own_labels` begins (Sel-CL: 30 of 70 epochs)."""
    live_annotations: bool = False
    """Annotate each augmented image by its assigned teachers during training, mixed by their
    weights, instead of the plain image once (`mode: finetune`, and teachers that are networks)."""
    targets: Literal["soft", "hard"] = "soft"
    """Learn the annotation's probabilities, or its most probable class."""
    labelled: bool = False
    """Learn from the labelled samples of teacher_train too, by cross-entropy, beside the
    annotations of student_train, whose own labels stay unused."""
    labelled_weight: Annotated[float, Field(gt=0, le=MOST_WEIGHT)] | Literal["auto"] = "auto"
    """The weight of a label of teacher_train, where an annotation has 1; auto compares a few by the
    cross-fitted predictions of these samples (`mode: head`), or is 1 for a network, whose trainings
    cost too much."""
    refine: RefinerChoice | None = None
    """Refine the assigned annotations by the cross-fitted student, in rounds after the others
    (`cosup ls refinement`); null does not."""
    first_guide: Literal["crowd", "student"] = "crowd"
    """The predictions that assigners and filters use in place of a trained student's in the first
    round: the mean of the level's annotations (`crowd`), or those of the untrained `student`
    (`student.head.init: text`)."""
    repeat: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = "auto"
    """Rounds per level; auto is 1, but an assigner that takes the student for a source (`fused`)
    repeats the finest level until there are 3 rounds in all. Each round keeps a student and a table
    of decisions; more than 1,000 are a mistake."""
    fresh_head: bool = True
    """Initialise the head (or network) anew in each round; false continues from the last round."""
    min_kept: float = Field(default=0.2, ge=0, le=1)
    """Warn when a filter would keep a smaller share than this."""

    @field_validator("losses")
    @classmethod
    def _each_once(cls, losses: list[Choice] | None) -> list[Choice] | None:
        for place, choice in enumerate(losses or []):
            if choice in (losses or [])[:place]:
                raise UserError(
                    f"{choice.name} is given twice with the same settings; give each loss once"
                )
        return losses

    @model_serializer(mode="wrap")
    def _without_open(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the keys that are to be chosen: read again, they must not count as given."""
        tree: dict[str, Any] = write(self)
        return {key: value for key, value in tree.items() if key not in self.open}

    @property
    def open(self) -> tuple[str, ...]:
        """The keys that are to be chosen."""
        if self.choose is None:
            return ()
        return tuple(key for key in CHOSEN if key not in self.model_fields_set)

    @property
    def reads_student(self) -> bool:
        """Whether the assigner takes the student for a source."""
        settings: AssignerSettings = Assigners.settings(self.assignment)
        return settings.reads_student

    @property
    def reads_own_samples(self) -> bool:
        """Whether a round reads the student's predictions of the samples that it was taught on,
        which must then be cross-fitted."""
        return self.reads_student or self.refine is not None

    @property
    def label_weight(self) -> float:
        """The weight of cross-entropy with labels: those of student_train, or of teacher_train; 1
        where it is yet to be chosen."""
        if not self.labelled:
            return self.true_label_weight
        return 1.0 if self.labelled_weight == "auto" else self.labelled_weight

    @property
    def refine_rounds(self) -> int:
        """The number of rounds that refine."""
        return 0 if self.refine is None else int(Refiners.settings(self.refine).rounds)

    @property
    def rounds_per_level(self) -> int:
        """`repeat`, with `auto` resolved."""
        return 1 if self.repeat == "auto" else self.repeat

    @property
    def least_rounds(self) -> int:
        """The number of rounds up to which the finest level is repeated."""
        return FUSED_ROUNDS if self.repeat == "auto" and self.reads_student else 1

    def total(self, levels: int) -> int:
        """Return the number of all rounds, for so many levels of teachers (`Recipe.schedule`)."""
        settings: AssignerSettings = Assigners.settings(self.assignment)
        taught = 1 if settings.fuses else levels
        return max(taught * self.rounds_per_level, self.least_rounds) + self.refine_rounds
