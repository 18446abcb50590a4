"""Compute the controls of a run (`cosup.controls`) with its own student, samples and seed."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosup.levels import Level, Stream, Task
from cosup.losses.base import Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.probabilities import ProbTable
from cosup.rounds import Outcome, Recipe, assign, run_rounds
from cosup.seeds import seed_for
from cosup.settings.assigners import ASSIGNERS

PLAIN = Objective(CrossEntropy(), control=True)
"""What controls minimise that do not repeat the run's own rounds."""


@dataclass(frozen=True)
class ControlRun:
    """A run's task and student, as a control uses them (`cosup.controls.ControlContext`).

    name: the control's, which seeds it. recipe: how the run's own rounds are run. best_teacher: a
    level of the best single teacher alone. budget_generalist: a level of the generalist with the
    specialists' budget, or None where none was trained.
    """

    name: str
    task: Task
    recipe: Recipe
    run_seed: int
    best_teacher: Level
    budget_generalist: Level | None = None

    @property
    def finest(self) -> Level:
        """Return the finest level."""
        return self.task.levels[-1]

    @property
    def generalist(self) -> Level:
        """Return the level of the generalist."""
        assert self.budget_generalist is not None
        return self.budget_generalist

    @property
    def true_labels(self) -> Tensor:
        """Return the true labels [N] of student_train."""
        return self.task.truth.labels

    @property
    def given_labels(self) -> Tensor:
        """Return the labels [N] of student_train as given."""
        assert self.task.labels is not None
        return self.task.labels

    def untrained(self) -> ProbTable:
        """Predict with the student as it starts."""
        student = self.recipe.new_student(PLAIN, self._seed(self.name))
        return student.predict(self.task.test_inputs)

    def trained_on(self, labels: Tensor) -> ProbTable:
        """Train the student on labels [N] (-1: left out) with cross-entropy."""
        targets = ProbTable.one_hot(labels.clamp_min(0), self.task.num_classes)
        return self._trained(targets, (labels >= 0).float())

    def taught_by(self, level: Level, assigner: str) -> ProbTable:
        """Train the student once on a level's annotations, all kept, with cross-entropy."""
        stream = Stream(level, None, self.task.features, self.task.truth)
        seed = self._seed(self.name)
        assigned = assign(ASSIGNERS[assigner].load()(), stream, seed, self.recipe.hard)
        _, confidence = assigned.targets.top()
        return self._trained(assigned.targets, (confidence > 0).float())

    def rerun(self, assigner: str) -> ProbTable:
        """Repeat the run's rounds with another assigner."""
        recipe = replace(self.recipe, assigner=ASSIGNERS[assigner].load()())
        return self._last_round(self.task, recipe, self._seed(assigner)).test_probs

    def self_trained(self) -> ProbTable:
        """Train on the coarsest level's mean, then on own predictions, for as many rounds."""
        task, seed = self.task, self._seed(self.name)
        mean = replace(self.recipe, assigner=ASSIGNERS["mean"].load()(), repeat=1, least=1)
        first = self._last_round(replace(task, levels=task.levels[:1]), mean, seed)
        own, test = first.train_probs, first.test_probs
        for number, _ in self.recipe.schedule(len(task.levels))[1:]:
            student = self.recipe.new_student(PLAIN, seed_for(seed, number))
            student.update(task.inputs, own, torch.ones(len(own)))
            own, test = student.predict_own(task.inputs), student.predict(task.test_inputs)
        return test

    def _seed(self, name: str) -> int:
        return seed_for(self.run_seed, "control", name)

    def _trained(self, targets: ProbTable, weights: Tensor) -> ProbTable:
        student = self.recipe.new_student(PLAIN, self._seed(self.name))
        student.update(self.task.inputs, targets, weights)
        return student.predict(self.task.test_inputs)

    def _last_round(self, task: Task, recipe: Recipe, seed: int) -> Outcome:
        *_, last = run_rounds(task, recipe, seed)
        return last
