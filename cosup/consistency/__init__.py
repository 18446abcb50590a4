"""Consistency filters: which assigned annotations are kept."""

from cosup.consistency.base import Chain, ChainResult, Filter, Measures, check_kept, join_measures
from cosup.consistency.local_global import LocalGlobal
from cosup.consistency.samplewise import ConfidenceThreshold, GivenLabel, Unanimity
from cosup.consistency.teacher_student import TeacherStudent
from cosup.settings.filters import FILTERS

__all__ = [
    "FILTERS",
    "Chain",
    "ChainResult",
    "ConfidenceThreshold",
    "Filter",
    "GivenLabel",
    "LocalGlobal",
    "Measures",
    "TeacherStudent",
    "Unanimity",
    "check_kept",
    "join_measures",
]
