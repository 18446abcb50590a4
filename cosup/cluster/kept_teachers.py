"""Teachers as they are sent to actors, and those that an actor keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cosup.teachers.base import Teacher
from cosup.teachers.hierarchy import TeacherSpec

__all__ = ["KeptTeachers", "RemoteTeacher"]


@dataclass(frozen=True)
class RemoteTeacher:
    """A teacher as it is sent to actors. nbytes: of its weights. state: an object reference to its
    arrays."""

    spec: TeacherSpec
    steps: int
    identity: str
    nbytes: int
    state: Any


@dataclass(frozen=True)
class _Group:
    """Restored teachers by identity. nbytes: of the weights of all teachers of the group."""

    nbytes: int
    teachers: dict[str, Teacher]


class KeptTeachers:
    """The teachers that an actor keeps: the last groups whose weights take at most `memory` bytes,
    and always the last one."""

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._groups: dict[tuple[str, ...], _Group] = {}

    def of(self, group: Sequence[RemoteTeacher]) -> dict[str, Teacher]:
        """Return the restored teachers of a group by identity, to be added to.

        Groups that do not fit beside it are dropped first, the least recently used before others.
        """
        key = tuple(teacher.identity for teacher in group)
        found = self._groups.pop(key, None) or _Group(sum(one.nbytes for one in group), {})
        while self._groups and self._nbytes() + found.nbytes > self.memory:
            del self._groups[next(iter(self._groups))]
        self._groups[key] = found  # the most recently used is last
        return found.teachers

    def _nbytes(self) -> int:
        return sum(group.nbytes for group in self._groups.values())
