"""Run an experiment whose unlabelled samples are worked on shard by shard (`data.sharded`).

The labelled splits and shifted test sets are listed, and teachers are trained and measured on them
as in any run. What is computed of student_train is in the folder `shards` of the run, a Parquet
file per shard: annotations, features, of each round decisions, targets and predictions, and the
final labels. A resumed run computes what is not there.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cosup.config.schema import Config
from cosup.errors import UserError
from cosup.layout import Layout
from cosup.runs.announce import announce_in_log
from cosup.runs.assemble import Prepared
from cosup.runs.backend import Backend, Local
from cosup.runs.check import check_known
from cosup.runs.check_softening import check_rounds_soften
from cosup.runs.context import RunContext
from cosup.runs.control_stages import Controls
from cosup.runs.directory import RunDirectory
from cosup.runs.environment import describe_environment
from cosup.runs.losses import take_over
from cosup.runs.pipeline import computed_on, finish, summarise
from cosup.runs.prepare import make_compute, prepare_listed
from cosup.runs.recorder import open_recorder
from cosup.runs.records import write_samples
from cosup.runs.sharded_check import check_sharded
from cosup.runs.sharded_choose import check_comparable, choose_shard_recipe
from cosup.runs.sharded_controls import finish_shard_controls, of_listed
from cosup.runs.sharded_index import remove_damaged, write_index
from cosup.runs.sharded_labels import finish_shard_labels, pictured
from cosup.runs.sharded_loss import choose_shard_loss
from cosup.runs.sharded_rounds import finish_shard_rounds
from cosup.runs.sharded_samples import open_samples, plan_teachers
from cosup.runs.sharded_task import ShardWorld, shard_world
from cosup.runs.sharded_weight import choose_shard_weight
from cosup.runs.summary import Numbers
from cosup.runs.team import finish_team
from cosup.sharded.shards import Shards
from cosup.sharded.work import Executor

log = logging.getLogger(__name__)

MEASURED = {"validation": "choose the best teacher", "test": "measure the student"}
"""Splits that a sharded run must have, and why."""


def run_sharded(
    config: Config,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    shared: Path | None = None,
    backend: Backend | None = None,
    others: Sequence[Path] = (),
) -> dict[str, Any]:
    """Run a config shard by shard. Return the content of `summary.json`; raise as `run_one`.

    shared: as in `run_one`; annotations and features of shards are taken over from it too. backend:
    what computes; this process by default. others: directories of runs with other seeds, from which
    features of shards and checks of their images are taken over.
    """
    with (
        RunDirectory.open(directory, config, resume=resume, overwrite=overwrite) as run,
        open_recorder(run.path, config.run.loggers) as recorder,
    ):
        context = RunContext(config, run, recorder, Local() if backend is None else backend)
        if run.resumed:
            remove_damaged(run, context.backend.place_of(run.files.shards))
        if run.is_done("summary"):
            log.info("%s is finished already", run.path)
            return run.load("summary")
        check_sharded(config)
        if shared is not None and Layout(shared).stage("summary").exists():
            take_over(shared, run)
            others = (shared, *others)
        announce_in_log(config, run.path)
        environment = describe_environment(config)
        run.files.environment.write(environment)
        prepared, shards, world = _prepare(context, others)
        write_samples(context, prepared, shards)
        executor = context.backend.executor(shards.reader, prepared.compute)
        chosen, prepared, world, choices = _choose(context, prepared, world, executor)
        task = world.task
        rounds = finish_shard_rounds(chosen, prepared, task, executor)
        team = finish_team(of_listed(chosen, task), prepared)
        controls = finish_shard_controls(chosen, prepared, world, executor, team, shards.known)
        labels = finish_shard_labels(chosen, prepared, task, rounds, executor)
        summary = _summary(context, prepared, world, len(shards), rounds, controls) | labels
        summary |= {"team": team, **choices}
        run.files.environment.write({**environment, "computed": computed_on(context, prepared)})
        write_index(context, world, len(rounds), executor)
        finish(chosen, prepared, summary, pictured(run, task))
        run.finish("summary", summary)
        return summary


def _prepare(context: RunContext, others: Sequence[Path]) -> tuple[Prepared, Shards, ShardWorld]:
    """Train the teachers; annotate, and extract features of, the listed splits and the shards."""
    config = context.config
    compute = make_compute(config.run, config.execution)
    with context.timed("data"):
        data, shards = open_samples(config, compute)
        check_rounds_soften(config.rounds, len(data.classes))
        check_known(config.rounds, shards.known)
        check_comparable(config, data)
        log.info("student_train: %d samples in %d shards", shards.samples, len(shards))
        for split, why in MEASURED.items():
            if not bool((data.given(data.rows(split)) >= 0).any()):
                raise UserError(
                    f"no sample of {split} has a label, and sharded runs {why} by them",
                    key="data.splits",
                    allowed=f"a share of the labelled samples, such as `{split}: 0.1`",
                )
        hierarchy, tables = plan_teachers(config, data, shards)
        if not context.run.resumed:  # else they are read if an annotation is missing
            tables.read_all()
    prepared, features = prepare_listed(context, data, compute, hierarchy, tables.read)
    with context.timed("annotate"):
        world = shard_world(context, prepared, shards, features, tables, others)
    tables.close()
    return prepared, shards, world


def _choose(
    context: RunContext, prepared: Prepared, world: ShardWorld, executor: Executor
) -> tuple[RunContext, Prepared, ShardWorld, Numbers]:
    """Choose the recipe, the loss and the weight of the labels, where the config leaves them open.

    Returns what the rounds are run with, and the parts of the summary about each choice.
    """
    chosen, prepared, task, recipe = choose_shard_recipe(context, prepared, world.task, executor)
    chosen, loss = choose_shard_loss(chosen, prepared, task, executor)
    chosen, weight = choose_shard_weight(chosen, prepared, task, executor)
    choices = {"choice": recipe, "loss_choice": loss, "labelled_weight": weight}
    made = {name: choice for name, choice in choices.items() if choice is not None}
    return chosen, prepared, replace(world, task=task), made


def _summary(
    context: RunContext,
    prepared: Prepared,
    world: ShardWorld,
    shards: int,
    rounds: list[Numbers],
    controls: Controls,
) -> Numbers:
    summary = summarise(context, prepared, rounds, controls)
    summary["data"]["samples"]["student_train"] = world.samples
    summary["data"]["shards"] = shards
    return summary
