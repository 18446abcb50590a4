"""The algorithm: rounds of assign, filter, update and predict, from coarse levels to fine ones.

Co-Supervised Learning (Liu and Alahi, arXiv 2402.15505; METHODS.md section 1). Teachers are
assigned by comparison with the latest student, as the true labels are unknown; annotations that are
inconsistent with it are rejected; the student is trained on the others. Rounds work on arrays and
built objects: they read no config and write no file. `cosup.decide` is the first half of a round,
for other training loops.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from cosup.consistency.base import Kept, PartTrainer, check_kept
from cosup.levels import Assignment, Level, Stream, Task
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance, Lessons, Student, Update
from cosup.recipe import NewStudent, Recipe
from cosup.seeds import seed_for


@dataclass(frozen=True)
class Decided:
    """The decisions of a round.

    guide: predictions of the student before its update, if any. refined: the refined annotations,
    before they were hardened; None in a round that does not refine.
    """

    number: int
    level: int
    guide: ProbTable | None
    assigned: Assignment
    kept: Kept
    refined: ProbTable | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Outcome(Decided):
    """A finished round: its decisions, and the predictions and state of its student.

    labelled_probs: predictions of the task's labelled samples, cross-fitted as `train_probs`.
    """

    train_probs: ProbTable
    test_probs: ProbTable
    student: dict[str, Tensor]
    assigner: dict[str, Tensor]
    labelled_probs: ProbTable | None = None


@dataclass(frozen=True)
class RoundState:
    """What the finished rounds leave to the next one.

    finished: number of rounds. level: of the last one. train_probs: predictions of the latest
    student; coarse_probs: of the last student of the level above. student: state of the latest
    student. All None before the first round.
    """

    finished: int = 0
    level: int = 0
    train_probs: ProbTable | None = None
    coarse_probs: ProbTable | None = None
    student: dict[str, Tensor] | None = None

    def at(self, level: int) -> "RoundState":
        """Return the state at the start of a round of this level."""
        if level == self.level:
            return self
        return replace(self, level=level, coarse_probs=self.train_probs)

    def after(self, outcome: Outcome) -> "RoundState":
        """Return the state at the end of a round."""
        return replace(
            self,
            finished=outcome.number,
            train_probs=outcome.train_probs,
            student=outcome.student,
        )


def run_rounds(
    task: Task, recipe: Recipe, seed: int, state: RoundState | None = None
) -> Iterator[Outcome]:
    """Run every round after those of `state`, which is that of finished rounds (None: of none).

    Raises `RunError` as `run_round` does.
    """
    state = first_state(task, recipe, seed) if state is None else state
    for number, index in recipe.schedule(len(task.levels))[state.finished :]:
        state = state.at(index)
        outcome = run_round(task, recipe, state, number, task.levels[index], seed)
        yield outcome
        state = state.after(outcome)


def first_state(task: Task, recipe: Recipe, seed: int) -> RoundState:
    """Return the state before the first round."""
    if not recipe.student_first:
        return RoundState()
    return RoundState(train_probs=recipe.new_student(recipe.objective, seed).predict(task.inputs))


def last_round(task: Task, recipe: Recipe, seed: int) -> Lessons[Outcome]:
    """Run the last round, and before it those on which it depends (`Recipe.needed`).

    The outcome is that of the last of `run_rounds`. Errors as for `run_round`.
    """
    state = first_state(task, recipe, seed)
    for number, index in recipe.needed(len(task.levels)):
        state = state.at(index)
        lesson = _prepare(task, recipe, state, number, task.levels[index], seed)
        yield lesson.update
        outcome = lesson.finish(task)
        state = state.after(outcome)
    return outcome


def run_rounds_together(
    plans: Sequence[tuple[Task, Recipe]], seed: int, *, needed: bool = False
) -> Iterator[list[Outcome | None]]:
    """Run the rounds of several recipes in lockstep, their students trained together.

    plans: each recipe with its task; tasks may differ in their levels. needed: leave out the rounds
    on which no last round depends (`Recipe.needed`). Yields the outcomes of round 1 of every
    recipe, then of round 2 and so on; None of a recipe without that round. They equal those of
    `run_rounds` of each recipe alone. The recipes' students are of one class. Errors as for
    `run_round`, of whichever recipe fails first.
    """
    states = [first_state(task, recipe, seed) for task, recipe in plans]
    schedules = [
        dict((recipe.needed if needed else recipe.schedule)(len(task.levels)))
        for task, recipe in plans
    ]
    for number in range(1, max((max(rounds) for rounds in schedules), default=0) + 1):
        lessons: dict[int, _Lesson] = {}
        for place, (task, recipe) in enumerate(plans):
            if number in schedules[place]:
                index = schedules[place][number]
                states[place] = states[place].at(index)
                level = task.levels[index]
                lessons[place] = _prepare(task, recipe, states[place], number, level, seed)
        if not lessons:
            continue
        updates = [lesson.update for lesson in lessons.values()]
        type(updates[0].student).update_together(updates)
        found = {place: lesson.finish(plans[place][0]) for place, lesson in lessons.items()}
        for place, outcome in found.items():
            states[place] = states[place].after(outcome)
        yield [found.get(place) for place in range(len(plans))]


def run_round(
    task: Task, recipe: Recipe, state: RoundState, number: int, level: Level, seed: int
) -> Outcome:
    """Assign, filter, update and predict.

    Raises `RunError` if the filters keep nothing, or the loss is not finite.
    """
    lesson = _prepare(task, recipe, state, number, level, seed)
    lesson.update.run()
    return lesson.finish(task)


@dataclass(frozen=True)
class _Lesson:
    """A round before the student's update.

    assigner: its state.
    """

    number: int
    level: int
    guide: ProbTable | None
    assigned: Assignment
    kept: Kept
    update: Update
    assigner: dict[str, Tensor]
    refined: ProbTable | None

    def finish(self, task: Task) -> Outcome:
        """Predict with the updated student."""
        student, labelled = self.update.student, task.labelled
        own = student.predict_own(self.update.inputs)
        return Outcome(
            self.number,
            self.level,
            self.guide,
            self.assigned,
            self.kept,
            own if labelled is None else own.take(slice(len(task.inputs))),
            student.predict_test(task.test_inputs),
            student.state_dict(),
            self.assigner,
            None if labelled is None else own.take(slice(len(task.inputs), None)),
            refined=self.refined,
        )


def _prepare(
    task: Task, recipe: Recipe, state: RoundState, number: int, level: Level, seed: int
) -> _Lesson:
    """Assign and filter."""
    seed = seed_for(seed, "round", number)
    last = number == len(recipe.schedule(len(task.levels)))
    make = recipe.last_student if last and recipe.last_student else recipe.new_student
    student = make(recipe.objective, seed)
    if state.student is not None and not recipe.fresh:
        student.load_state_dict(state.student)
    labels = task.labels if recipe.objective.true_label_weight else None
    stream = Stream(
        level, state.train_probs, task.features, task.truth, state.coarse_probs, labels=labels
    )

    assigned = recipe.assign(recipe.assigner, stream, seed, recipe.hard)
    kept = filter_annotations(recipe, stream, assigned, student, task)
    weights = assigned.weights
    guidance = Guidance(labels, weights.argmax(1), level.live, task.mixture(weights))
    refined = None
    if recipe.refiner is not None and recipe.refines(number, len(task.levels)):
        assert state.train_probs is not None, "a round that refines follows another"
        refined = recipe.refiner.refine(
            assigned.annotations, state.train_probs, task.features, seed_for(seed, "refinement")
        )
    taught = recipe.taught(assigned, refined)
    targets, weights = task.with_reviewed(taught, assigned.weighed(kept.keep))
    return _Lesson(
        number,
        level.index,
        state.train_probs,
        assigned,
        kept,
        with_labelled(Update(student, task.inputs, targets, weights, guidance), task),
        recipe.assigner.state_dict(),
        refined,
    )


def with_labelled(update: Update, task: Task) -> Update:
    """Return the update with the task's labelled samples after those of student_train.

    They have no annotation, so that their loss is the cross-entropy with their label, by the weight
    that the objective gives to labels; samples of student_train keep the labels that they have.
    """
    labelled, guidance = task.labelled, update.guidance or Guidance()
    if labelled is None:
        return update
    own, count = guidance.labels, len(labelled.labels)
    nobody = torch.full((len(update.targets),), -1)
    teacher, mixture = guidance.teacher, guidance.mixture
    return Update(
        update.student,
        labelled.joined,
        update.targets.with_abstentions(count),
        torch.cat([update.weights, (labelled.labels >= 0).to(update.weights)]),
        Guidance(
            torch.cat([nobody if own is None else own, labelled.labels]),
            None if teacher is None else torch.cat([teacher, teacher.new_zeros(count)]),
            guidance.live,
            None if mixture is None else functional.pad(mixture, (0, 0, 0, count)),
        ),
    )


def filter_annotations(
    recipe: Recipe, stream: Stream, assigned: Assignment, student: Student, task: Task
) -> Kept:
    """Run the filters; raise `RunError` if nothing is kept.

    Filters that train students train them on the samples that the others keep.
    """
    chain = recipe.filters
    stream = stream.restricted(chain.needs)
    training = [each for each in chain.filters if each.trains_students]
    if training:
        kept = chain.without_students().run(stream, assigned)
        check_kept(kept, 0.0)
        fit = partial(student.fit_parts, task.inputs, assigned.targets)
        for each in training:
            stream = each.prepare(stream, assigned, kept.keep, PartTrainer(task.inputs, fit))
    result = chain.run(stream, assigned)
    check_kept(result, recipe.min_kept)
    return result


def cross_fit(
    task: Task, recipe: Recipe, outcome: Outcome, folds: Tensor, make: NewStudent, seed: int
) -> ProbTable | None:
    """Train the student of a round once more, in folds, and return its predictions of the samples
    that it was not trained on; None where too few are kept for the folds.

    folds: [N], then those of the task's labelled samples. make: returns a student with these folds.
    """
    weighed = outcome.assigned.weighed(outcome.kept.keep)
    taught = recipe.taught(outcome.assigned, outcome.refined)
    targets, weights = task.with_reviewed(taught, weighed)
    used = folds[: len(weights)][weights > 0]
    if not len(used) or bool((used == used[0]).all()):
        return None
    student = make(recipe.objective, seed_for(seed, "labels"))
    labels = task.labels if recipe.objective.true_label_weight else None
    with_labelled(Update(student, task.inputs, targets, weights, Guidance(labels)), task).run()
    return student.predict_own(task.inputs)
