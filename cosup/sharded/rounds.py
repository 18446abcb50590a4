"""The rounds of a sharded run: those of `cosup.rounds`, shard by shard.

A round fits the assigner to evidence that is read from the store, decides on each shard, fits the
student's head to what is kept, and predicts each shard for the next round. The memory of the
process that drives it does not grow with the number of samples. What is in the store already is not
computed again, so a round that was interrupted goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cosup.consistency.base import KeptCounts, check_counts
from cosup.errors import RunError
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.recipe import Recipe
from cosup.seeds import seed_for
from cosup.sharded.confirming import confirming_filters
from cosup.sharded.counts import Counts, kept_counts
from cosup.sharded.deciding import (
    DecideShard,
    RoundProducts,
    about_decisions,
    decide_shards,
    fit_assigner,
)
from cosup.sharded.evidence import ShardLevel, ShardStream
from cosup.sharded.fits import Fits
from cosup.sharded.lesson import (
    LabelledRows,
    Lesson,
    ShardSamples,
    ShardStudent,
    State,
    Subsets,
    Trained,
    predict_shards,
    predictions_of,
)
from cosup.sharded.local_students import LocalStudents
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.supported import check_recipe
from cosup.sharded.work import Executor

__all__ = [
    "ShardOutcome",
    "ShardState",
    "ShardTask",
    "first_state",
    "run_shard_rounds",
    "samples_kept",
]


@dataclass(frozen=True)
class ShardTask:
    """The samples of a sharded run.

    provenance: of each level, as in `cosup.levels.Level`. folds: into which samples are divided, so
    that each is predicted by a student that was not trained on it; 0 does not. labelled: samples
    that are learned beside them, with their folds; None without any. labels: whether the labels of
    the samples are learned beside their annotations. guide: predictions of the untrained student,
    for a recipe whose first round they guide. fits: what recipes, rounds and controls fit alike.
    """

    levels: tuple[ShardLevel, ...]
    shards: tuple[Shard, ...]
    provenance: tuple[tuple[Tensor, Tensor] | None, ...]
    folds: int = 0
    labelled: LabelledRows | None = None
    labels: bool = False
    guide: Product | None = None
    fits: Fits = field(default_factory=Fits, repr=False, compare=False)

    @property
    def samples(self) -> int:
        """N, with broken images."""
        return sum(shard.samples for shard in self.shards)

    @property
    def firsts(self) -> tuple[int, ...]:
        """The position of the first sample of each shard among all samples."""
        found, total = [], 0
        for shard in self.shards:
            found.append(total)
            total += shard.samples
        return tuple(found)


@dataclass(frozen=True)
class ShardState:
    """What the finished rounds leave to the next one; as `cosup.rounds.RoundState`.

    student, coarse: products of the students' predictions. tensors: of the latest student.
    """

    finished: int = 0
    level: int = 0
    student: Product | None = None
    coarse: Product | None = None
    tensors: State | None = None

    def at(self, level: int) -> "ShardState":
        """Return the state at the start of a round of this level."""
        return self if level == self.level else replace(self, level=level, coarse=self.student)


def first_state(task: ShardTask, recipe: Recipe) -> ShardState:
    """Return the state before the first round."""
    assert task.guide is not None or not recipe.student_first
    return ShardState(student=task.guide if recipe.student_first else None)


@dataclass(frozen=True)
class ShardOutcome:
    """A finished round. counts: of its decisions. predictions: of the samples, for the next round.
    test_probs: of the test samples. student: its tensors. folds: those of each fold's student.
    neighbours: of samples, which other rounds read too. guide: predictions of the student before
    its update, if any. cross_fitted: whether each sample is predicted by a student that was not
    trained on it."""

    number: int
    level: int
    counts: Counts
    kept: KeptCounts
    products: RoundProducts
    predictions: Product
    test_probs: ProbTable
    student: State
    assigner: dict[str, Tensor]
    folds: tuple[State, ...] = ()
    neighbours: tuple[Product, ...] = ()
    guide: Product | None = None
    cross_fitted: bool = False

    @property
    def written(self) -> tuple[Product, ...]:
        """Return what the round has written of shards for itself alone."""
        return *vars(self.products).values(), self.predictions


def run_shard_rounds(
    task: ShardTask,
    recipe: Recipe,
    student: ShardStudent,
    seed: int,
    executor: Executor,
    state: ShardState | None = None,
    on_step: Callable[[int], OnStep] | None = None,
    prefix: str = "",
    *,
    fold_last: bool = False,
    label_folds: int | None = None,
    needed: bool = False,
) -> Iterator[ShardOutcome]:
    """Run every round after those of `state`.

    student: learns instead of that of the recipe. on_step: makes what is called after the steps of
    a round's student. prefix: of the names of what is written. fold_last: cross-fit the last
    student too, whose predictions no round reads. label_folds: predict the samples after the last
    round too, by students that are trained once more in so many folds for this alone (0: by the
    last student); None: nobody reads these predictions. needed: leave out the rounds on which the
    last one does not depend (`Recipe.needed`). Raises `UserError` as `check_recipe`, and `RunError`
    if the filters keep nothing or the loss is not finite.
    """
    check_recipe(recipe)
    state = first_state(task, recipe) if state is None else state
    run = _Rounds(task, recipe, student, seed, executor, prefix, fold_last, label_folds)
    for number, index in (recipe.needed if needed else recipe.schedule)(len(task.levels)):
        if number <= state.finished:
            continue
        state = state.at(index)
        outcome = run.round(number, state, None if on_step is None else on_step(number))
        yield outcome
        state = replace(
            state, finished=number, student=outcome.predictions, tensors=outcome.student
        )


@dataclass(frozen=True)
class _Rounds:
    """The rounds of a task; the fields are the arguments of `run_shard_rounds`."""

    task: ShardTask
    recipe: Recipe
    student: ShardStudent
    seed: int
    executor: Executor
    prefix: str
    fold_last: bool
    label_folds: int | None

    def round(self, number: int, state: ShardState, on_step: OnStep | None) -> ShardOutcome:
        """Decide on all shards, train the student, and predict the shards."""
        task, recipe, student = self.task, self.recipe, self.student
        level, seed = task.levels[state.level], seed_for(self.seed, "round", number)
        is_last = number == len(recipe.schedule(len(task.levels)))
        folds = 0 if is_last and not self.fold_last else task.folds
        for_labels = self.label_folds if is_last else None
        decide = self._deciding(number, state, folds or for_labels or 0)
        local = self._local_students(decide, state)
        counts, kept = decide_shards(decide, task.shards, self.executor, local)
        if local is not None:
            local.remove()
        found = kept_counts(counts, recipe.filters)
        check_counts(found, recipe.min_kept)
        samples = samples_kept(level, decide.products, task, kept, cross_fit=folds > 0)
        lesson = Lesson(
            f"{self.prefix}round-{number}",
            samples,
            recipe.objective,
            level.num_classes,
            int(counts["samples"]) + len(samples) - sum(samples.kept),
            seed_for(seed, "update"),
            None if recipe.fresh else state.tensors,
        )
        trained = student.fit(lesson, self.executor, on_step)
        product, cross_fitted = self._predict(lesson, trained, kept, is_last)
        return ShardOutcome(
            number,
            level.index,
            counts,
            found,
            decide.products,
            product,
            student.predict_test(trained),
            trained.state,
            recipe.assigner.state_dict(),
            trained.folds,
            tuple(one.found for one in confirming_filters(decide.stream, recipe.filters).values()),
            state.student,
            cross_fitted,
        )

    def _predict(
        self, lesson: Lesson, trained: Trained, kept: Sequence[Counts], is_last: bool
    ) -> tuple[Product, bool]:
        """Predict the shards, unless nobody reads it: after the last round, if there are no labels.

        Returns the product, and whether no sample is predicted by a student trained on it.
        """
        if is_last and self.label_folds is None:
            return predictions_of(lesson, trained), bool(trained.folds)
        if is_last and not trained.folds:
            lesson, trained = self._cross_fit(lesson, kept) or (lesson, trained)
        product = predict_shards(self.student, lesson, trained, self.executor)
        return product, bool(trained.folds)

    def _cross_fit(self, lesson: Lesson, kept: Sequence[Counts]) -> tuple[Lesson, Trained] | None:
        """Train the student of a round once more, in folds, as `cosup.rounds.cross_fit`.

        kept: of each shard. None without folds, or where all kept samples are in one.
        """
        samples = in_folds(lesson.samples, kept)
        if samples is None or not samples.folds:
            return None
        again = replace(
            lesson,
            name=f"{lesson.name}-labels",
            samples=samples,
            seed=seed_for(self.seed, "labels"),
            start=None,
        )
        return again, self.student.fit(again, self.executor, None)

    def _deciding(self, number: int, state: ShardState, folds: int) -> DecideShard:
        """Fit the assigner; return what decides on a shard."""
        task, recipe = self.task, self.recipe
        stream = ShardStream(task.levels[state.level], task.firsts, state.student, state.coarse)
        seed, known = seed_for(self.seed, "round", number), task.provenance[state.level]
        fit_assigner(recipe.assigner, stream, task.shards, seed, known, self.executor, task.fits)
        refines = recipe.refines(number, len(task.levels))
        about = about_decisions(stream, recipe, refines, (folds, self.seed) if folds else None)
        learned = ["labels"] if task.labels else []
        if refines and recipe.refiner is not None and recipe.refiner.neighbours:
            learned.append(f"references drawn by {self.seed}")
        if _trains(recipe):
            learned.append(repr((recipe.objective, self.student.training, self.seed)))
        products = RoundProducts.of(f"{self.prefix}round-{number}", about, *learned)
        return DecideShard(
            stream, recipe, number, refines, products, folds, self.seed, labels=task.labels
        )

    def _local_students(self, decide: DecideShard, state: ShardState) -> LocalStudents | None:
        """Return what trains the students that a filter compares, if any does."""
        if not _trains(self.recipe):
            return None
        return LocalStudents(
            decide.products.counts.name,
            decide.products.counts.key,
            decide.stream.level,
            self.task.shards,
            self.student,
            seed_for(self.seed, "round", decide.number),
            None if self.recipe.fresh else state.tensors,
            self.executor,
        )


def _trains(recipe: Recipe) -> bool:
    return any(each.trains_students for each in recipe.filters.filters)


def samples_kept(
    level: ShardLevel,
    products: RoundProducts,
    task: ShardTask,
    kept: Sequence[Counts],
    *,
    cross_fit: bool = True,
) -> ShardSamples:
    """Return the samples of shards that are kept, and the labelled ones of the task.

    kept: `kept` and `kept_by_fold` of each shard. cross_fit: whether the folds are to be learned
    too. Raises `RunError` if all of them are in one fold, whose student has then no sample.
    """
    whole = tuple(int(counts["kept"]) for counts in kept)
    samples = ShardSamples(
        level.samples, level.features, products, task.shards, whole, labelled=task.labelled
    )
    if not cross_fit:
        return samples
    found = in_folds(samples, kept)
    if found is None:
        folds = len(kept[0]["kept_by_fold"])
        raise RunError(
            f"all samples that are kept ({sum(whole)}) are in one of {folds} folds "
            "(student.cross_fit): no other is left to train on"
        )
    return found


def in_folds(samples: ShardSamples, kept: Sequence[Counts]) -> ShardSamples | None:
    """Return the samples with those outside each fold as subsets, if there are folds.

    kept: as of `samples_kept`. None if all of them are in one fold.
    """
    by_fold = torch.stack([counts["kept_by_fold"].long() for counts in kept])
    folds = by_fold.shape[1]
    if not folds:
        return samples
    if int(by_fold.sum(0).max()) == sum(samples.kept):
        return None
    return replace(
        samples,
        kept_by_fold=tuple(map(tuple, by_fold.tolist())),
        subsets=Subsets.outside(folds),
    )
