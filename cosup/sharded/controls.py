"""The controls of a sharded run (`cosup.controls`): its own student, with a simpler supervision.

As in `cosup.control_runs`, a student is trained with the objective, the start and the number of
optimiser steps of the run's. What needs listed samples alone (the team, the labels of the teachers)
is computed there. What a control writes of shards is removed when it is finished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from cosup.assignment.base import Assigner
from cosup.consistency import Chain
from cosup.control_runs import ControlRun
from cosup.controls import NO_TRUE_LABEL, Absent
from cosup.losses.cross_entropy import CrossEntropy
from cosup.probabilities import ProbTable
from cosup.protocols import Lessons
from cosup.recipe import Recipe
from cosup.seeds import seed_for
from cosup.settings.assigners import ASSIGNERS
from cosup.sharded.counts import Counts
from cosup.sharded.deciding import DecideShard, RoundProducts, decide_shards, fit_assigner
from cosup.sharded.evidence import ShardLevel, ShardStream
from cosup.sharded.lesson import Lesson, ShardSamples, ShardStudent, State, Trained, predict_shards
from cosup.sharded.rounds import ShardTask, run_shard_rounds, samples_kept
from cosup.sharded.supervision import LabelShard, OwnShard
from cosup.sharded.work import Executor, FunctionWork, Work, in_order

__all__ = ["ShardControls"]


@dataclass(frozen=True)
class ShardControls:
    """A sharded run's task and student, as a control uses them (`cosup.controls.ControlContext`).

    name: of the control. listed: computes what needs listed samples alone. best_teacher: a level of
    the best single teacher alone. trained: the levels of the generalists that were trained for
    controls, by control.
    """

    name: str
    listed: ControlRun
    task: ShardTask
    recipe: Recipe
    student: ShardStudent
    seed: int
    executor: Executor
    best_teacher: ShardLevel
    trained: Mapping[str, ShardLevel] = field(default_factory=dict)

    @property
    def finest(self) -> ShardLevel:
        """Return the level of the last round."""
        return self.task.levels[-1]

    def generalists(self, control: str) -> ShardLevel:
        """Return the level of the generalists of this control."""
        if control not in self.trained:
            raise Absent(self.listed.reasons[control])
        return self.trained[control]

    @property
    def true_labels(self) -> str:
        """Return what is reported if no true label of student_train is known."""
        return NO_TRUE_LABEL

    @property
    def given_labels(self) -> str:
        """Return what is reported if no label of student_train is known."""
        return "no label of student_train is known"

    def with_team(self) -> ProbTable:
        """Return the test probabilities of student and team together."""
        return self.listed.with_team()

    def untrained(self) -> ProbTable:
        """Predict with the student as it starts."""
        return self.listed.untrained()

    def team(self) -> ProbTable:
        """Predict with the teachers of the last round, routed by its assigner."""
        return self.listed.team()

    def trained_on_teachers_labels(self) -> Lessons[ProbTable]:
        """Train the student on the labelled samples of teacher_train."""
        return self.listed.trained_on_teachers_labels()

    def trained_on(self, labels: str) -> ProbTable:
        """Train the student on the labels of student_train. labels: why there are none."""
        level = self.finest
        products = RoundProducts.of(f"control-{self.name}", level.samples.key)
        counts = self._counts(FunctionWork("labels", LabelShard(level.samples, products)))
        return self._trained(self._taught(level, products, counts, labels))

    def taught_by(self, level: ShardLevel, assigner: str) -> ProbTable:
        """Train the student on a level's annotations, all kept, as this assigner gives them."""
        return self._trained(self._annotated(level, assigner, 0))

    def rerun(self, assigner: str) -> ProbTable:
        """Repeat the run's rounds with another assigner."""
        return self._last_round(replace(self.recipe, assigner=self._assigner(assigner)))

    def without_filters(self) -> ProbTable:
        """Repeat the run's rounds without its filters."""
        if not self.recipe.filters.filters:
            raise Absent("the run has no filter")
        return self._last_round(replace(self.recipe, filters=Chain([], [])))

    def with_cross_entropy(self) -> ProbTable:
        """Repeat the run's rounds with cross-entropy as the loss."""
        objective = self.recipe.objective
        if isinstance(objective.loss, CrossEntropy):
            raise Absent("the loss of the run is cross-entropy")
        plain = replace(objective, loss=CrossEntropy())
        return self._last_round(replace(self.recipe, objective=plain))

    def self_trained(self) -> ProbTable:
        """Train the student on generalists, then on its own predictions, for as many rounds.

        It starts as in a run that lists its samples (`cosup.control_runs.ControlRun`).
        """
        level, assigner = self._first_teachers()
        *before, last = self._rounds()
        taught = self._annotated(level, assigner, self.task.folds if before else 0)
        start = None
        for number in before:
            lesson = self._lesson(number, taught, start)
            trained = self._fit(lesson)
            folds = 0 if number == before[-1] else self.task.folds  # nobody reads the last ones
            own = self._own(level, lesson, trained, folds)
            self._remove(lesson.samples.products)
            taught, start = own, trained.state
        trained = self._fit(self._lesson(last, taught, start))
        self._remove(taught.samples.products)
        return self.student.predict_test(trained)

    def _first_teachers(self) -> tuple[ShardLevel, str]:
        """Return the teachers that self-training starts from, and their assigner."""
        level = self.task.levels[0]
        whole = torch.nonzero(~level.scopes.restricted)[:, 0].tolist()
        if not whole:
            return self.best_teacher, "single"
        annotations = tuple(level.annotations[place] for place in whole)
        return replace(level, scopes=level.scopes.take(whole), annotations=annotations), "mean"

    def _annotated(self, level: ShardLevel, assigner: str, folds: int) -> "Taught":
        """Return a level's annotations, all kept, as an assigner gives them."""
        task, chosen, last = self.task, self._assigner(assigner), self._rounds()[-1]
        recipe = replace(self.recipe, assigner=chosen, filters=Chain([], []), refiner=None)
        stream, seed = ShardStream(level, task.firsts), seed_for(self.seed, "round", last)
        fit_assigner(chosen, stream, task.shards, seed, None, self.executor, task.fits)
        hard, labels = recipe.hard, task.labels
        about = repr((level.samples.key, level.annotations, chosen, hard, folds, labels))
        products = RoundProducts.of(f"control-{self.name}", about)
        decide = DecideShard(stream, recipe, last, False, products, folds, self.seed, labels=labels)
        _, counts = decide_shards(decide, task.shards, self.executor)
        nothing = f"{', '.join(level.scopes.names)}: no annotation of a sample"
        return self._taught(level, products, counts, nothing)

    def _own(self, level: ShardLevel, lesson: Lesson, trained: Trained, folds: int) -> "Taught":
        """Return the predictions of a student as what the next one is to learn."""
        task, hard = self.task, self.recipe.hard
        predictions = predict_shards(self.student, lesson, trained, self.executor)
        products = RoundProducts.of(lesson.name, repr((predictions, hard, folds, task.labels)))
        own = OwnShard(level.samples, predictions, products, folds, self.seed, hard, task.labels)
        counts = self._counts(FunctionWork("own predictions", own))
        level.samples.store.remove(predictions)
        return self._taught(level, products, counts, "there is no sample")

    def _counts(self, work: Work[Counts]) -> list[Counts]:
        """Do a work that writes what a student is to learn; return its counts of each shard."""
        shards = self.task.shards
        return list(in_order(self.executor.run(work, shards), shards))

    def _taught(
        self, level: ShardLevel, products: RoundProducts, counts: Sequence[Counts], nothing: str
    ) -> "Taught":
        """Return the samples of which a student is taught; raise `Absent` with this reason and
        remove the products if there are none. counts: as of `samples_kept`, and `samples`."""
        if not sum(int(one["kept"]) for one in counts):
            self._remove(products)
            raise Absent(nothing)
        samples = samples_kept(level, products, replace(self.task, labelled=None), counts)
        return Taught(samples, sum(int(one["samples"]) for one in counts))

    def _assigner(self, name: str) -> Assigner:
        assigner: Assigner = ASSIGNERS[name].load()()
        return assigner

    def _rounds(self) -> list[int]:
        return [number for number, _ in self.recipe.schedule(len(self.task.levels))]

    def _trained(self, taught: "Taught") -> ProbTable:
        """Train a student as often as the run's is trained, and predict the test samples.

        What it learned is removed.
        """
        numbers, start = self._rounds(), None
        for number in numbers[-1:] if self.recipe.fresh else numbers:
            trained = self._fit(self._lesson(number, taught, start))
            start = trained.state
        self._remove(taught.samples.products)
        return self.student.predict_test(trained)

    def _fit(self, lesson: Lesson) -> Trained:
        return self.student.fit(lesson, self.executor, None)

    def _lesson(self, number: int, taught: "Taught", start: State | None) -> Lesson:
        """Return the lesson of a round. start: the student of the round before, or None."""
        seed = seed_for(seed_for(self.seed, "round", number), "update")
        name, classes = f"control-{self.name}-{number}", self.finest.num_classes
        before = None if self.recipe.fresh else start
        objective = self.recipe.objective
        return Lesson(name, taught.samples, objective, classes, taught.total, seed, before)

    def _last_round(self, recipe: Recipe) -> ProbTable:
        prefix = f"control-{self.name}-"
        outcomes = run_shard_rounds(
            self.task, recipe, self.student, self.seed, self.executor, prefix=prefix
        )
        found = list(outcomes)
        for outcome in found:
            self._remove(outcome.products)
            self.finest.samples.store.remove(outcome.predictions)
        return found[-1].test_probs

    def _remove(self, products: RoundProducts) -> None:
        for product in vars(products).values():
            self.finest.samples.store.remove(product)


class Taught(NamedTuple):
    """What a student of a control learns. total: number of all samples, kept or not."""

    samples: ShardSamples
    total: int
