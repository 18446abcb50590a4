"""The controls of a sharded run as stages: recorded when finished, skipped when it is resumed."""

from collections.abc import Sequence
from dataclasses import replace

from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.control_stages import Controls, control_run, finish_each, left_out
from cosup.runs.sharded_check import shard_recipe
from cosup.runs.sharded_task import ShardWorld, shard_student
from cosup.runs.stages import StepLog
from cosup.runs.summary import Numbers
from cosup.sharded.controls import ShardControls
from cosup.sharded.rounds import ShardTask
from cosup.sharded.work import Executor

__all__ = ["finish_shard_controls", "of_listed"]


def of_listed(context: RunContext, task: ShardTask) -> RunContext:
    """Return the run with a student of listed samples: trained for the steps of that of shards, and
    without folds, as there are no samples of student_train to divide."""
    student = context.config.student
    steps = {"steps": student.training.total_steps(task.samples), "epochs": None}
    training = student.training.model_copy(update=steps)
    alone = student.model_copy(update={"training": training, "cross_fit": 0})
    return replace(context, config=context.config.model_copy(update={"student": alone}))


def finish_shard_controls(
    context: RunContext,
    prepared: Prepared,
    world: ShardWorld,
    executor: Executor,
    team: Numbers,
    known: bool,
) -> Controls:
    """Run the controls that are not finished, one after another.

    team: what `finish_team` returned. known: whether any sample of the shards has a label.
    """
    task = world.task
    listed = control_run(of_listed(context, task), prepared, StepLog(None), team)

    def control(names: Sequence[str]) -> ShardControls:
        (name,) = names
        return ShardControls(
            name,
            listed,
            task,
            shard_recipe(context.config),
            shard_student(context, prepared),
            context.seed,
            executor,
            world.best_teacher,
            world.trained,
        )

    expected = left_out(context.config, prepared.data, known)
    return finish_each(context, prepared, expected, control, 1)
