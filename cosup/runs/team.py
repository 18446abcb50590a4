"""The stage `team`: combine the student with the routed teachers, and record how.

The exponents of the product are fitted to the validation split where its labels are known. Without
one, they are fitted to teacher_train: its samples are answered by teachers that are trained again
without them, routed by an assigner that is fitted without them, and predicted by the student, which
never saw them (with `rounds.labelled`: by the cross-fitted ones that did not). No label of
student_train is read.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.config.schema import Assigners
from cosup.errors import UserError
from cosup.levels import ArrayAnnotations, Level, LevelAnnotations, Stream
from cosup.probabilities import ProbTable
from cosup.protocols import Student, folds_of
from cosup.rounds import first_state
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.inputs import PROVENANCE, fitting_samples
from cosup.runs.stages import build_recipe
from cosup.seeds import seed_for
from cosup.teachers.annotate import annotate_by_name
from cosup.teachers.base import SampleRows, Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.train import train_level
from cosup.team import Answering, TeamAnswers, TeamFit, ask_team, combine, fit_team

log = logging.getLogger(__name__)

STAGE = "team"
FOLDS = 3
ENOUGH = 1000
"""Folds are answered until there are so many samples."""
FEWEST = 20
"""Exponents are not fitted to fewer labelled samples."""
MOST = 5000
"""Most samples of a fold that are answered; bounds time and memory."""


@dataclass(frozen=True)
class _Samples:
    """Labelled samples that neither student nor team was trained on.

    student, team: [N, C] probabilities. labels, groups: [N] int64.
    """

    student: Tensor
    team: Tensor
    labels: Tensor
    groups: Tensor

    def fit(self) -> TeamFit | None:
        """Fit the exponents to the samples with a known label; None if there are too few."""
        known = self.labels >= 0
        if int(known.sum()) < FEWEST:
            return None
        return fit_team(
            self.student[known], self.team[known], self.labels[known], self.groups[known]
        )


@dataclass(frozen=True)
class _Team:
    """The team of a run, after its last round.

    members: the teachers of the level, in its order. answers: [T] bool, those that can answer new
    images. level: with the annotations of student_train. assigner: fitted by the last round. cache:
    features of the teachers' backbones.
    """

    context: RunContext
    prepared: Prepared
    number: int
    members: list[Teacher]
    answers: Tensor
    level: Level
    assigner: Assigner
    student: Student
    cache: FeatureCache

    def ask(
        self,
        annotations: LevelAnnotations,
        student: ProbTable,
        features: Tensor | None,
        assigner: Assigner | None = None,
    ) -> TeamAnswers:
        """Return the team's answers on samples with these annotations."""
        level = replace(self.level, annotations=Answering(annotations, self.answers))
        return ask_team(assigner or self.assigner, level, student, features)

    def features(self, split: str) -> Tensor | None:
        """Return the features of a split, if the assigner reads them."""
        return self.prepared.inputs.split_features.get(split)

    def stored(self, split: str) -> LevelAnnotations:
        """Return the annotations of a split that teachers annotate."""
        return self.prepared.annotated.store.level(split, self.level.scopes.names)


def finish_team(context: RunContext, prepared: Prepared) -> dict[str, Any]:
    """Fit the exponents, and write the test answers of the team, and of student and team.

    Returns `summary["team"]`, from the stage if it is finished.
    """
    run = context.run
    if not run.is_done(STAGE):
        started = time.monotonic()
        found = fitting_samples(context.config, prepared.data)
        numbers = without_team(found.reason)
        if found.split is not None:
            numbers = _combined(_team_of(context, prepared), found.split)
        if numbers["reason"] is not None:
            log.info("no team: %s", numbers["reason"])
        run.finish(STAGE, {**numbers, "seconds": time.monotonic() - started})
    numbers = run.load(STAGE)
    return {name: value for name, value in numbers.items() if name != "seconds"}


def without_team(reason: str) -> dict[str, Any]:
    return {
        "uses": "student",
        "student_exponent": None,
        "team_exponent": None,
        "fitted_on": None,
        "samples": 0,
        "accuracy": {"student": None, "team": None, "both": None},
        "teachers": [],
        "left_out": [],
        "reason": reason,
    }


def _team_of(context: RunContext, prepared: Prepared) -> _Team:
    """Return the team after the last round."""
    recipe = build_recipe(context, prepared)
    number, index = recipe.schedule(len(prepared.task.levels))[-1]
    files, level = context.files.round(number), prepared.task.levels[index]
    everyone = {one.name: one for each in prepared.annotated.levels for one in each}
    members = [everyone[name] for name in level.scopes.names]
    if files.assigner.exists():
        recipe.assigner.load_state_dict(files.assigner.read())
    student = recipe.new_student(recipe.objective, seed_for(context.seed, "round", number))
    student.load_state_dict(files.student.read())
    answers = torch.tensor([member.spec.external is None for member in members])
    cache = FeatureCache(prepared.annotated.compute)
    return _Team(
        context, prepared, number, members, answers, level, recipe.assigner, student, cache
    )


def _combined(team: _Team, split: str) -> dict[str, Any]:
    """Fit the exponents, write the answers on the test samples, and return the numbers."""
    context, prepared = team.context, team.prepared
    if not bool(team.answers.any()):
        return without_team(
            "the teachers of the last round are tables, which cannot answer new images"
        )
    try:
        samples = _validation(team) if split == "validation" else _cross_fitted(team)
    except UserError as error:
        return without_team(f"the teachers cannot be trained on a part of their samples: {error}")
    fit = samples.fit()
    if fit is None:
        return without_team(f"fewer than {FEWEST} labelled samples of {split} are known")
    files, test = context.files, prepared.test.split
    student = files.round(team.number).test.read(test.answers)
    asked, pair = _asked(team, "test", student, fit)
    files.team.write(asked)
    files.student_and_team.write(pair)
    for name, one in prepared.inputs.shifted.items():
        shifted = files.shifted(name)
        student = shifted.round(team.number).read(test.answers)
        shifted.student_and_team.write(_asked(team, one.part, student, fit)[1])
    log.info(
        "team: uses %s, exponents %.2f of the student and %.2f of the team, fitted to %d samples "
        "of %s",
        fit.uses,
        fit.exponents.student,
        fit.exponents.team,
        fit.samples,
        split,
    )
    names = team.level.scopes.names
    return {
        "uses": fit.uses,
        "student_exponent": fit.exponents.student,
        "team_exponent": fit.exponents.team,
        "fitted_on": split,
        "samples": fit.samples,
        "accuracy": asdict(fit)["accuracy"],
        "teachers": [name for name, can in zip(names, team.answers, strict=True) if can],
        "left_out": [name for name, can in zip(names, team.answers, strict=True) if not can],
        "reason": None,
    }


def _asked(team: _Team, part: str, student: ProbTable, fit: TeamFit) -> tuple[ProbTable, ProbTable]:
    """Return the answers of the team, and of student and team, on a split or a shifted set."""
    asked = team.ask(team.stored(part), student, team.features(part)).probs
    pair = ProbTable.empty(len(student), student.num_classes)
    for rows in _slices(len(student)):
        product = combine(student.dense(rows), asked.dense(rows), fit.exponents)
        pair.put(rows, ProbTable.compress(product))
    return asked, pair


def _slices(count: int, step: int = 4096) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _validation(team: _Team) -> _Samples:
    """Return student and team on the validation split, with its labels."""
    validation = team.prepared.inputs.validation
    assert validation is not None
    student = team.student.predict(validation.inputs)
    asked = team.ask(team.stored("validation"), student, team.features("validation"))
    split = validation.split
    return _Samples(student.dense(), asked.probs.dense(), split.labels, split.groups)


def _cross_fitted(team: _Team) -> _Samples:
    """Return student and team on samples of teacher_train, which the team is not trained on.

    Raises `UserError` if the teachers cannot be trained on the others.
    """
    data, context = team.prepared.data, team.context
    rows = data.rows(PROVENANCE)
    groups = torch.from_numpy(data.groups(rows))
    fold = folds_of(groups, FOLDS, seed_for(context.seed, STAGE))
    parts: list[_Samples] = []
    for number in range(FOLDS):
        places = torch.nonzero(fold == number)[:, 0]
        if not len(places) or sum(len(part.labels) for part in parts) >= ENOUGH:
            break
        outside = torch.nonzero(fold != number)[:, 0]
        parts.append(_fold(team, rows, places[:: -(-len(places) // MOST)], outside, groups, number))
    columns = zip(*([p.student, p.team, p.labels, p.groups] for p in parts), strict=True)
    return _Samples(*map(torch.cat, columns))


def _fold(
    team: _Team, rows: SampleRows, inside: Tensor, outside: Tensor, groups: Tensor, number: int
) -> _Samples:
    """Return student and team on the places `inside` of teacher_train, by teachers of `outside`."""
    prepared = team.prepared
    own = np.ascontiguousarray(rows[inside.numpy()])
    teachers = _retrained(team, rows[outside.numpy()], number)
    annotations = torch.zeros(len(own), len(teachers), prepared.task.num_classes)
    able = [teacher for teacher in teachers if teacher.spec.external is None]
    found = annotate_by_name(able, prepared.data, own, prepared.compute)
    for place, teacher in enumerate(teachers):
        if teacher.name in found:
            annotations[:, place] = found[teacher.name].dense()
    student = _student_outside(team, inside)
    features = team.features(PROVENANCE)
    asked = team.ask(
        ArrayAnnotations(annotations),
        student,
        None if features is None else features[inside],
        _refitted(team, outside),
    )
    labels = prepared.data.given(own)
    return _Samples(student.dense(), asked.probs.dense(), labels, groups[inside])


def _student_outside(team: _Team, inside: Tensor) -> ProbTable:
    """Return predictions of places of teacher_train by students that were not trained on them."""
    task = team.prepared.task
    if task.labelled is None:
        return team.student.predict(team.prepared.inputs.of_split(PROVENANCE)[inside])
    return team.context.files.round(team.number).labelled.read(task.num_classes).take(inside)


def _retrained(team: _Team, rows: SampleRows, number: int) -> list[Teacher]:
    """Return the teachers, those that the run trained trained again on these rows."""
    context, prepared = team.context, team.prepared
    training = Training(
        context.config.teachers,
        prepared.data,
        seed_for(context.seed, STAGE, number),
        team.cache,
        rows=rows,
    )
    specs = [member.spec for member in team.members if member.steps]
    again = {teacher.name: teacher for teacher in train_level(specs, training)}
    return [again.get(member.name, member) for member in team.members]


def _refitted(team: _Team, outside: Tensor) -> Assigner:
    """Return the assigner; one that learns from training inputs, fitted to these places alone."""
    assigner, level, task = team.assigner, team.level, team.prepared.task
    if "provenance" not in assigner.uses or level.provenance is None:
        return assigner
    features, membership = level.provenance
    recipe = build_recipe(team.context, team.prepared)
    guide = first_state(task, recipe, team.context.seed).train_probs
    if team.number > 1:
        before = team.context.files.round(team.number - 1)
        guide = before.train.read(task.num_classes)
    fresh = Assigners.build(team.context.config.rounds.assignment)
    stream = Stream(level, guide, task.features, task.truth).restricted(assigner.uses)
    seed = seed_for(seed_for(team.context.seed, "round", team.number), "assigner")
    known = (features[outside], membership[outside])
    fresh.fit(stream, level.scopes, seed=seed, provenance=known)
    return fresh
