"""The `rounds` section: who annotates what, what is kept, and what the student minimises."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cosup.registry import Registry
from cosup.sections import Choice, Section
from cosup.settings.assigners import ASSIGNERS
from cosup.settings.filters import FILTERS
from cosup.settings.losses import LOSSES

if TYPE_CHECKING:
    from cosup.assignment import Assigner
    from cosup.consistency import Filter
    from cosup.losses import Loss

Assigners: "Registry[Assigner]" = Registry("assigner", ASSIGNERS, "cosup.assigners")
Filters: "Registry[Filter]" = Registry("filter", FILTERS, "cosup.filters")
Losses: "Registry[Loss]" = Registry("loss", LOSSES, "cosup.losses")

AssignerChoice = Annotated[Choice, Assigners]
FilterChoice = Annotated[Choice, Filters]
LossChoice = Annotated[Choice, Losses]


class RoundsSection(Section):
    """The algorithm: assign, filter, update, once per level."""

    assignment: AssignerChoice = Assigners.check("agreement")
    """Which teacher annotates which sample (`cosup ls assigners`)."""
    consistency: list[FilterChoice] = []
    """Filters; an annotation is kept if all of them keep it (`cosup ls filters`)."""
    loss: LossChoice = Losses.check("cross_entropy")
    """What the student minimises (`cosup ls losses`)."""
    losses: list[LossChoice] | None = Field(default=None, min_length=1)
    """Repeat the run with each of these losses and compare them in pairs; null runs `loss` alone.
    """
    annotation_weight: float = Field(default=1.0, ge=0)
    """How much the loss against the annotations counts."""
    true_label_weight: float = Field(default=0.0, ge=0)
    """How much cross-entropy with the labels counts, where student_train's labels may be used; 0 is
    the weak-to-strong setting."""
    live_annotations: bool = False
    """Ask the assigned teacher again about each augmented image, in place of the annotation of the
    plain one (`mode: finetune`, and teachers that are networks)."""
    targets: Literal["soft", "hard"] = "soft"
    """Learn the annotation's probabilities, or its most probable class."""
    first_guide: Literal["crowd", "student"] = "crowd"
    """What assigners and filters look at before there is a student: the mean of the level's
    annotations (`crowd`), or what the `student` says untrained (`student.head.init: text`)."""
    repeat: int = Field(default=1, ge=1)
    """Rounds per level."""
    fresh_head: bool = True
    """Start each round's head (or network) anew, or from the round before."""
    min_kept: float = Field(default=0.2, ge=0, le=1)
    """Warn when a filter would keep a smaller share than this."""
