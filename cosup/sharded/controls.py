"""The controls of a sharded run (`cosup.controls`): its own student, with a simpler supervision.

As in `cosup.control_runs`, a student is trained with the objective, the start and the number of
optimiser steps of the run's. What needs listed samples alone (the team, the labels of the teachers)
is computed there. What a control writes of shards is removed when it is finished.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from cosup.assignment.base import Assigner
from cosup.consistency import Chain
from cosup.control_runs import ControlRun
from cosup.controls import NO_TRUE_LABEL, Absent
from cosup.losses.cross_entropy import CrossEntropy
from cosup.probabilities import ProbTable
from cosup.protocols import Lessons
from cosup.rounds import Recipe
from cosup.seeds import seed_for
from cosup.settings.assigners import ASSIGNERS
from cosup.sharded.deciding import Counts, DecideShard, RoundProducts, decide_shards, fit_assigner
from cosup.sharded.evidence import ShardLevel, ShardStream
from cosup.sharded.lesson import Lesson, ShardSamples, ShardStudent
from cosup.sharded.rounds import ShardTask, run_shard_rounds, samples_kept
from cosup.sharded.shards import Shard
from cosup.sharded.store import FOLD, LABEL, WEIGHT
from cosup.sharded.work import Executor, FunctionWork, Samples

__all__ = ["SELF_TRAINING", "LabelShard", "ShardControls"]

SELF_TRAINING = "self-training is not done shard by shard (data.sharded)"
"""Why there is no such control."""


@dataclass(frozen=True)
class LabelShard:
    """Writes the labels of a shard's samples as what a student is to learn."""

    samples: Samples
    products: RoundProducts

    def __call__(self, shard: Shard) -> Counts:
        """Return how many samples there are, and how many have a label."""
        data, store = self.samples.read(shard), self.samples.store
        labels = data.given(np.arange(len(data)))
        targets = ProbTable.one_hot(labels, len(data.classes))
        store.write_probs(self.products.targets, shard.number, targets)
        folds = torch.zeros(len(labels), dtype=torch.uint8)
        marks = {WEIGHT: (labels >= 0).float(), FOLD: folds, LABEL: labels}
        store.write(self.products.weights, shard.number, marks)
        none = torch.zeros(0, dtype=torch.int64)
        kept = (labels >= 0).sum()
        return {"samples": torch.tensor(len(labels)), "kept": kept, "kept_by_fold": none}


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
        """Return what is told if no true label of student_train is known."""
        return NO_TRUE_LABEL

    @property
    def given_labels(self) -> str:
        """Return what is told if no label of student_train is known."""
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
        task, level = self.task, self.finest
        products = RoundProducts.of(f"control-{self.name}", level.samples.key)
        with self._removed(products):
            work = FunctionWork("labels", LabelShard(level.samples, products))
            made = dict(self.executor.run(work, task.shards))
            counts = [made[shard.number] for shard in task.shards]
            if not sum(int(one["kept"]) for one in counts):
                raise Absent(labels)
            samples = samples_kept(level, products, replace(task, labelled=None), counts)
            return self._trained(samples, sum(int(one["samples"]) for one in counts))

    def taught_by(self, level: ShardLevel, assigner: str) -> ProbTable:
        """Train the student on a level's annotations, all kept, as this assigner gives them."""
        task, chosen = self.task, self._assigner(assigner)
        recipe = replace(self.recipe, assigner=chosen, filters=Chain([], []), refiner=None)
        stream = ShardStream(level, task.firsts)
        last = self._rounds()[-1]
        seed = seed_for(self.seed, "round", last)
        fit_assigner(chosen, stream, task.shards, seed, None, self.executor)
        about = repr((level.samples.key, level.annotations, chosen, recipe.hard, task.labels))
        products = RoundProducts.of(f"control-{self.name}", about)
        with self._removed(products):
            decide = DecideShard(
                stream, recipe, last, False, products, 0, self.seed, labels=task.labels
            )
            counts, kept = decide_shards(decide, task.shards, self.executor)
            if not int(counts["kept"]):
                raise Absent(f"{', '.join(level.scopes.names)}: no annotation of a sample")
            samples = samples_kept(level, products, replace(task, labelled=None), kept)
            return self._trained(samples, int(counts["samples"]))

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
        """Raise `Absent`: predictions of shards are not learned from."""
        raise Absent(SELF_TRAINING)

    def _assigner(self, name: str) -> Assigner:
        assigner: Assigner = ASSIGNERS[name].load()()
        return assigner

    def _rounds(self) -> list[int]:
        return [number for number, _ in self.recipe.schedule(len(self.task.levels))]

    def _trained(self, samples: ShardSamples, total: int) -> ProbTable:
        """Train a student as often as the run's is trained, and predict the test samples."""
        numbers, recipe, start = self._rounds(), self.recipe, None
        for number in numbers[-1:] if recipe.fresh else numbers:
            seed = seed_for(seed_for(self.seed, "round", number), "update")
            name = f"control-{self.name}-{number}"
            classes = self.finest.num_classes
            lesson = Lesson(name, samples, recipe.objective, classes, total, seed, start)
            trained = self.student.fit(lesson, self.executor, None)
            start = trained.state
        return self.student.predict_test(trained)

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

    @contextmanager
    def _removed(self, products: RoundProducts) -> Iterator[None]:
        """Remove the products at the end, unless it is interrupted."""
        try:
            yield
        except Absent:
            self._remove(products)
            raise
        self._remove(products)

    def _remove(self, products: RoundProducts) -> None:
        for product in vars(products).values():
            self.finest.samples.store.remove(product)
