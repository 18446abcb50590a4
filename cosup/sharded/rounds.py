"""The rounds of a sharded run: those of `cosup.rounds`, shard by shard.

A round fits the assigner to evidence that is read from the store, decides on each shard, fits the
student's head to what is kept, and predicts each shard for the next round. The memory of the
process that drives it does not grow with the number of samples. What is in the store already is not
computed again, so a round that was interrupted goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.consistency.base import ABSTAINED, Chain, KeptCounts, check_counts
from cosup.errors import Mistakes, UserError
from cosup.losses.features import FeatureLoss
from cosup.models.watch import OnStep
from cosup.models.weights import hash_tensors
from cosup.probabilities import ProbTable
from cosup.seeds import seed_for
from cosup.settings import registered_name
from cosup.settings.assigners import ASSIGNERS
from cosup.settings.losses import LOSSES
from cosup.sharded.deciding import (
    Counts,
    DecideShard,
    RoundProducts,
    decide_shards,
    fit_assigner,
)
from cosup.sharded.evidence import ShardLevel, ShardStream
from cosup.sharded.lesson import Lesson, ShardSamples, ShardStudent, State
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.work import Executor

__all__ = ["ShardOutcome", "ShardRecipe", "ShardState", "ShardTask", "run_shard_rounds"]

PREDICTIONS = "predictions"


@dataclass(frozen=True)
class ShardTask:
    """The samples of a sharded run. provenance: of each level, as in `cosup.levels.Level`."""

    levels: tuple[ShardLevel, ...]
    shards: tuple[Shard, ...]
    provenance: tuple[tuple[Tensor, Tensor] | None, ...]

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
class ShardRecipe:
    """How rounds are run; the fields are those of `cosup.rounds.Recipe`.

    schedule: (round, level) of every round.
    """

    assigner: Assigner
    student: ShardStudent
    filters: Chain
    schedule: tuple[tuple[int, int], ...]
    hard: bool = False
    fresh: bool = True
    min_kept: float = 0.2

    def check(self) -> None:
        """Raise `UserError` for what cannot be done shard by shard."""
        mistakes = Mistakes()
        mistakes.add(self._problems())
        mistakes.raise_all()

    def _problems(self) -> Iterator[UserError]:
        if self.assigner.fuses:
            yield UserError(
                "cannot be {value} with data.sharded, as it holds answers of all samples",
                key="rounds.assignment",
                value=registered_name(ASSIGNERS, self.assigner),
                allowed="dawid_skene, gate, agreement and others that do not fuse sources",
            )
        loss = self.student.objective.loss
        if isinstance(loss, FeatureLoss):
            yield UserError(
                "cannot be {value} with data.sharded, where no teacher runs beside the student",
                key="rounds.loss",
                value=registered_name(LOSSES, loss),
                allowed="a loss on probabilities",
            )
        for name, each in zip(self.filters.names, self.filters.filters, strict=True):
            if each.needs_all or "labels" in each.needs:
                yield UserError(
                    "cannot have the filter {value} as it is set with data.sharded, where each "
                    "sample is judged alone and without its label",
                    key="rounds.consistency",
                    value=name,
                    allowed="teacher_student with mode: mask, confidence without keep_share, "
                    "local_global against: coarser, unanimity",
                )


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


@dataclass(frozen=True)
class ShardOutcome:
    """A finished round. counts: of its decisions. predictions: of the samples, for the next round.
    test_probs: of the test split. student: its tensors."""

    number: int
    level: int
    counts: Counts
    kept: KeptCounts
    products: RoundProducts
    predictions: Product
    test_probs: ProbTable
    student: State
    assigner: dict[str, Tensor]


def run_shard_rounds(
    task: ShardTask,
    recipe: ShardRecipe,
    seed: int,
    executor: Executor,
    state: ShardState | None = None,
    on_step: Callable[[int], OnStep] | None = None,
) -> Iterator[ShardOutcome]:
    """Run every round after those of `state`.

    on_step: makes what is called after the steps of a round's student. Raises `UserError` as
    `ShardRecipe.check`, and `RunError` if the filters keep nothing or the loss is not finite.
    """
    recipe.check()
    state = ShardState() if state is None else state
    for number, index in recipe.schedule[state.finished :]:
        state = state.at(index)
        report = None if on_step is None else on_step(number)
        outcome = _run_round(task, recipe, state, number, seed, executor, report)
        yield outcome
        state = replace(
            state, finished=number, student=outcome.predictions, tensors=outcome.student
        )


def _run_round(
    task: ShardTask,
    recipe: ShardRecipe,
    state: ShardState,
    number: int,
    seed: int,
    executor: Executor,
    on_step: OnStep | None,
) -> ShardOutcome:
    level, seed = task.levels[state.level], seed_for(seed, "round", number)
    stream = ShardStream(level, task.firsts, state.student, state.coarse)
    assigner = recipe.assigner
    fit_assigner(assigner, stream, task.shards, seed, task.provenance[state.level], executor)
    about = _about(stream, recipe, assigner)
    products = RoundProducts.of(number, about)
    decide = DecideShard(stream, assigner, recipe.filters, number, recipe.hard, products)
    counts, kept = decide_shards(decide, task.shards, executor)
    found = kept_counts(counts, recipe.filters)
    check_counts(found, recipe.min_kept)

    store, student = level.samples.store, recipe.student
    samples = ShardSamples(level.samples, level.features, products, task.shards, kept)
    lesson = Lesson(
        f"round-{number}",
        samples,
        level.num_classes,
        int(counts["samples"]),
        seed_for(seed, "update"),
        None if recipe.fresh else state.tensors,
    )
    tensors = student.fit(lesson, executor, on_step)
    predictions = Product.of(PREDICTIONS, f"round-{number}", about, hash_tensors(dict(tensors)))
    if number < len(recipe.schedule):  # nobody reads those of the last round
        work = student.predicting(lesson, tensors, predictions)
        for _ in executor.run(work, store.missing(predictions, task.shards)):
            pass
    return ShardOutcome(
        number,
        level.index,
        counts,
        found,
        products,
        predictions,
        student.predict_test(tensors),
        tensors,
        assigner.state_dict(),
    )


def kept_counts(counts: Counts, chain: Chain) -> KeptCounts:
    """Return the numbers of all samples that the filters of a chain keep."""
    reasons = (*chain.names, ABSTAINED)
    return KeptCounts(
        int(counts["samples"]),
        int(counts["kept"]),
        dict(zip(reasons, counts["rejected"].tolist(), strict=True)),
        dict(zip(chain.names, counts["kept_alone"].tolist(), strict=True)),
        chain.settings,
    )


def _about(stream: ShardStream, recipe: ShardRecipe, assigner: Assigner) -> str:
    """Return a text of all that the decisions of a round depend on."""
    level = stream.level
    chain = recipe.filters
    products: Sequence[Product | None] = (
        *level.annotations,
        level.features,
        stream.student,
        stream.coarse,
    )
    return repr(
        (
            level.samples.key,
            level.scopes.names,
            products,
            assigner,
            hash_tensors(assigner.state_dict()),
            chain.names,
            chain.filters,
            recipe.hard,
        )
    )
