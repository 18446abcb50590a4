"""Controls as stages of a run: recorded when finished, skipped when it is resumed.

Heads of controls are fitted together, and networks trained side by side where there is room. Each
control keeps a file and a stage of its own.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cosup.config.schema import Assigners, Config
from cosup.control_runs import ControlRun, LabelledSamples, TeamSamples, run_controls
from cosup.controls import (
    BAGGED,
    CONTROLS,
    GENERALIST,
    LABELS,
    NO_TEST,
    NO_TRUE_LABEL,
    PAIR,
    TEAM,
    ControlContext,
)
from cosup.data.table import ImageData
from cosup.levels import JoinedAnnotations, Level, LevelAnnotations
from cosup.probabilities import ProbTable, row_bytes
from cosup.runs.assemble import Prepared
from cosup.runs.bars import Pace
from cosup.runs.context import RunContext
from cosup.runs.control_teachers import why_no_generalists
from cosup.runs.inputs import PROVENANCE, trains_on_labels
from cosup.runs.stages import StepLog, build_recipe, student_factory, student_steps
from cosup.runs.summary import Numbers
from cosup.team import Answering
from cosup.words import plural

log = logging.getLogger(__name__)

TOGETHER_BYTES = 2**30
"""Memory for the annotations of controls that are run at once."""


@dataclass(frozen=True)
class Controls:
    """What the controls of a run gave.

    found: the probabilities of the test samples, by control. absent: why the others are left out.
    """

    found: dict[str, ProbTable] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def finish_controls(context: RunContext, prepared: Prepared, team: Numbers) -> Controls:
    """Run the controls that are not finished; leave out those that this run cannot have.

    team: what `finish_team` returned.
    """
    quiet = StepLog(None)
    whole: list[ControlRun] = []

    def control(names: Sequence[str]) -> ControlRun:
        if not whole:
            whole.append(control_run(context, prepared, quiet, team))
        what = f"control {names[0]}" if len(names) == 1 else plural(len(names), "control")
        quiet.pace = Pace(what, student_steps(context, prepared))
        return whole[0]

    expected = left_out(context.config, prepared.data)
    return finish_each(context, prepared, expected, control, most_together(context, prepared))


def finish_each(
    context: RunContext,
    prepared: Prepared,
    expected: Mapping[str, str],
    control: Callable[[Sequence[str]], ControlContext[Any, Any]],
    together: int,
) -> Controls:
    """Run the controls that are not finished.

    expected: why controls are left out of which it is known before. control: returns what some
    controls are computed from. together: how many are run at once.
    """
    run, split, controls = context.run, prepared.test.split, Controls()
    controls.absent.update(expected)
    if len(expected) == len(context.config.controls):
        if expected:
            log.info("no controls: %s", "; ".join(dict.fromkeys(expected.values())))
        return controls
    names = [name for name in context.config.controls if name not in expected]
    waiting = [name for name in names if not run.is_done(f"control-{name}")]
    for start in range(0, len(waiting), together):
        group = waiting[start : start + together]
        controls.absent.update(_run_together(context, prepared, control(group), group))
    for name in names:
        if name not in controls.absent:
            controls.found[name] = run.files.control(name).read(split.answers)
    _log_absent(controls.absent)
    return controls


def most_together(context: RunContext, prepared: Prepared) -> int:
    """Return how many controls are run at once: as many as their annotations leave memory for.

    Heads share their batches. Of networks no more than are trained side by side: in turn, one
    control after another is finished, and needs no memory for two.
    """
    task = prepared.task
    # The targets, in float32 where all classes are stored, and the weights of teachers.
    teachers = max(len(one.scopes) for one in task.levels)
    each = 2 * row_bytes(task.num_classes) + 4 * teachers
    most = int(max(1, TOGETHER_BYTES // (max(1, len(task.inputs)) * each)))
    if context.config.student.mode == "head":
        return most
    return min(most, context.backend.launcher.room())


def _run_together(
    context: RunContext,
    prepared: Prepared,
    control: ControlContext[Any, Any],
    names: Sequence[str],
) -> dict[str, str]:
    """Run controls and record each as finished. Return why others are absent."""
    run, started = context.run, time.monotonic()
    found, absent = run_controls(control, names)
    seconds = (time.monotonic() - started) / len(names)
    for name, found_probs in found.items():
        probs, shifted = prepared.by_set(found_probs)
        for set_name, part in shifted.items():
            run.files.shifted(set_name).control(name).write(part)
        run.files.control(name).write(probs)
        accuracy = prepared.test.split.accuracy(probs)
        assert accuracy is not None, "without test samples all controls are left out"
        log.info("control %s: test accuracy %.1f %%", name, 100 * accuracy)
        context.recorder.scalar(f"control/{name}/accuracy", accuracy, 0)
        run.finish(f"control-{name}", {"seconds": seconds})
    context.discard_training_states()
    return absent


def left_out(config: Config, data: ImageData, known: bool | None = None) -> dict[str, str]:
    """Return the controls of a run of which the data tell that it cannot have them, and why.

    known: whether any label of student_train is known, if its samples are not listed. Controls are
    compared by test accuracy, so that without a test split none is trained.
    """
    if data.novel is None and not len(data.rows("test")):
        return dict.fromkeys(config.controls, NO_TEST)
    if known is None:
        known = bool((data.given(data.rows("student_train")) >= 0).any())
    readers = (name for name in config.controls if CONTROLS[name].reads_labels)
    return {} if known else dict.fromkeys(readers, NO_TRUE_LABEL)


def _log_absent(absent: Mapping[str, str]) -> None:
    """Log in one line which controls are left out, and why."""
    reasons: dict[str, list[str]] = {}
    for name, reason in absent.items():
        reasons.setdefault(reason, []).append(name)
    if reasons:
        parts = (f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        log.info("controls left out: %s", "; ".join(parts))


def control_run(
    context: RunContext, prepared: Prepared, on_step: StepLog, team: Numbers
) -> ControlRun:
    """Return what the controls of a run are computed from, after its rounds."""
    teachers = prepared.teachers
    specs = [teacher.spec for level in prepared.annotated.levels for teacher in level]
    no_generalists = why_no_generalists(specs) or ""
    labelled = None
    if trains_on_labels(context.config, prepared.data):
        labelled = _labelled(context, prepared, on_step)
    return ControlRun(
        task=prepared.task,
        recipe=build_recipe(context, prepared, on_step),
        run_seed=context.seed,
        best_teacher=teachers.best_level,
        new_student=student_factory(context, prepared, on_step, folds=0),
        trained=teachers.control_levels,
        labelled=labelled,
        team_samples=None if prepared.test.episodes else _team_samples(context, prepared),
        paired=None if team["reason"] else _paired(context, prepared),
        reasons={
            PAIR: str(team["reason"]),
            GENERALIST: no_generalists,
            BAGGED: no_generalists,
            LABELS: "no teacher is trained on labelled samples",
            TEAM: "the test samples are of classes that the teachers do not know"
            if prepared.test.episodes
            else "the assigner reads domains, and a shifted set has others than the run",
        },
    )


def _paired(context: RunContext, prepared: Prepared) -> ProbTable:
    """Return the probabilities of all test samples by student and team."""
    answers, files = prepared.test.split.answers, context.files
    shifted = [files.shifted(name).student_and_team for name in prepared.inputs.shifted]
    return ProbTable.concat([file.read(answers) for file in (files.student_and_team, *shifted)])


def _labelled(context: RunContext, prepared: Prepared, on_step: StepLog) -> LabelledSamples:
    """Return the teachers' labelled samples, for students with the steps of the run's."""
    data, steps = prepared.data, student_steps(context, prepared)
    make = student_factory(context, prepared, on_step, folds=0, steps=steps)
    labels = data.given(data.rows(PROVENANCE))
    return LabelledSamples(prepared.inputs.of_split(PROVENANCE), labels, make)


def _team_samples(context: RunContext, prepared: Prepared) -> TeamSamples | None:
    """Return all test samples with the annotations of the last round's teachers.

    External teachers abstain: annotations of test samples do not let them answer new images. None
    if the assigner reads domains, and a shifted set has others than the run.
    """
    test, task = prepared.test, prepared.task
    sets = [test, *prepared.inputs.shifted.values()]
    domains = torch.cat([one.split.domains_in(prepared.data.domains) for one in sets])
    reads = Assigners.settings(context.config.rounds.assignment).needs
    if "domains" in reads and bool((domains < 0).any()):
        return None
    number, index = build_recipe(context, prepared).schedule(len(task.levels))[-1]
    files, scopes = context.files.round(number), task.levels[index].scopes
    stored = [prepared.annotated.store.level(one.part, scopes.names) for one in sets]
    annotations: LevelAnnotations = stored[0] if len(sets) == 1 else JoinedAnnotations(stored)
    trained = {
        one.name for each in prepared.annotated.levels for one in each if not one.spec.external
    }
    answers = torch.tensor([name in trained for name in scopes.names])
    shifted = [context.files.shifted(name).round(number) for name in prepared.inputs.shifted]
    predicted, known = [files.test, *shifted], prepared.inputs.split_features
    features = [known[one.part] for one in sets if one.part in known]
    return TeamSamples(
        level=Level(index, scopes, Answering(annotations, answers)),
        assigner=files.assigner.read() if files.assigner.exists() else {},
        student=ProbTable.concat([file.read(test.split.answers) for file in predicted]),
        features=torch.cat(features) if features else None,
        domains=domains,
    )
