"""Choose the weight of labelled samples (`rounds.labelled_weight: auto`) of a sharded run."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cosup.runs.assemble import Prepared
from cosup.runs.choose_weight import WEIGHTS, weight_by, with_weight
from cosup.runs.context import RunContext
from cosup.runs.sharded_check import shard_recipe
from cosup.runs.sharded_task import shard_student
from cosup.sharded.head import predict_labelled
from cosup.sharded.rounds import ShardTask, run_shard_rounds
from cosup.sharded.work import Executor

__all__ = ["choose_shard_weight"]


def choose_shard_weight(
    context: RunContext, prepared: Prepared, task: ShardTask, executor: Executor
) -> tuple[RunContext, dict[str, Any] | None]:
    """Choose as `choose_weight`, with the rounds of one weight after another."""

    def right_of_each() -> Tensor:
        return torch.stack([_right(context, prepared, task, executor, one) for one in WEIGHTS])

    return weight_by(context, right_of_each)


def _right(
    context: RunContext, prepared: Prepared, task: ShardTask, executor: Executor, weight: float
) -> Tensor:
    """Run the rounds with a weight; return [M] float64: 1 where the last student predicts the label
    of a sample that it was not fitted to. What is written of shards is removed."""
    labelled = task.labelled
    assert labelled is not None, "labels are taught"
    weighed = replace(context, config=with_weight(context.config, weight))
    outcomes = list(
        run_shard_rounds(
            task,
            shard_recipe(weighed.config),
            shard_student(weighed, prepared),
            context.seed,
            executor,
            prefix=f"weight-{weight:g}-",
            fold_last=True,
        )
    )
    probs = predict_labelled(outcomes[-1].folds, labelled)
    store = task.levels[0].samples.store
    for outcome in outcomes:
        for product in outcome.written:
            store.remove(product)
    return (probs.top()[0] == labelled.labels).double()
