"""Consistency filters: which assigned annotations are kept."""

from cosup.consistency.base import Chain, ChainResult, Filter, Measures, check_kept, join_measures
from cosup.consistency.local_global import LocalGlobal
from cosup.consistency.samplewise import Confidence, GivenLabel, Unanimity
from cosup.consistency.teacher_student import TeacherStudent

__all__ = [
    "FILTERS",
    "Chain",
    "ChainResult",
    "Confidence",
    "Filter",
    "GivenLabel",
    "LocalGlobal",
    "Measures",
    "TeacherStudent",
    "Unanimity",
    "check_kept",
    "join_measures",
]

FILTERS: dict[str, type[Filter]] = {
    "teacher_student": TeacherStudent,
    "local_global": LocalGlobal,
    "confidence": Confidence,
    "unanimity": Unanimity,
    "given_label": GivenLabel,
}
