"""Rounds as stages of a run: recorded when finished, skipped when it is resumed."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cosup.analysis.decisions import (
    decisions_table,
    noise_measures,
    refinement_measures,
    round_measures,
)
from cosup.config.rounds import Assigners, Filters, Losses, Refiners, RoundsSection
from cosup.config.schema import Config
from cosup.consistency import Chain
from cosup.data.loader import ImageRows
from cosup.errors import about
from cosup.losses.base import Objective
from cosup.models.watch import MOST_WATCHED, TEST, OnStep, Watched, recorded
from cosup.probabilities import ProbTable
from cosup.protocols import Student, folds_of
from cosup.recipe import NewStudent, Recipe
from cosup.rounds import Outcome, RoundState, cross_fit, run_rounds
from cosup.runs.assemble import Prepared
from cosup.runs.bars import Pace
from cosup.runs.context import RunContext
from cosup.runs.directory import RunDirectory
from cosup.runs.published import best_epoch, epochs_watched
from cosup.runs.recorder import Recorder
from cosup.runs.scores import judge, weak_judge
from cosup.student.head import HeadStudent
from cosup.student.meta_stage import MetaStage
from cosup.student.network import NetworkStudent
from cosup.student.setup import StudentSetup
from cosup.words import percent, plural

log = logging.getLogger(__name__)


def student_factory(
    context: RunContext,
    prepared: Prepared,
    on_step: OnStep | None = None,
    watched: Watched | None = None,
    *,
    folds: int | None = None,
    steps: int | None = None,
) -> NewStudent:
    """Return a function that makes the config's student. Cross-fitting folds keep groups whole.

    folds: number of folds (0: none), and steps: of optimiser steps, if not the config's.
    """
    config, inputs = context.config, prepared.inputs
    training = config.student.training
    count = config.folds if folds is None else folds
    parts = folds_of(prepared.student_groups, count, context.seed) if count else None
    if steps is not None:
        training = training.model_copy(update={"steps": steps, "epochs": None})
    setup = StudentSetup(
        config.student.model_copy(update={"head": inputs.head, "training": training}),
        prepared.task.num_classes,
        prepared.compute,
        parts,
        on_step,
        context.backend.launcher,
        watched,
        recorded=isinstance(on_step, StepLog) and on_step.recorder is not None,
    )

    def head(minimised: Objective, seed: int) -> Student:
        return HeadStudent(setup, minimised, seed, inputs.prototypes, inputs.prompts)

    def network(minimised: Objective, seed: int) -> Student:
        meta, live = _meta(config, minimised), config.rounds.live_annotations
        hard = config.rounds.targets == "hard"
        return NetworkStudent(setup, minimised, seed, meta, live, hard)

    return head if config.student.mode == "head" else network


def _meta(config: Config, minimised: Objective) -> MetaStage | None:
    """Return the meta stage of a student, with its own loss if it has one."""
    section = config.student.meta
    if section is None:
        return None
    if section.loss is not None:
        minimised = replace(minimised, loss=Losses.build(section.loss))
    augment = section.augment or config.student.training.augment
    return MetaStage(section, augment, minimised)


def round_recipe(section: RoundsSection, new_student: NewStudent) -> Recipe:
    """Build the objects that a config's rounds are run with."""
    return Recipe(
        assigner=Assigners.build(section.assignment),
        objective=Objective(
            Losses.build(section.loss),
            section.annotation_weight,
            section.label_weight,
            section.label_smoothing,
            section.own_labels,
            section.own_labels_from,
        ),
        new_student=new_student,
        filters=Chain(
            [choice.name for choice in section.consistency],
            [Filters.build(choice) for choice in section.consistency],
        ),
        hard=section.targets == "hard",
        fresh=section.fresh_head,
        min_kept=section.min_kept,
        student_first=section.first_guide == "student",
        repeat=section.rounds_per_level,
        least=section.least_rounds,
        refiner=None if section.refine is None else Refiners.build(section.refine),
    )


def build_recipe(
    context: RunContext,
    prepared: Prepared,
    on_step: OnStep | None = None,
    watched: Watched | None = None,
) -> Recipe:
    """Build the objects that the rounds of a run are run with, its student among them."""
    make = student_factory(context, prepared, on_step, watched)
    recipe = round_recipe(context.config.rounds, make)
    return replace(recipe, assign=prepared.assignments.assign)


def _watched(prepared: Prepared) -> Watched | None:
    """Return samples of validation, evenly spread, to record the student's accuracy on; None if
    the split is empty, or of novel classes, or a head's features of it are not computed."""
    found = prepared.inputs.validation
    if found is None or found.episodes is not None:
        return None
    known = torch.nonzero(found.split.labels >= 0)[:, 0]
    if not len(known):
        return None
    chosen = known[torch.linspace(0, len(known) - 1, min(len(known), MOST_WATCHED)).long()]
    inputs = found.inputs
    if isinstance(inputs, ImageRows):
        if isinstance(prepared.inputs.train, Tensor):
            return None
        inputs = torch.from_numpy(inputs.rows)
    assert isinstance(inputs, Tensor)
    return Watched(inputs[chosen], found.split.labels[chosen])


def finish_rounds(context: RunContext, prepared: Prepared) -> list[dict[str, Any]]:
    """Run the rounds that are not finished. Return the numbers of every round, in order."""
    task, run = prepared.task, context.run
    step = StepLog(context.recorder)
    steps = student_steps(context, prepared)
    best = context.config.rounds.report_epoch == "best_test" and len(prepared.test.split) > 0
    watched = epochs_watched(context, prepared) if best else _watched(prepared)
    recipe = build_recipe(context, prepared, step, watched)
    schedule = recipe.schedule(len(task.levels))
    state = _finished(run, schedule, task.num_classes)
    outcomes = run_rounds(task, recipe, context.seed, state)
    for number, _ in schedule[0 if state is None else state.finished :]:
        started = time.monotonic()
        step.tag, step.by_epoch = f"student/round_{number}", []
        step.pace = Pace(f"round {number}, student", steps)
        with about(f"round {number}, student"):
            outcome = next(outcomes)
        assert outcome.number == number
        numbers = _record(context, prepared, outcome)
        if step.by_epoch:
            numbers["best_epoch"] = best_epoch(step.by_epoch)
        if number == schedule[-1][0] and context.config.folds_for_labels:
            _cross_fit(context, prepared, outcome)
        log_round(numbers, context.recorder)
        run.finish(f"round-{number}", {**numbers, "seconds": time.monotonic() - started})
        context.discard_training_states()
    return [run.load(f"round-{number}") for number, _ in schedule]


def student_steps(context: RunContext, prepared: Prepared) -> int:
    """Return the number of optimiser steps of the student in a round."""
    return context.config.student.training.total_steps(len(prepared.samples.sample_ids))


def _record(context: RunContext, prepared: Prepared, outcome: Outcome) -> dict[str, Any]:
    """Write a round's decisions and checkpoint. Return its numbers."""
    task, data, number = prepared.task, prepared.data, outcome.number
    level, noisy = task.levels[outcome.level], prepared.samples.noisy_labels
    scopes = level.scopes
    table = decisions_table(
        outcome,
        scopes,
        prepared.samples.sample_ids,
        task.truth,
        data.classes,
        data.domains,
        given=noisy,
    )
    files = context.files.round(number)
    files.decisions.write(table)
    context.recorder.assignment(table, number)
    files.student.write(outcome.student)
    files.train.write(outcome.train_probs)
    test, shifted = prepared.by_set(outcome.test_probs)
    files.test.write(test)
    for name, probs in shifted.items():
        context.files.shifted(name).round(number).write(probs)
    if outcome.labelled_probs is not None and context.config.folds:
        files.labelled.write(outcome.labelled_probs)
    if outcome.assigner:
        files.assigner.write(outcome.assigner)
    return {
        "round": number,
        "level": outcome.level,
        "teachers": list(scopes.names),
        "assigner": context.config.rounds.assignment.name,
        **round_measures(outcome, scopes, task.truth, level.annotations),
        **refinement_measures(outcome, task.truth),
        **noise_measures(outcome.kept.keep, task.truth, noisy),
        "rejected": {
            reason: count
            for index, reason in enumerate(outcome.kept.reasons)
            if (count := int((outcome.kept.rejected_by == index).sum()))
        },
        "student_accuracy": prepared.test.split.accuracy(test),
        "judge": _judged(context, prepared, outcome),
    }


def _cross_fit(context: RunContext, prepared: Prepared, outcome: Outcome) -> None:
    """Train the last round's head once more, in folds, and write its predictions of the samples
    that it was not trained on. The labels of the run need them, and nothing else reads them.

    Too few kept samples for the folds leave it out.
    """
    count = context.config.folds_for_labels
    make = student_factory(context, prepared, folds=count)
    found = cross_fit(
        prepared.task,
        build_recipe(context, prepared),
        outcome,
        folds_of(prepared.student_groups, count, context.seed),
        make,
        context.seed,
    )
    if found is not None:
        context.files.round(outcome.number).cross_fitted.write(found)


def cross_fitted(context: RunContext, number: int, num_classes: int) -> ProbTable | None:
    """Return the last student's probabilities of student_train, each by one that was not trained on
    the sample; None if there are none."""
    files, config = context.files.round(number), context.config
    if config.folds or config.student.training.steps == 0:
        return files.train.read(num_classes)
    return files.cross_fitted.read(num_classes) if files.cross_fitted.exists() else None


def _judged(context: RunContext, prepared: Prepared, outcome: Outcome) -> dict[str, float] | None:
    """Estimate who judges whom by the filters of a round; warn of a weak judge."""
    rounds = context.config.rounds
    found = judge(rounds, prepared.task, outcome, context.seed)
    reason = weak_judge(found, outcome.number)
    if reason is not None:
        log.warning("%s: it may reject the better ones; try without the filter", reason)
    return found


def log_round(numbers: Mapping[str, Any], recorder: Recorder) -> None:
    """Log and record what was measured of a round."""
    number = numbers["round"]
    percents = {name: value for name, value in numbers.items() if isinstance(value, float)}
    recorder.scalars("rounds", percents, number)
    log.info(
        "round %d, level %d (%s): %s",
        number,
        numbers["level"],
        plural(len(numbers["teachers"]), "teacher"),
        ", ".join(f"{name.replace('_', ' ')} {percent(v)}" for name, v in percents.items()),
    )


def _finished(
    run: RunDirectory, schedule: Sequence[tuple[int, int]], num_classes: int
) -> RoundState | None:
    """Return the state that the finished rounds left; None if there are none."""
    state = None
    for number, level in schedule:
        if not run.is_done(f"round-{number}"):
            break
        state = (state or RoundState()).at(level)
        files = run.files.round(number)
        state = replace(
            state,
            finished=number,
            train_probs=files.train.read(num_classes),
            student=files.student.read(),
        )
    return state


class StepLog:
    """Records a training's loss and metrics at certain steps, and logs its progress."""

    def __init__(self, recorder: Recorder | None, tag: str = "", pace: Pace | None = None) -> None:
        self.recorder = recorder
        self.tag = tag
        self.pace = pace
        self.by_epoch: list[float] = []
        """The accuracies on the test split that were recorded (`cosup.runs.published`)."""

    def __call__(self, step: int, loss: float, metrics: Mapping[str, Tensor]) -> None:
        if TEST in metrics:
            self.by_epoch.append(float(metrics[TEST]))
        total = None if self.pace is None else self.pace.total
        if self.pace is not None:
            self.pace(step, loss)
        if self.recorder is None or not recorded(step, total):
            return
        self.recorder.scalar(f"{self.tag}/loss", loss, step)
        self.recorder.scalars(
            self.tag, {name: float(value.mean()) for name, value in metrics.items()}, step
        )
