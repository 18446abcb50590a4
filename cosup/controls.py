"""The comparisons every honest run needs: the same student on the same samples, taught otherwise.

Each control is a function of the task; `CONTROLS` names them. Those that use the truth (the oracle,
the ceiling) bound what assignment, and what any supervision, could reach.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosup.assignment import Assigner, Mean, Oracle, Random, Single
from cosup.config.schema import Config
from cosup.errors import UserError
from cosup.evidence import Truth
from cosup.levels import Level, Stream, Task
from cosup.losses import CrossEntropy
from cosup.losses.base import Objective
from cosup.probabilities import ProbTable
from cosup.rounds import Outcome, Recipe, assign, run_rounds
from cosup.seeds import seed_for

PLAIN = Objective(CrossEntropy(), control=True)
"""What controls minimise that don't repeat the run's own rounds."""


@dataclass(frozen=True)
class ControlContext:
    """What a control may use.

    best_teacher: a level of the one teacher chosen as the best. generalist: a level of the one
    teacher trained with the budget of all specialists, or None where it wasn't trained.
    """

    task: Task
    recipe: Recipe
    seed: int
    best_teacher: Level
    generalist: Level | None


def zero_shot(context: ControlContext) -> ProbTable:
    """The student before any training: CLIP's zero-shot, where prototypes start from text."""
    student = context.recipe.new_student(PLAIN, seed_for(context.seed, "control", "zero_shot"))
    return student.predict(context.task.test_inputs)


def best_teacher(context: ControlContext) -> ProbTable:
    """A student taught everything by the best single teacher, plainly (Burns et al. 2023)."""
    return _taught_by(context, context.best_teacher, Single(), "best_teacher")


def mean_ensemble(context: ControlContext) -> ProbTable:
    """A student taught by the mean of the finest level's teachers."""
    return _taught_by(context, context.task.levels[-1], Mean(), "mean_ensemble")


def equal_budget_generalist(context: ControlContext) -> ProbTable:
    """A student taught by one generalist that had the specialists' whole training budget."""
    assert context.generalist is not None
    return _taught_by(context, context.generalist, Single(), "equal_budget_generalist")


def self_training(context: ControlContext) -> ProbTable:
    """A student taught by the coarsest level, then by itself, for as many rounds as the run has."""
    task, recipe = context.task, context.recipe
    rounds = len(task.levels) * recipe.repeat
    seed = seed_for(context.seed, "control", "self_training")
    plain = replace(recipe, assigner=Mean(), repeat=1)
    first = replace(task, levels=task.levels[:1])
    outcome = _last(first, plain, seed)
    own, test = outcome.train_probs, outcome.test_probs
    for number in range(1, rounds):
        student = context.recipe.new_student(PLAIN, seed_for(seed, number))
        student.update(task.inputs, own, torch.ones(len(own)))
        own, test = student.predict_own(task.inputs), student.predict(task.test_inputs)
    return test


def random_assignment(context: ControlContext) -> ProbTable:
    """The run's own rounds with teachers drawn at random."""
    return _reassigned(context, Random(), "random")


def oracle_assignment(context: ControlContext) -> ProbTable:
    """The run's own rounds with teachers chosen by the true class and domain (uses the truth)."""
    return _reassigned(context, Oracle(), "oracle")


def ceiling(context: ControlContext) -> ProbTable:
    """The student trained on the true labels of student_train (uses the truth)."""
    return _trained_on(context, context.task.truth.labels, "ceiling")


def given_labels(context: ControlContext) -> ProbTable:
    """The student trained on the labels as they were given, noise included, without teachers."""
    assert context.task.labels is not None
    return _trained_on(context, context.task.labels, "given_labels")


CONTROLS: dict[str, Callable[[ControlContext], ProbTable]] = {
    "zero_shot": zero_shot,
    "best_teacher": best_teacher,
    "mean_ensemble": mean_ensemble,
    "equal_budget_generalist": equal_budget_generalist,
    "self_training": self_training,
    "random_assignment": random_assignment,
    "oracle_assignment": oracle_assignment,
    "given_labels": given_labels,
    "ceiling": ceiling,
}

NEED_TRUTH = frozenset({"oracle_assignment", "given_labels", "ceiling"})
"""Controls that read the true labels of student_train."""


def check_controls(config: Config, truth: Truth) -> None:
    """Raise `UserError` for controls that can't be had: they need labels no one knows."""
    asked = [name for name in config.controls if name in NEED_TRUTH]
    if asked and not bool((truth.labels >= 0).any()):
        raise UserError(
            f"controls: {', '.join(asked)}: need true labels of student_train, and it has none; "
            f"leave them out"
        )


def _trained_on(context: ControlContext, labels: Tensor, name: str) -> ProbTable:
    """The student trained on labels [N] (-1: left out), plainly."""
    task = context.task
    student = context.recipe.new_student(PLAIN, seed_for(context.seed, "control", name))
    targets = ProbTable.one_hot(labels.clamp_min(0), task.num_classes)
    student.update(task.inputs, targets, (labels >= 0).float())
    return student.predict(task.test_inputs)


def _taught_by(context: ControlContext, level: Level, assigner: Assigner, name: str) -> ProbTable:
    """One plain update: every annotation kept, cross-entropy."""
    task = context.task
    seed = seed_for(context.seed, "control", name)
    student = context.recipe.new_student(PLAIN, seed)
    stream = Stream(level, None, task.features, task.truth)
    assigned = assign(assigner, stream, seed, context.recipe.hard)
    _, confidence = assigned.targets.top()
    student.update(task.inputs, assigned.targets, (confidence > 0).float())
    return student.predict(task.test_inputs)


def _reassigned(context: ControlContext, assigner: Assigner, name: str) -> ProbTable:
    """Run the rounds of the run with another assigner."""
    recipe = replace(context.recipe, assigner=assigner)
    return _last(context.task, recipe, seed_for(context.seed, "control", name)).test_probs


def _last(task: Task, recipe: Recipe, seed: int) -> Outcome:
    return list(run_rounds(task, recipe, seed))[-1]
