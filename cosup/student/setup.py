"""What the students of a run share."""

from dataclasses import dataclass, field

from torch import Tensor

from cosup.config.student import StudentSection
from cosup.models.compute import DEFAULT_COMPUTE, Compute
from cosup.models.watch import OnStep, Watched
from cosup.student.launcher import Launcher, LocalLauncher

__all__ = ["StudentSetup"]


@dataclass(frozen=True)
class StudentSetup:
    """Settings and resources that the students of a run share.

    section: the `student` section. folds: [N] fold of each training sample, from 0; None without
    cross-fitting. on_step: called after every step of the main training. watched: samples whose
    accuracy is recorded during the main training. launcher: runs the trainings. recorded: whether
    on_step records the steps.
    """

    section: StudentSection
    num_classes: int
    compute: Compute = DEFAULT_COMPUTE
    folds: Tensor | None = None
    on_step: OnStep | None = None
    launcher: Launcher = field(default_factory=LocalLauncher)
    watched: Watched | None = None
    recorded: bool = False

    @property
    def fold_count(self) -> int:
        """Number of folds; 0 without cross-fitting."""
        return 0 if self.folds is None else int(self.folds.max()) + 1

    def outside_folds(self, rows: Tensor) -> list[Tensor]:
        """Return, for each fold, the rows that lie outside it; empty without cross-fitting."""
        if self.folds is None:
            return []
        return [rows[self.folds[rows] != fold] for fold in range(self.fold_count)]
