"""Teachers as they are sent between processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from cosup.models.weights import check_identity
from cosup.teachers.base import Teacher, Training
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.train import restored

__all__ = ["SentTeacher"]


@dataclass(frozen=True)
class SentTeacher:
    """A teacher as it is sent to other processes. state: its weights."""

    spec: TeacherSpec
    steps: int
    identity: str
    state: Mapping[str, Tensor] = field(repr=False)

    @staticmethod
    def of(teacher: Teacher) -> "SentTeacher":
        """Return what restores a teacher elsewhere."""
        state = {name: tensor.detach().cpu() for name, tensor in teacher.tensors().items()}
        return SentTeacher(teacher.spec, teacher.steps, teacher.identity, state)

    def restore(self, training: Training) -> Teacher:
        """Return the teacher. Raise `RunError` if it differs from the one that was sent."""
        teacher = restored(self.spec, training, self.state, self.steps)
        check_identity(teacher.identity, self.identity, f"teacher '{self.spec.name}'")
        return teacher
