"""Compute the controls of a run (`cosup.controls`) with its own student, samples and seed.

A student is trained as in the run: with its objective, from its start, for its number of optimiser
steps. With a fresh head in every round, that is one training, with the seed of the last round; else
one training per round, each continuing from the one before. The trainings of several controls,
which do not wait for each other, are run together (`run_controls`).
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from cosup.assigning import harden
from cosup.assignment.base import Assigner
from cosup.consistency import Chain
from cosup.controls import CONTROLS, LABELS, NO_TRUE_LABEL, PAIR, TEAM, Absent, ControlContext
from cosup.errors import RunError, about
from cosup.levels import Level, LevelAnnotations, Stream, Task
from cosup.losses.cross_entropy import CrossEntropy
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance, Inputs, Lessons, Student, Update, advance
from cosup.recipe import NewStudent, Recipe
from cosup.rounds import last_round
from cosup.seeds import seed_for
from cosup.settings.assigners import ASSIGNERS
from cosup.team import Answering, ask_team

__all__ = ["ControlRun", "LabelledSamples", "TeamSamples", "run_controls"]

Part = TypeVar("Part")


@dataclass(frozen=True)
class LabelledSamples:
    """The teachers' own labelled samples.

    inputs: of the student, M rows. labels: [M] int64 as given, -1 unknown. new_student: makes
    students without cross-fitting that are trained for as many steps as on student_train.
    """

    inputs: Inputs
    labels: Tensor
    new_student: NewStudent


@dataclass(frozen=True)
class TeamSamples:
    """The test samples, as the team of the last round answers on them.

    level: its teachers and their annotations of these samples. assigner: the state of its fitted
    assigner. student: probabilities by the student of the last round. features: [M, D] or None.
    domains: [M] int64.
    """

    level: Level
    assigner: Mapping[str, Tensor]
    student: ProbTable
    features: Tensor | None
    domains: Tensor


@dataclass(frozen=True)
class ControlRun:
    """A run's task and student, as a control uses them (`cosup.controls.ControlContext`).

    recipe: how the run's own rounds are run. new_student: makes its students without cross-fitting,
    as most controls read no predictions of training samples. best_teacher: a level of the best
    single teacher alone. trained: the levels of the generalists that were trained for controls, by
    control. labelled, team_samples: None where the run has none. paired: the test probabilities of
    student and team together, or None. reasons: why a control has none of these, by control.
    """

    task: Task
    recipe: Recipe
    run_seed: int
    best_teacher: Level
    new_student: NewStudent
    trained: Mapping[str, Level] = field(default_factory=dict)
    labelled: LabelledSamples | None = None
    team_samples: TeamSamples | None = None
    paired: ProbTable | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def finest(self) -> Level:
        """Return the level of the last round."""
        return self.task.levels[-1]

    def generalists(self, control: str) -> Level:
        """Return the level of the generalists of this control."""
        return self._present(control, self.trained.get(control))

    @property
    def true_labels(self) -> Tensor:
        """Return the true labels [N] of student_train."""
        return _known(self.task.truth.labels, NO_TRUE_LABEL)

    @property
    def given_labels(self) -> Tensor:
        """Return the labels [N] of student_train as given."""
        assert self.task.labels is not None
        return _known(self.task.labels, "no label of student_train is known")

    def with_team(self) -> ProbTable:
        """Return the test probabilities of student and team together."""
        return self._present(PAIR, self.paired)

    def untrained(self) -> ProbTable:
        """Predict with the student as it starts."""
        return self._student(self.new_student, 1).predict_test(self.task.test_inputs)

    def trained_on(self, labels: Tensor) -> Lessons[ProbTable]:
        """Train the student on labels [N] (-1: left out), in place of annotations and labels."""
        return (yield from self._trained(self.new_student, self.task.inputs, self._labels(labels)))

    def trained_on_teachers_labels(self) -> Lessons[ProbTable]:
        """Train the student on the labelled samples of teacher_train."""
        found = self._present(LABELS, self.labelled)
        labels = _known(found.labels, "no label of teacher_train is known")
        return (yield from self._trained(found.new_student, found.inputs, self._labels(labels)))

    def taught_by(self, level: Level, assigner: str) -> Lessons[ProbTable]:
        """Train the student on a level's annotations, all kept, as this assigner gives them."""
        supervision = self._annotations(level, self._assigner(assigner))
        return (yield from self._trained(self.new_student, self.task.inputs, supervision))

    def rerun(self, assigner: str) -> Lessons[ProbTable]:
        """Repeat the run's rounds with another assigner."""
        recipe = replace(self.recipe, assigner=self._assigner(assigner))
        return (yield from self._last_round(recipe))

    def without_filters(self) -> Lessons[ProbTable]:
        """Repeat the run's rounds without its filters."""
        if not self.recipe.filters.filters:
            raise Absent("the run has no filter")
        return (yield from self._last_round(replace(self.recipe, filters=Chain([], []))))

    def with_cross_entropy(self) -> Lessons[ProbTable]:
        """Repeat the run's rounds with cross-entropy as the loss."""
        objective = self.recipe.objective
        if isinstance(objective.loss, CrossEntropy):
            raise Absent("the loss of the run is cross-entropy")
        plain = replace(objective, loss=CrossEntropy())
        return (yield from self._last_round(replace(self.recipe, objective=plain)))

    def self_trained(self) -> Lessons[ProbTable]:
        """Train the student on generalists, then on its own predictions, for as many rounds.

        It starts from the mean of the coarsest level's teachers of the whole task; where there are
        none, from the best teacher.
        """
        inputs, numbers = self.task.inputs, self._rounds()
        supervision, student = self._annotations(*self._first_teachers()), None
        for number in numbers:
            last = number == numbers[-1]  # nobody reads its predictions of training samples
            make = self.new_student if last else self.recipe.new_student
            student = self._student(make, number, student)
            yield supervision.update(student, inputs)
            if not last:
                supervision = self._own(student.predict_own(inputs))
        assert student is not None
        return student.predict_test(self.task.test_inputs)

    def team(self) -> ProbTable:
        """Predict with the teachers of the last round, routed by its assigner."""
        found, assigner = self._present(TEAM, self.team_samples), deepcopy(self.recipe.assigner)
        if "truth" in assigner.needs:
            raise Absent("the run's assigner reads true labels, which test samples do not give")
        assigner.load_state_dict(dict(found.assigner))
        answers = ask_team(assigner, found.level, found.student, found.features, found.domains)
        if not bool((answers.probs.top()[1] > 0).any()):
            raise Absent("no trained teacher answers on a test sample")
        return answers.probs

    def _present(self, control: str, found: Part | None) -> Part:
        if found is None:
            raise Absent(self.reasons[control])
        return found

    def _assigner(self, name: str) -> Assigner:
        assigner: Assigner = ASSIGNERS[name].load()()
        if "truth" in assigner.needs:
            _known(self.task.truth.labels, NO_TRUE_LABEL)
        return assigner

    def _rounds(self) -> list[int]:
        return [number for number, _ in self.recipe.schedule(len(self.task.levels))]

    def _first_teachers(self) -> tuple[Level, Assigner]:
        """Return the teachers that self-training starts from, and their assigner."""
        level = self.task.levels[0]
        whole = ~level.scopes.restricted
        if not bool(whole.any()):
            return self.best_teacher, self._assigner("single")
        annotations: LevelAnnotations = Answering(level.annotations, whole)
        return replace(level, annotations=annotations), self._assigner("mean")

    def _annotations(self, level: Level, assigner: Assigner) -> "Supervision":
        """Return a level's annotations as an assigner gives them.

        A loss on feature maps gets the teachers only if one of them annotates each sample.
        """
        stream = Stream(level, None, self.task.features, self.task.truth)
        seed = seed_for(self.run_seed, "round", self._rounds()[-1])
        assigned = self.recipe.assign(assigner, stream, seed, self.recipe.hard)
        weights = assigned.weighed(assigned.targets.top()[1] > 0)
        if not bool((weights > 0).any()):
            raise Absent(f"{', '.join(level.scopes.names)}: no annotation of a sample")
        several = bool((assigned.weights.count_nonzero(1) > 1).any())
        maps = self.recipe.objective.loss.reads_features
        guidance = Guidance(
            self._trainer_labels(),
            assigned.weights.argmax(1),
            None if maps and several else level.live,
            self.task.mixture(assigned.weights),
        )
        return Supervision(*self.task.with_reviewed(assigned.targets, weights), guidance)

    def _labels(self, labels: Tensor) -> "Supervision":
        """Return labels [N] (-1: left out) in place of annotations, and of the labels of the run's
        objective."""
        targets = ProbTable.one_hot(labels.clamp_min(0), self.task.num_classes)
        own = labels if self.recipe.objective.true_label_weight else None
        return Supervision(targets, (labels >= 0).float(), Guidance(own))

    def _own(self, probs: ProbTable) -> "Supervision":
        """Return the student's own predictions of student_train."""
        targets = harden(probs) if self.recipe.hard else probs
        kept = self.task.with_reviewed(targets, torch.ones(len(probs)))
        return Supervision(*kept, Guidance(self._trainer_labels()))

    def _trainer_labels(self) -> Tensor | None:
        return self.task.labels if self.recipe.objective.true_label_weight else None

    def _trained(
        self, make: NewStudent, inputs: Inputs, supervision: "Supervision"
    ) -> Lessons[ProbTable]:
        """Train a student as often as the run's is trained, and predict the test samples."""
        numbers, student = self._rounds(), None
        for number in numbers[-1:] if self.recipe.fresh else numbers:
            student = self._student(make, number, student)
            yield supervision.update(student, inputs)
        assert student is not None
        return student.predict_test(self.task.test_inputs)

    def _student(self, make: NewStudent, number: int, before: Student | None = None) -> Student:
        """Return the student of a round, which continues from the one before if the run's does."""
        student = make(self.recipe.objective, seed_for(self.run_seed, "round", number))
        if before is not None and not self.recipe.fresh:
            student.load_state_dict(before.state_dict())
        return student

    def _last_round(self, recipe: Recipe) -> Lessons[ProbTable]:
        recipe = replace(recipe, last_student=self.new_student)
        last = yield from last_round(self.task, recipe, self.run_seed)
        return last.test_probs


@dataclass(frozen=True)
class Supervision:
    """What a student is trained on: targets and weights [N] of N samples, and their guidance."""

    targets: ProbTable
    weights: Tensor
    guidance: Guidance

    def update(self, student: Student, inputs: Inputs) -> Update:
        """Return the training of a student on it. inputs: of the N samples."""
        return Update(student, inputs, self.targets, self.weights, self.guidance)


def run_controls(
    run: ControlContext[Any, Any], names: Iterable[str]
) -> tuple[dict[str, ProbTable], dict[str, str]]:
    """Run controls in lockstep, their students trained together.

    Returns the test probabilities by control, and why others are absent. Errors name the control.
    """
    waiting = {name: _lessons(name, run) for name in names}
    found: dict[str, ProbTable] = {}
    absent: dict[str, str] = {}
    while waiting:
        updates: dict[str, Update] = {}
        for name, lessons in waiting.items():
            try:
                with about(f"control {name}"):
                    step = advance(lessons)
            except Absent as reason:
                absent[name] = str(reason)
                continue
            if isinstance(step, Update):
                updates[name] = step
            else:
                found[name] = step
        _update_together(updates)
        waiting = {name: waiting[name] for name in updates}
    return found, absent


def _lessons(name: str, run: ControlContext[Any, Any]) -> Lessons[ProbTable]:
    """Return the lessons of a control; none where it trains no student."""
    begun = CONTROLS[name].run(run)
    return begun if isinstance(begun, ProbTable) else (yield from begun)


def _update_together(updates: Mapping[str, Update]) -> None:
    """Run the updates of controls, by control."""
    several = list(updates.values())
    if len(several) > 1:
        try:
            type(several[0].student).update_together(several)
            return
        except RunError:
            pass  # alone, each tells of which control it is
    for name, update in updates.items():
        with about(f"control {name}"):
            update.run()


def _known(labels: Tensor, reason: str) -> Tensor:
    """Return the labels; raise `Absent` if all of them are unknown."""
    if not bool((labels >= 0).any()):
        raise Absent(reason)
    return labels
