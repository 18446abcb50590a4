"""Rounds and controls as stages of a run: each is recorded when it ends, and skipped on resume."""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cosup.analysis.decisions import decisions_table, noise_measures, round_measures
from cosup.config.schema import Assigners, Config, Filters, Losses, RoundsSection
from cosup.consistency import Chain
from cosup.control_runs import ControlRun
from cosup.controls import CONTROLS
from cosup.errors import about
from cosup.losses.base import Objective
from cosup.models.fit import OnStep, recorded
from cosup.probabilities import ProbTable
from cosup.protocols import Student
from cosup.rounds import NewStudent, Outcome, Recipe, RoundState, run_rounds
from cosup.runs.assemble import Prepared
from cosup.runs.directory import RunDirectory
from cosup.runs.logs import Pace
from cosup.runs.recorder import Recorder
from cosup.seeds import torch_generator
from cosup.student.head import HeadStudent
from cosup.student.jobs import StudentSetup
from cosup.student.meta_stage import MetaStage
from cosup.student.network import NetworkStudent
from cosup.words import percent, plural

log = logging.getLogger(__name__)


def student_factory(
    config: Config, prepared: Prepared, seed: int, on_step: OnStep | None = None
) -> NewStudent:
    """Makes the config's student; its folds, if any, keep groups together."""
    folds = None
    if config.student.cross_fit:
        folds = _folds(prepared.groups, config.student.cross_fit, seed)
    section = config.student.model_copy(update={"head": prepared.head})
    setup = StudentSetup(
        section,
        prepared.task.num_classes,
        replace(prepared.compute, scratch=prepared.scratch),
        folds,
        on_step,
        prepared.launcher,
    )

    def head(minimised: Objective, student_seed: int) -> Student:
        return HeadStudent(setup, minimised, student_seed, prepared.prototypes)

    def network(minimised: Objective, student_seed: int) -> Student:
        meta, live = _meta(config, minimised), config.rounds.live_annotations
        return NetworkStudent(setup, minimised, student_seed, meta, live)

    return head if section.mode == "head" else network


def _meta(config: Config, minimised: Objective) -> MetaStage | None:
    """The meta stage of a student that minimises this: a control's stays with its own loss."""
    section = config.student.meta
    if section is None:
        return None
    if section.loss is not None and not minimised.control:
        minimised = replace(minimised, loss=Losses.build(section.loss))
    return MetaStage(section, config.student.training.augment, minimised)


def round_recipe(section: RoundsSection, new_student: NewStudent) -> Recipe:
    """Build the objects that a config's rounds are run with."""
    return Recipe(
        assigner=Assigners.build(section.assignment),
        objective=Objective(
            Losses.build(section.loss), section.annotation_weight, section.true_label_weight
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
        repeat=section.repeat,
    )


def finish_rounds(
    config: Config, prepared: Prepared, run: RunDirectory, recorder: Recorder, seed: int
) -> list[dict[str, Any]]:
    """Run the rounds that aren't finished; every round's numbers, in order."""
    task = prepared.task
    step = _StepLog(recorder)
    steps = config.student.training.total_steps(len(prepared.sample_ids))
    recipe = round_recipe(config.rounds, student_factory(config, prepared, seed, step))
    schedule = recipe.schedule(len(task.levels))
    state = _finished(run, schedule, task.num_classes)
    outcomes = run_rounds(task, recipe, seed, state)
    for number, _ in schedule[0 if state is None else state.finished :]:
        started = time.monotonic()
        step.tag = f"round_{number}"
        step.pace = Pace(f"round {number}, student", steps)
        with about(f"round {number}, student"):
            outcome = next(outcomes)
        assert outcome.number == number
        numbers = _record(outcome, prepared, run, recorder, config.rounds.assignment.name)
        _log(numbers, recorder)
        run.finish(f"round-{number}", {**numbers, "seconds": time.monotonic() - started})
        shutil.rmtree(prepared.scratch, ignore_errors=True)
    return [run.load(f"round-{number}") for number, _ in schedule]


def finish_controls(
    config: Config, prepared: Prepared, run: RunDirectory, recorder: Recorder, seed: int
) -> dict[str, ProbTable]:
    """Run the controls that aren't finished; each one's predictions on the test split."""
    quiet = _StepLog(None)
    steps = config.student.training.total_steps(len(prepared.sample_ids))
    context = ControlRun(
        "",
        prepared.task,
        round_recipe(config.rounds, student_factory(config, prepared, seed, quiet)),
        seed,
        prepared.best_level,
        prepared.generalist_level,
    )
    found: dict[str, ProbTable] = {}
    for name in config.controls:
        file = run.files.control(name)
        if not run.is_done(f"control-{name}"):
            started = time.monotonic()
            quiet.pace = Pace(f"control {name}", steps)
            with about(f"control {name}"):
                probs = CONTROLS[name].run(replace(context, name=name))
            file.write(probs)
            accuracy = prepared.test.accuracy(probs)
            log.info("control %s: test accuracy %.1f %%", name, 100 * accuracy)
            recorder.scalar(f"controls/{name}", accuracy, 0)
            run.finish(f"control-{name}", {"seconds": time.monotonic() - started})
            shutil.rmtree(prepared.scratch, ignore_errors=True)
        found[name] = file.read(prepared.test.answers)
    return found


def test_probs(run: RunDirectory, number: int, answers: int) -> ProbTable:
    """What the student of a finished round predicts on what measures."""
    return run.files.round(number).test.read(answers)


def _record(
    outcome: Outcome, prepared: Prepared, run: RunDirectory, recorder: Recorder, assigner: str
) -> dict[str, Any]:
    """Write a round's decisions and checkpoint; its numbers."""
    level = prepared.task.levels[outcome.level]
    number = outcome.number
    table = decisions_table(
        outcome,
        level.scopes,
        prepared.sample_ids,
        prepared.task.truth,
        prepared.data.classes,
        prepared.data.domains,
        given=prepared.given,
    )
    files = run.files.round(number)
    files.decisions.write(table)
    recorder.assignment(table, number)
    files.student.write(outcome.student)
    files.train.write(outcome.train_probs)
    files.test.write(outcome.test_probs)
    if outcome.assigner:
        files.assigner.write(outcome.assigner)
    return {
        "round": number,
        "level": outcome.level,
        "teachers": list(level.scopes.names),
        "assigner": assigner,
        **round_measures(outcome, level.scopes, prepared.task.truth),
        **noise_measures(outcome.kept.keep, prepared.task.truth, prepared.given),
        "rejected": {
            reason: count
            for index, reason in enumerate(outcome.kept.reasons)
            if (count := int((outcome.kept.rejected_by == index).sum()))
        },
        "student_accuracy": prepared.test.accuracy(outcome.test_probs),
    }


def _log(numbers: Mapping[str, Any], recorder: Recorder) -> None:
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


def _folds(groups: Tensor, count: int, seed: int) -> Tensor:
    """[N] fold of each sample, groups whole, as equal as can be."""
    _, index = torch.unique(groups, return_inverse=True)
    size = int(index.max()) + 1
    order = torch.randperm(size, generator=torch_generator(seed, "folds"))
    fold = torch.empty(size, dtype=torch.int64)
    fold[order] = torch.arange(size) % count
    return fold[index]


class _StepLog:
    """Records a training's loss and its metrics every so many steps, and tells how far it is."""

    def __init__(self, recorder: Recorder | None, tag: str = "", pace: Pace | None = None) -> None:
        self.recorder = recorder
        self.tag = tag
        self.pace = pace

    def __call__(self, step: int, loss: float, metrics: Mapping[str, Tensor]) -> None:
        if self.pace is not None:
            self.pace(step, loss)
        if self.recorder is None or not recorded(step):
            return
        self.recorder.scalar(f"{self.tag}/loss", loss, step)
        self.recorder.scalars(
            self.tag, {name: float(value.mean()) for name, value in metrics.items()}, step
        )
