"""The stage `labels`: the final label of each sample of student_train, and who agrees with whom.

A label is the most probable class of the posterior of all sources (`cosup.assignment.fused`), the
student among them where its predictions are cross-fitted, whatever the assigner of the rounds.
METHODS.md section 11.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from cosup.analysis.agreement import agreement_numbers
from cosup.analysis.arrays import codes
from cosup.analysis.labels import FinalLabels, label_numbers, labels_table
from cosup.assignment.fused import Fused
from cosup.config.schema import Assigners
from cosup.evidence import Evidence
from cosup.files import write_csv
from cosup.levels import Level, Stream
from cosup.probabilities import ProbTable
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.sources import all_answers
from cosup.runs.stages import cross_fitted
from cosup.runs.summary import Numbers
from cosup.seeds import seed_for
from cosup.sources import STUDENT
from cosup.words import percent

log = logging.getLogger(__name__)

STAGE = "labels"
SMALLEST = 1e-9
"""Probabilities are clamped to this before taking logarithms."""


def finish_labels(context: RunContext, prepared: Prepared, rounds: Sequence[Numbers]) -> Numbers:
    """Write `labels.parquet` and `labels.csv`, and return `labels` and `agreement` of the summary.

    The stage is computed once, and its numbers are then read from it.
    """
    run, files = context.run, context.files
    if not run.is_done(STAGE):
        started = time.monotonic()
        decisions = files.round(rounds[-1]["round"]).decisions.read()
        final = _final_labels(context, prepared, rounds, torch.tensor(decisions["kept"].to_numpy()))
        table = labels_table(final, decisions, prepared.data.classes)
        agreement = _agreement(context, prepared, final.label, decisions)
        files.labels.write(table)
        write_csv(files.labels_csv, table)
        numbers = label_numbers(table, decisions["true_label"], prepared.data.classes)
        run.finish(
            STAGE,
            {"seconds": time.monotonic() - started, "labels": numbers, "agreement": agreement},
        )
        log.info(
            "labels of %d samples: %s (about %s right, estimated)",
            len(table),
            files.labels.path,
            percent(numbers["estimated_right"]),
        )
    found = run.load(STAGE)
    return {name: found[name] for name in ("labels", "agreement")}


def _agreement(
    context: RunContext, prepared: Prepared, labels: Tensor, decisions: pd.DataFrame
) -> Numbers:
    """Return who agrees with whom, and whether the student is one that was not trained on what it
    is compared with."""
    number, data = int(decisions["round"].iloc[0]), prepared.data
    student = cross_fitted(context, number, prepared.task.num_classes)
    train = context.files.round(number).train
    own = train.read(prepared.task.num_classes) if student is None else student
    names = [one.name for level in prepared.annotated.levels for one in level]
    annotations, asked = (
        torch.from_numpy(codes(decisions[column], known))
        for column, known in (("annotation", list(data.classes)), ("assigned_teacher", names))
    )
    said = all_answers(prepared, names, own).long()
    found = agreement_numbers(said, [*names, STUDENT], labels, annotations, asked)
    return {"cross_fitted": student is not None, **found}


@dataclass(frozen=True)
class Posterior:
    """The posterior of the true class that labels are read from.

    fused: fitted to the sources. stream: the evidence that it reads. factor: [N, C] probabilities
    of the student that multiply what it says, or None.
    """

    fused: Fused
    stream: Stream
    factor: ProbTable | None = None

    def batches(self) -> Iterator[tuple[slice, Tensor, Evidence]]:
        """Yield (rows, posterior [n, C], evidence) in the order of the samples."""
        for rows, evidence in self.stream.items():
            found = self.fused.posterior(evidence)
            if self.factor is not None:
                own = self.factor.dense(rows).clamp_min(SMALLEST).log()
                found = (found.clamp_min(SMALLEST).log() + own).softmax(1)
            yield rows, found, evidence


def fit_posterior(
    context: RunContext, prepared: Prepared, rounds: Sequence[Numbers], student: ProbTable | None
) -> Posterior:
    """Return the posterior from the sources of the last round and the student.

    student: cross-fitted probabilities of student_train, or None. It counts as one more source of
    `fused`; that of the run itself is used as it is, if it has heard a student. Where all sources
    are soft, none but those that taught the student could tell how far to trust it: its
    probabilities then multiply the posterior without it as they are.
    """
    task, last = prepared.task, rounds[-1]
    level: Level = task.levels[last["level"]]
    file = context.files.round(last["round"]).assigner
    own = Assigners.build(context.config.rounds.assignment)
    wanted = own if isinstance(own, Fused) else Fused()
    seed = seed_for(context.seed, STAGE)

    def fitted(heard: ProbTable | None) -> Posterior:
        fused = replace(wanted, student=heard is not None)
        stream = Stream(level, heard, task.features, task.truth).restricted(fused.uses)
        state = file.read() if isinstance(own, Fused) and file.exists() else {}
        if state and bool(state["student"]) == fused.student:
            fused.load_state_dict(state)
        else:
            fused.fit(stream, level.scopes, seed=seed, provenance=level.provenance)
        return Posterior(fused, stream)

    found = fitted(student)
    if student is None or not all(found.fused.sources(level.scopes).soft):
        return found
    return replace(fitted(None), factor=student)


def _final_labels(
    context: RunContext, prepared: Prepared, rounds: Sequence[Numbers], kept: Tensor
) -> FinalLabels:
    """Return the final labels of student_train, a batch at a time. kept: [N] bool."""
    number, classes = rounds[-1]["round"], prepared.task.num_classes
    student = cross_fitted(context, number, classes)
    train = context.files.round(number).train
    predicted = train.read(classes) if student is None else student
    posterior = fit_posterior(context, prepared, rounds, student)
    parts = []
    for rows, found, evidence in posterior.batches():
        own = predicted.dense(rows)
        answered = evidence.annotations.sum((1, 2)) > 0
        if student is None:  # it repeats what it was taught, but of the rest it is a judge
            found = torch.where((answered & kept[rows])[:, None], found, own)
        weights = posterior.fused.weights(evidence, posterior.stream.level.scopes)
        parts.append(FinalLabels.of(found, evidence.annotations, weights, own))
    final = FinalLabels.concat(parts, posterior.stream.level.scopes.names)
    return final.with_reviewed(prepared.task.reviewed)
