"""What the settings of different sections need of the data."""

from cosup.config.rounds import Assigners, Filters, Refiners, RoundsSection
from cosup.config.teachers import TeachersSection
from cosup.settings.assigners import AssignerSettings

__all__ = ["assigner_needs", "filter_needs", "wants_teacher_train"]


def assigner_needs(teachers: TeachersSection, rounds: RoundsSection) -> frozenset[str]:
    """Return what the assigner, or any that may be chosen, and the refinement read beyond
    probabilities."""
    refined = frozenset[str]()
    if rounds.refine is not None:
        refined = Refiners.settings(rounds.refine).needs
    if rounds.choose is not None:
        specialists = {"provenance"} if teachers.trains_specialists else set[str]()
        return frozenset({"features", *specialists})
    assigner: AssignerSettings = Assigners.settings(rounds.assignment)
    return refined | (assigner.uses if teachers.trains_specialists else assigner.needs)


def filter_needs(rounds: RoundsSection) -> frozenset[str]:
    """Return what the filters read beyond probabilities."""
    return frozenset[str]().union(*(Filters.settings(one).needs for one in rounds.consistency))


def wants_teacher_train(teachers: TeachersSection, rounds: RoundsSection) -> bool:
    """Return whether a run needs the split teacher_train.

    It is the labelled samples that teachers are trained on (as is, for comparison, the student of
    the control `labels`), from which an assigner learns what a teacher has seen, and by which
    teachers are calibrated.
    """
    reads = rounds.labelled or "provenance" in assigner_needs(teachers, rounds)
    return teachers.trains_on_labels or reads or teachers.calibrate is not None
