"""How rounds are run: what assigns, filters, refines and teaches, and in which order."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cosup.assigning import Assign, assign, harden
from cosup.assignment.base import Assigner
from cosup.consistency.base import Chain
from cosup.levels import Assignment
from cosup.losses.base import Objective
from cosup.probabilities import ProbTable
from cosup.protocols import Student
from cosup.refinement import ProductRefinement

__all__ = ["NewStudent", "Recipe"]

NewStudent = Callable[[Objective, int], Student]
"""Returns a new student that minimises the objective, with this seed."""


@dataclass(frozen=True)
class Recipe:
    """How rounds are run.

    hard: train on the most probable class of an annotation instead of its probabilities.
    fresh: initialise the student in every round instead of continuing from the previous one.
    min_kept: warn if a filter keeps a smaller share of the samples.
    student_first: guide the first round by the untrained student instead of the mean annotation.
    repeat: rounds per level. least: repeat the finest level until there are as many rounds.
    refiner: refines the assigned annotations of its own rounds, which follow the others on the
    finest level; their student must be cross-fitted.
    last_student: makes the student of the last round, instead of new_student: it needs no
    cross-fitting if nobody reads its predictions of its own samples. assign: how samples are
    assigned (`cosup.assigning`).

    The true labels of the task are used if the objective gives them weight.
    """

    assigner: Assigner
    objective: Objective
    new_student: NewStudent
    filters: Chain = field(default_factory=lambda: Chain([], []))
    hard: bool = False
    fresh: bool = True
    min_kept: float = 0.2
    student_first: bool = False
    repeat: int = 1
    least: int = 1
    last_student: NewStudent | None = None
    refiner: ProductRefinement | None = None
    assign: Assign = assign

    def schedule(self, levels: int) -> list[tuple[int, int]]:
        """Return (round, level) of every round in order; rounds count from 1, levels from 0.

        An assigner that fuses has the finest level alone: what a coarser generalist teaches errs
        together with the specialists, and would outweigh them (METHODS.md section 8).
        """
        first = levels - 1 if self.assigner.fuses else 0
        order = [level for level in range(first, levels) for _ in range(self.repeat)]
        order += [levels - 1] * (self.least - len(order))
        if self.refiner is not None:
            order += [levels - 1] * self.refiner.rounds
        return list(enumerate(order, start=1))

    def refines(self, number: int, levels: int) -> bool:
        """Return whether a round refines what it assigned."""
        if self.refiner is None:
            return False
        return number > len(self.schedule(levels)) - self.refiner.rounds

    def taught(self, assigned: Assignment, refined: ProbTable | None) -> ProbTable:
        """Return what the student learns of annotations, which may have been refined."""
        if refined is None:
            return assigned.targets
        assert self.refiner is not None
        return harden(refined) if self.refiner.targets == "hard" else refined

    def needed(self, levels: int) -> list[tuple[int, int]]:
        """Return the rounds of `schedule` on which the last one depends, itself included.

        Rounds without a guide, whose student starts anew, depend on no earlier one; the first that
        refines reads the student of the round before it.
        """
        schedule = self.schedule(levels)
        guided = self.assigner.guided or any(each.compares for each in self.filters.filters)
        if guided or not self.fresh:
            return schedule
        return schedule[-1 - (0 if self.refiner is None else self.refiner.rounds) :]
