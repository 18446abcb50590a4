"""Choose the constant of a loss (`weight: best_constant`) of a sharded run."""

from dataclasses import replace
from typing import Any

from cosup.probabilities import ProbTable
from cosup.runs.assemble import Prepared
from cosup.runs.choose_loss import loss_by
from cosup.runs.context import RunContext
from cosup.runs.sharded_check import shard_recipe
from cosup.runs.sharded_task import shard_student
from cosup.sharded.head import ShardHead
from cosup.sharded.lesson import ShardStudent
from cosup.sharded.network import ShardNetwork
from cosup.sharded.rounds import ShardTask, run_shard_rounds
from cosup.sharded.work import Executor

__all__ = ["choose_shard_loss"]


def choose_shard_loss(
    context: RunContext, prepared: Prepared, task: ShardTask, executor: Executor
) -> tuple[RunContext, dict[str, Any] | None]:
    """Choose as `choose_loss`. What the rounds of a constant write of shards is removed."""

    def predict(tried: RunContext, value: float) -> ProbTable:
        recipe, student = shard_recipe(tried.config), _measured(tried, prepared)
        prefix = f"constant-{value:g}-"
        outcomes = list(
            run_shard_rounds(task, recipe, student, tried.seed, executor, prefix=prefix)
        )
        store = task.levels[0].samples.store
        for outcome in outcomes:
            for product in outcome.written:
                store.remove(product)
        return outcomes[-1].test_probs

    return loss_by(context, prepared, predict)


def _measured(context: RunContext, prepared: Prepared) -> ShardStudent:
    """Return the student, measured on validation."""
    student, validation = shard_student(context, prepared), prepared.inputs.validation
    assert isinstance(student, ShardHead | ShardNetwork)
    assert validation is not None, "a sharded run has a validation split"
    return replace(student, test=validation.inputs)
