"""Consistency filters: decide which assigned annotations are kept."""

from cosup.consistency.base import Chain, Filter, Kept, Measures, PartTrainer, check_kept
from cosup.consistency.local_global import LocalGlobal
from cosup.consistency.neighbours import Neighbours
from cosup.consistency.samplewise import ConfidenceThreshold, GivenLabel, Unanimity
from cosup.consistency.teacher_student import TeacherStudent
from cosup.settings.filters import FILTERS

__all__ = [
    "FILTERS",
    "Chain",
    "ConfidenceThreshold",
    "Filter",
    "GivenLabel",
    "Kept",
    "LocalGlobal",
    "Measures",
    "Neighbours",
    "PartTrainer",
    "TeacherStudent",
    "Unanimity",
    "check_kept",
]


def __dir__() -> list[str]:
    return __all__
