"""The stage `labels`: the final label of each sample of student_train, and who agrees with whom.

A label is the most probable class of the posterior of all sources (`cosup.assignment.fused`), the
student among them where its predictions are cross-fitted, whatever the assigner of the rounds.
METHODS.md section 11.
"""

import logging
import time
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from cosup.analysis.agreement import AgreementSums
from cosup.analysis.arrays import codes
from cosup.analysis.labels import FinalLabels, LabelSums, labels_table
from cosup.config.schema import Assigners
from cosup.files import csv_bytes
from cosup.posterior import Posterior, fit_posterior
from cosup.probabilities import ProbTable
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.sources import all_answers, teachers_of
from cosup.runs.stages import cross_fitted
from cosup.runs.summary import Numbers
from cosup.seeds import seed_for
from cosup.sources import STUDENT
from cosup.words import percent

log = logging.getLogger(__name__)

STAGE = "labels"


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
        files.labels_csv.put(csv_bytes(table))
        classes = prepared.data.classes
        numbers = LabelSums.of(table, decisions["true_label"], classes).numbers(classes)
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
    names = teachers_of(prepared)
    annotations, asked = (
        torch.from_numpy(codes(decisions[column], known))
        for column, known in (("annotation", list(data.classes)), ("assigned_teacher", names))
    )
    said = all_answers(prepared, names, own).long()
    found = AgreementSums.of(said, labels, annotations, asked).numbers([*names, STUDENT])
    return {"cross_fitted": student is not None, **found}


def run_posterior(
    context: RunContext, prepared: Prepared, rounds: Sequence[Numbers], student: ProbTable | None
) -> Posterior:
    """Return the posterior from the sources of the last round and the student.

    student: cross-fitted probabilities of student_train, or None.
    """
    task, last = prepared.task, rounds[-1]
    file = context.files.round(last["round"]).assigner
    return fit_posterior(
        task,
        task.levels[last["level"]],
        student,
        seed_for(context.seed, STAGE),
        Assigners.build(context.config.rounds.assignment),
        file.read() if file.exists() else None,
    )


def _final_labels(
    context: RunContext, prepared: Prepared, rounds: Sequence[Numbers], kept: Tensor
) -> FinalLabels:
    """Return the final labels of student_train, a batch at a time. kept: [N] bool."""
    number, classes = rounds[-1]["round"], prepared.task.num_classes
    student = cross_fitted(context, number, classes)
    train = context.files.round(number).train
    predicted = train.read(classes) if student is None else student
    posterior = run_posterior(context, prepared, rounds, student)
    scopes, parts = posterior.stream.level.scopes, []
    for found, own, evidence in posterior.beside(predicted, kept, cross_fitted=student is not None):
        weights = posterior.fused.weights(evidence, scopes)
        parts.append(FinalLabels.of(found, evidence.annotations, weights, own))
    final = FinalLabels.concat(parts, scopes.names)
    return final.with_reviewed(prepared.task.reviewed)
