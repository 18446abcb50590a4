"""The student: the strong model that the teachers' annotations train."""

from cosup.protocols import Student
from cosup.student.head import HeadStudent

__all__ = ["HeadStudent", "Student"]
