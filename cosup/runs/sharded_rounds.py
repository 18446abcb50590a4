"""The rounds of a sharded run as stages: recorded when finished, skipped when it is resumed."""

import time
from collections.abc import Sequence

from cosup.analysis.decisions import refinement_shares
from cosup.config.schema import Config
from cosup.models.watch import OnStep
from cosup.runs.assemble import Prepared
from cosup.runs.bars import Pace
from cosup.runs.context import RunContext
from cosup.runs.directory import RunDirectory
from cosup.runs.sharded_check import shard_recipe
from cosup.runs.sharded_index import NEIGHBOURS, round_products
from cosup.runs.sharded_task import shard_label_folds, shard_student
from cosup.runs.stages import StepLog, log_round
from cosup.runs.summary import Numbers
from cosup.sharded.rounds import (
    ShardOutcome,
    ShardState,
    ShardTask,
    first_state,
    run_shard_rounds,
)
from cosup.sharded.store import Product
from cosup.sharded.sums import sum_round
from cosup.sharded.work import Executor

__all__ = ["finish_shard_rounds"]


def finish_shard_rounds(
    context: RunContext, prepared: Prepared, task: ShardTask, executor: Executor
) -> list[Numbers]:
    """Run the rounds that are not finished. Return the numbers of every round, in order."""
    config, run = context.config, context.run
    recipe, student = shard_recipe(config), shard_student(context, prepared)
    schedule = recipe.schedule(len(task.levels))
    steps = config.student.training.total_steps(task.samples)

    def on_step(number: int) -> OnStep:
        return StepLog(
            context.recorder,
            f"student/round_{number}",
            Pace(f"round {number}, student", steps),
        )

    state = _finished(run, schedule, task, first_state(task, recipe))
    outcomes = run_shard_rounds(
        task,
        recipe,
        student,
        context.seed,
        executor,
        state,
        on_step,
        label_folds=shard_label_folds(config),
    )
    started = time.monotonic()
    for outcome in outcomes:
        test, shifted = prepared.by_set(outcome.test_probs)
        numbers = _round_numbers(config, prepared.test.split.accuracy(test), task, outcome)
        files = run.files.round(outcome.number)
        files.student.write(dict(outcome.student))
        files.test.write(test)
        for name, probs in shifted.items():
            run.files.shifted(name).round(outcome.number).write(probs)
        if outcome.assigner:
            files.assigner.write(outcome.assigner)
        _write_sums(context, task, outcome, executor)
        log_round(numbers, context.recorder)
        run.finish(f"round-{outcome.number}", {**numbers, "seconds": time.monotonic() - started})
        context.discard_training_states()
        started = time.monotonic()
    return [run.load(f"round-{number}") for number, _ in schedule]


def _write_sums(
    context: RunContext, task: ShardTask, outcome: ShardOutcome, executor: Executor
) -> None:
    """Write the sums over the decisions and annotations of a round, for the report."""
    number, run = outcome.number, context.run
    before = None
    if number > 1:
        before = Product(**run.load(f"round-{number - 1}")["products"]["decisions"])
    sums = sum_round(task, outcome, before, executor)
    files = run.files.round(number)
    files.decision_sums.write(sums.decisions)
    files.answer_sums.write(sums.answers)
    context.recorder.assignment(sums.decisions, number)


def _finished(
    run: RunDirectory, schedule: Sequence[tuple[int, int]], task: ShardTask, state: ShardState
) -> ShardState:
    """Return the state that the finished rounds left, until one of which a file of a shard is
    gone. state: before the first round."""
    store = task.levels[0].samples.store
    for number, level in schedule:
        if not run.is_done(f"round-{number}"):
            break
        found, before = run.load(f"round-{number}"), state.at(level)
        written = round_products(found["products"])
        if any(store.missing(product, task.shards) for product in written):
            break
        tensors = run.files.round(number).student.read()
        student = Product(**found["products"]["predictions"])
        state = ShardState(number, level, student, before.coarse, tensors)
    return state


def _round_numbers(
    config: Config, accuracy: float | None, task: ShardTask, outcome: ShardOutcome
) -> Numbers:
    """Return what the summary tells of a round; sums over shards. None: not measured. accuracy: of
    the student on the test split."""
    counts, kept, names = outcome.counts, outcome.kept, task.levels[outcome.level].scopes.names
    samples, known = int(counts["samples"]), int(counts["known"])

    def share(part: str, of: str) -> float | None:
        return float(counts[part]) / float(counts[of]) if known and float(counts[of]) else None

    products = {"decisions": outcome.products.decisions, "predictions": outcome.predictions}
    for place, product in enumerate(outcome.neighbours):
        products[f"{NEIGHBOURS}_{place}"] = product
    return {
        "round": outcome.number,
        "level": outcome.level,
        "teachers": list(names),
        "assigner": config.rounds.assignment.name,
        "assignment_accuracy": share("in_scope", "on_specialists"),
        "annotation_accuracy": share("correct", "known"),
        "best_choice": share("best", "known"),
        "kept": kept.count / samples,
        "kept_precision": share("kept_correct", "kept_known"),
        "kept_recall": share("kept_correct", "correct"),
        **refinement_shares(counts),
        "rejected": {name: count for name, count in kept.rejected.items() if count},
        "student_accuracy": accuracy,
        "judge": None,
        "samples": samples,
        "assigned": dict(zip(names, counts["assigned"].tolist(), strict=True)),
        "assigned_kept": dict(zip(names, counts["assigned_kept"].tolist(), strict=True)),
        "confidence": counts["confidence"].tolist(),
        "cross_fitted": outcome.cross_fitted or config.student.training.steps == 0,
        "products": {name: vars(product) for name, product in products.items()},
    }
