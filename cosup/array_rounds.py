"""The rounds that `CoSupervision` runs on arrays, and what is read from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cosup.analysis.decisions import decisions_table
from cosup.assigning import assign
from cosup.config.schema import AUTO_FOLDS
from cosup.config.student import StudentSection
from cosup.errors import UserError
from cosup.levels import Stream, Task
from cosup.losses import Objective
from cosup.models.compute import Compute
from cosup.posterior import find_judge, fit_posterior
from cosup.probabilities import ProbTable
from cosup.protocols import Student, folds_of
from cosup.recipe import NewStudent, Recipe
from cosup.rounds import Outcome, cross_fit, run_rounds
from cosup.seeds import seed_for
from cosup.sources import STUDENT, Tally, block_of, notes, others_speak
from cosup.student.head import HeadStudent
from cosup.student.setup import StudentSetup

__all__ = ["ArrayRounds", "Finished"]


@dataclass(frozen=True)
class Finished:
    """What the rounds on N samples gave.

    outcomes: of every round. student: the last student's probabilities of the samples,
    cross-fitted if it can be; None without a student. posterior: [N, C] of the true class.
    """

    outcomes: Sequence[Outcome]
    student: ProbTable | None
    posterior: Tensor

    @property
    def last(self) -> Outcome:
        """The last round."""
        return self.outcomes[-1]


@dataclass(frozen=True)
class ArrayRounds:
    """Rounds of one level on arrays, with the seeds and steps of a run's.

    recipe: its `new_student` is not used. section: the student's settings. groups: [N], samples
    that are kept together in folds and draws.
    """

    task: Task
    recipe: Recipe
    section: StudentSection
    groups: Tensor
    seed: int
    device: torch.device

    @property
    def folds(self) -> int:
        """Folds of the students in the rounds (0: none). Raises `UserError` if they are needed and
        cannot be."""
        reads = self.recipe.assigner.reads_student or self.recipe.refiner is not None
        if self.section.cross_fit != "auto":
            if reads and not self.section.cross_fit:
                raise UserError(
                    "the assigner takes the student for a source: it must not predict the samples "
                    "that it was trained on",
                    key="cross_fit",
                    value=0,
                    allowed="'auto', or at least 2 folds",
                )
            return self.section.cross_fit
        return AUTO_FOLDS["head"] if reads else 0

    def run(self) -> Finished:
        """Run the rounds. Raises `RunError` if nothing is kept or a loss is not finite."""
        recipe = replace(self.recipe, new_student=self._students(self.folds))
        outcomes = list(run_rounds(self.task, recipe, self.seed))
        last = outcomes[-1]
        fitted = last.train_probs if self.folds else self._cross_fitted(recipe, last)
        posterior = fit_posterior(
            self.task,
            self.task.levels[0],
            fitted,
            seed_for(self.seed, "labels"),
            recipe.assigner,
            last.assigner,
        )
        student = last.train_probs if fitted is None else fitted
        parts = posterior.beside(student, last.kept.keep, cross_fitted=fitted is not None)
        return Finished(outcomes, student, torch.cat([found for found, _, _ in parts]))

    def run_alone(self) -> Finished:
        """Assign and filter, without a student.

        The posterior is the assigner's, if it has one; else the assigned annotations, and their
        mean where there is none.
        """
        task, assigner, chain = self.task, self.recipe.assigner, self.recipe.filters
        stream = Stream(task.levels[0], None, task.features, task.truth)
        seed = seed_for(self.seed, "round", 1)
        assigned = assign(assigner, stream, seed, self.recipe.hard)
        kept = chain.run(stream.restricted(chain.needs), assigned)
        nobody = ProbTable.empty(0, task.num_classes)
        state = assigner.state_dict()
        outcome = Outcome(1, 0, None, assigned, kept, nobody, nobody, {}, state)
        own: Callable[..., Tensor] | None = getattr(assigner, "posterior", None)
        if own is not None:
            return Finished([outcome], None, torch.cat([own(evidence) for evidence in stream]))
        found = assigned.annotations.dense()
        silent = found.sum(1) == 0
        return Finished(
            [outcome], None, torch.where(silent[:, None], found[~silent].mean(0), found)
        )

    def _cross_fitted(self, recipe: Recipe, last: Outcome) -> ProbTable | None:
        """Return the predictions of a student that is trained once more in folds, for the labels;
        None if there can or may be none."""
        count = self._count(AUTO_FOLDS["head"])
        if self.section.cross_fit == 0 or count < 2:
            return None
        folds = folds_of(self.groups, count, self.seed)
        return cross_fit(self.task, recipe, last, folds, self._students(count), self.seed)

    def _count(self, folds: int) -> int:
        return min(folds, len(torch.unique(self.groups)))

    def _students(self, folds: int) -> NewStudent:
        """Return a function that makes students with so many folds (0: none)."""
        count = self._count(folds)
        if folds and count < 2:
            raise UserError("needs at least 2 samples (or groups) for folds, not 1 sample")
        fold = folds_of(self.groups, count, self.seed) if count else None
        setup = StudentSetup(self.section, self.task.num_classes, Compute(self.device), fold)

        def make(objective: Objective, seed: int) -> Student:
            return HeadStudent(setup, objective, seed)

        return make

    def decisions(
        self, finished: Finished, names: "pd.Index[Any]", classes: Sequence[Any]
    ) -> pd.DataFrame:
        """Return the decisions of every round, a row per round and sample."""
        scopes, truth = self.task.levels[0].scopes, self.task.truth
        rows = names.tolist()
        parts = [
            decisions_table(each, scopes, rows, truth, classes, ("all",))
            for each in finished.outcomes
        ]
        return pd.concat(parts, ignore_index=True)

    def reliability(self, finished: Finished) -> pd.DataFrame:
        """Estimate how often each source is right, as the stage `sources` of a run does.

        METHODS.md section 10. A row per source, the student last. Columns: coverage, the share of
        samples that it answers; samples, those on which another source could judge it; reliability,
        the share of its answers that is right, with a 95 % interval (low, high); note, what is
        wrong with it (random, constant, adversarial, copy), and copy_of.
        """
        task, student = self.task, finished.student
        scopes = task.levels[0].scopes
        judge = find_judge(
            task,
            task.levels[0],
            self.recipe.assigner,
            finished.last.guide,
            student,
            seed_for(self.seed, "sources"),
            cross_fitted=student is not None and self.folds > 0,
        )
        teachers, blocks = len(scopes), block_of(self.groups)
        tally, answered = Tally(teachers + 1, task.num_classes), torch.zeros(teachers + 1)
        for rows, evidence in judge.stream.items():
            said = _answers(evidence.annotations, judge.guide, rows)
            spoken = said >= 0
            answered += spoken.sum(0)
            judged = spoken & others_speak(spoken, range(teachers), judge.speaks)
            posterior = judge.fused.assign(evidence, scopes).targets
            everywhere = torch.zeros(len(said), dtype=torch.int64)
            tally.add(said.masked_fill(~judged, -1), posterior, everywhere, blocks[rows])
        table = _table(tally, answered / len(self.groups), (*scopes.names, STUDENT), self.seed)
        return table if student is not None else table.iloc[:-1]


def _answers(annotations: Tensor, student: ProbTable | None, rows: slice) -> Tensor:
    """Return the answers [n, T + 1] of the sources, and last of the student (-1: none)."""
    sure, said = annotations.max(2)
    own = torch.full((len(said),), -1)
    if student is not None:
        label, confidence = student.take(rows).top()
        own = label.masked_fill(confidence <= 0, -1)
    return torch.cat([said.masked_fill(sure <= 0, -1), own[:, None]], dim=1)


def _table(tally: Tally, coverage: Tensor, names: Sequence[str], seed: int) -> pd.DataFrame:
    ranges = tally.intervals(seed_for(seed, "bootstrap"))
    judged = notes(tally, len(names) - 1)
    return pd.DataFrame(
        {
            "coverage": coverage.double().numpy(),
            "samples": tally.samples.numpy().astype(np.int64),
            "reliability": tally.reliability().numpy(),
            "low": [np.nan if each is None else each[0] for each in ranges],
            "high": [np.nan if each is None else each[1] for each in ranges],
            "note": [note for note, _ in judged],
            "copy_of": [", ".join(names[one] for one in copies) for _, copies in judged],
        },
        index=pd.Index(names, name="source"),
    )
