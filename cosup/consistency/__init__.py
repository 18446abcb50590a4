"""Consistency filters: which assigned annotations are kept."""

from cosup.consistency.base import Filter, Measures, join_measures
from cosup.consistency.chain import Chain, ChainResult, check_kept
from cosup.consistency.confidence import Confidence
from cosup.consistency.given_label import GivenLabel
from cosup.consistency.local_global import LocalGlobal
from cosup.consistency.teacher_student import TeacherStudent
from cosup.consistency.unanimity import Unanimity

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
