"""Run an experiment whose unlabelled samples are worked on shard by shard (`data.sharded`).

The labelled splits are listed, and teachers are trained and measured on them as in any run. What is
computed of student_train is in the folder `shards` of the run, a Parquet file per shard:
annotations, features, and of each round decisions, targets and predictions. A resumed run computes
what is not there.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cosup.analysis.decisions import refinement_shares
from cosup.analysis.records import NOT_LISTED
from cosup.config.schema import Assigners, Config
from cosup.data.loader import ImageRows
from cosup.errors import Mistakes, UserError
from cosup.losses.base import Objective
from cosup.models.watch import OnStep
from cosup.progress import working_on
from cosup.protocols import Student
from cosup.rounds import Recipe
from cosup.runs.announce import announce_in_log
from cosup.runs.assemble import Prepared
from cosup.runs.backend import Backend, Local
from cosup.runs.bars import Pace
from cosup.runs.check_softening import check_rounds_soften
from cosup.runs.context import RunContext
from cosup.runs.control_stages import Controls
from cosup.runs.directory import RunDirectory
from cosup.runs.environment import describe_environment
from cosup.runs.labels import STAGE as LABELS
from cosup.runs.pipeline import computed_on, finish, summarise
from cosup.runs.prepare import make_compute, prepare_listed
from cosup.runs.recorder import open_recorder
from cosup.runs.records import write_samples
from cosup.runs.sources import STAGE as SOURCES
from cosup.runs.stages import StepLog, log_round, round_recipe
from cosup.runs.summary import Numbers
from cosup.runs.team import STAGE as TEAM
from cosup.runs.team import without_team
from cosup.sharded.evidence import ShardLevel
from cosup.sharded.head import ShardHead
from cosup.sharded.image_work import Restoring, annotation_works, extract_work
from cosup.sharded.lesson import ShardStudent
from cosup.sharded.network import ShardNetwork
from cosup.sharded.opening import is_sharded, open_shards
from cosup.sharded.rounds import (
    ShardOutcome,
    ShardState,
    ShardTask,
    check_recipe,
    run_shard_rounds,
)
from cosup.sharded.shards import Shards
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.sums import sum_round
from cosup.sharded.work import CheckImages, Executor, Samples
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import scopes, speakers

log = logging.getLogger(__name__)

MEASURED = {"validation": "choose the best teacher", "test": "measure the student"}
"""Splits that a sharded run must have, and why."""


def check_sharded(config: Config) -> None:
    """Raise `UserError` with every setting that sharded runs do not support."""
    if not is_sharded(config.data):
        return
    rounds, student, mistakes = config.rounds, config.student, Mistakes()

    def refuse(wrong: bool, key: str, value: object, allowed: str) -> None:
        if wrong:
            problem = "cannot be {value} with data.sharded (false lists all samples in memory)"
            mistakes.add([UserError(problem, key=key, value=value, allowed=allowed)])

    refuse(config.run.seeds is not None, "run.seeds", config.run.seeds, "null")
    refuse(rounds.losses is not None, "rounds.losses", "a list", "null")
    refuse(rounds.choose is not None, "rounds.choose", rounds.choose, "null")
    refuse(rounds.labelled, "rounds.labelled", True, "false")
    refuse(rounds.live_annotations, "rounds.live_annotations", True, "false")
    weight = rounds.true_label_weight
    refuse(weight > 0, "rounds.true_label_weight", weight, "0")
    refuse(rounds.first_guide != "crowd", "rounds.first_guide", rounds.first_guide, "crowd")
    refuse(student.meta is not None, "student.meta", "set", "null")
    means = student.head.kind == "prototype" and student.head.init == "class_means"
    refuse(means, "student.head.init", student.head.init, "random, text")
    optimizer = student.training.optimizer
    refuse(optimizer == "lbfgs", "student.training.optimizer", optimizer, "adam, adamw")
    refuse(bool(config.teachers.external), "teachers.external", "a list", "none")
    needs = Assigners.settings(rounds.assignment).needs
    refuse("truth" in needs, "rounds.assignment", rounds.assignment.name, "one without labels")
    with mistakes.caught():
        check_recipe(_recipe(config))
    mistakes.raise_all()


def run_sharded(
    config: Config,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    backend: Backend | None = None,
) -> dict[str, Any]:
    """Run a config shard by shard. Return the content of `summary.json`; raise as `run_one`.

    backend: what computes; this process by default.
    """
    with (
        RunDirectory.open(directory, config, resume=resume, overwrite=overwrite) as run,
        open_recorder(run.path, config.run.loggers) as recorder,
    ):
        if run.is_done("summary"):
            log.info("%s is finished already", run.path)
            return run.load("summary")
        check_sharded(config)
        announce_in_log(config, run.path)
        context = RunContext(config, run, recorder, Local() if backend is None else backend)
        environment = describe_environment(config)
        run.files.environment.write(environment)
        prepared, shards, task = _prepare(context)
        write_samples(context, prepared, shards)
        executor = context.backend.executor(shards.reader, prepared.compute)
        rounds = _finish_rounds(context, prepared, task, executor)
        summary = _summary(context, prepared, shards, rounds)
        run.files.environment.write({**environment, "computed": computed_on(context, prepared)})
        finish(context, prepared, summary)
        run.finish("summary", summary)
        return summary


def _prepare(context: RunContext) -> tuple[Prepared, Shards, ShardTask]:
    """Train the teachers; annotate, and extract features of, the listed splits and the shards."""
    config = context.config
    compute = make_compute(config.run, config.execution)
    with context.timed("data"):
        data, shards = open_shards(
            config.data,
            config.run.seed,
            config.execution.shard_size,
            teacher_train=config.wants_teacher_train,
            workers=compute.workers,
            cache=compute.cache,
        )
        check_rounds_soften(config.rounds, len(data.classes))
        log.info("student_train: %d samples in %d shards", shards.samples, len(shards))
        for split, why in MEASURED.items():
            if not bool((data.given(data.rows(split)) >= 0).any()):
                raise UserError(
                    f"no sample of {split} has a label, and sharded runs {why} by them",
                    key="data.splits",
                )
    # Controls are left out, so no teacher is trained for them.
    alone = replace(context, config=config.model_copy(update={"controls": []}))
    prepared, features = prepare_listed(alone, data, compute)
    with context.timed("annotate"):
        task = _shard_task(context, prepared, shards, features)
    return prepared, shards, task


def _shard_task(
    context: RunContext, prepared: Prepared, shards: Shards, features: FeatureCache
) -> ShardTask:
    """Annotate the shards and extract their features; return what the rounds read."""
    config, backend, compute = context.config, context.backend, prepared.compute
    executor = backend.executor(shards.reader, compute)
    store = ShardStore(backend.place_of(context.files.shards))
    samples = Samples(shards.reader, store)
    if config.data.check != "none":
        check = CheckImages(shards.reader, store)
        _work(executor, check, store, shards)
        samples = Samples(shards.reader, store, check.product)
    everyone = {one.name: one for level in prepared.annotated.levels for one in level}
    restoring = Restoring(config.teachers, config.run.seed, shards.reader.blank())
    memory = config.execution.teachers.memory_gb * 1e9
    there = backend.compute_of("teachers", compute)
    device = backend.compute_of("features", compute).device
    teachers = list(everyone.values())
    works = annotation_works(teachers, samples, restoring, there, memory, device)
    extract = extract_work(config.student.backbone, samples, features, device)
    for work in [*works, extract]:
        _work(executor, work, store, shards)
    products = {product.name: product for work in works for product in work.products}
    specs = speakers([[one.spec for one in level] for level in prepared.annotated.levels])
    data = prepared.data
    found = tuple(
        ShardLevel(
            index,
            scopes(members, len(data.classes), len(data.domains)),
            samples,
            tuple(products[spec.name] for spec in members),
            extract.products[0],
        )
        for index, members in enumerate(specs)
    )
    provenance = tuple(level.provenance for level in prepared.task.levels)
    return ShardTask(found, shards.shards, provenance, config.folds)


def _work(executor: Executor, work: Any, store: ShardStore, shards: Shards) -> None:
    """Do a work for the shards whose products are not all there."""
    missing = {shard for product in work.products for shard in store.missing(product, shards)}
    with working_on(f"{work.name}: shard", len(missing)) as advance:
        for _ in executor.run(work, sorted(missing)):
            advance(1)


def _recipe(config: Config) -> Recipe:
    return round_recipe(config.rounds, _no_student)


def _no_student(minimised: Objective, seed: int) -> Student:
    raise AssertionError("the student of the recipe learns from shards instead")


def _student(context: RunContext, prepared: Prepared) -> ShardStudent:
    """Return what learns from the shards: heads, or networks."""
    config, inputs, test = context.config, prepared.inputs, prepared.test.inputs
    compute = prepared.compute
    if isinstance(test, Tensor):
        return ShardHead(inputs.head, config.student.training, test, inputs.prototypes, compute)
    assert isinstance(test, ImageRows)
    return ShardNetwork(
        config.student,
        len(prepared.data.classes),
        prepared.data,
        test,
        context.backend.launcher,
        compute,
        context.backend.compute_of("features", compute),
    )


def _finish_rounds(
    context: RunContext, prepared: Prepared, task: ShardTask, executor: Executor
) -> list[Numbers]:
    """Run the rounds that are not finished. Return the numbers of every round, in order."""
    config, run = context.config, context.run
    recipe, student = _recipe(config), _student(context, prepared)
    schedule = recipe.schedule(len(task.levels))
    steps = config.student.training.total_steps(task.samples)

    def on_step(number: int) -> OnStep:
        return StepLog(
            context.recorder,
            f"student/round_{number}",
            Pace(f"round {number}, student", steps),
        )

    state = _finished(run, schedule)
    outcomes = run_shard_rounds(task, recipe, student, context.seed, executor, state, on_step)
    started = time.monotonic()
    for outcome in outcomes:
        numbers = _round_numbers(config, prepared, task, outcome)
        files = run.files.round(outcome.number)
        files.student.write(dict(outcome.student))
        files.test.write(outcome.test_probs)
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


def _finished(run: RunDirectory, schedule: Sequence[tuple[int, int]]) -> ShardState:
    """Return the state that the finished rounds left."""
    state = ShardState()
    for number, level in schedule:
        if not run.is_done(f"round-{number}"):
            break
        found, before = run.load(f"round-{number}"), state.at(level)
        tensors = run.files.round(number).student.read()
        student = Product(**found["products"]["predictions"])
        state = ShardState(number, level, student, before.coarse, tensors)
    return state


def _round_numbers(
    config: Config, prepared: Prepared, task: ShardTask, outcome: ShardOutcome
) -> Numbers:
    """Return what the summary tells of a round; sums over shards. None: not measured."""
    counts, kept, names = outcome.counts, outcome.kept, task.levels[outcome.level].scopes.names
    samples, known = int(counts["samples"]), int(counts["known"])

    def share(part: str, of: str) -> float | None:
        return float(counts[part]) / float(counts[of]) if known and float(counts[of]) else None

    products = {"decisions": outcome.products.decisions, "predictions": outcome.predictions}
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
        "student_accuracy": prepared.test.split.accuracy(outcome.test_probs),
        "judge": None,
        "samples": samples,
        "assigned": dict(zip(names, counts["assigned"].tolist(), strict=True)),
        "assigned_kept": dict(zip(names, counts["assigned_kept"].tolist(), strict=True)),
        "confidence": counts["confidence"].tolist(),
        "products": {name: vars(product) for name, product in products.items()},
    }


def _summary(
    context: RunContext, prepared: Prepared, shards: Shards, rounds: list[Numbers]
) -> Numbers:
    """Return the summary; what needs all samples at once is left out, with the reason."""
    run = context.run
    absent = dict.fromkeys(context.config.controls, NOT_LISTED)
    team = without_team(NOT_LISTED)
    labels: Numbers = {"labels": {}, "agreement": {}}
    run.finish(TEAM, {**team, "seconds": 0.0})
    run.finish(SOURCES, {"sources": {}, "seconds": 0.0})
    run.finish(LABELS, {**labels, "seconds": 0.0})
    summary = summarise(context, prepared, rounds, Controls({}, absent))
    summary["data"]["samples"]["student_train"] = shards.samples
    summary["data"]["shards"] = len(shards)
    return {**summary, "team": team, "sources": {}, **labels}
