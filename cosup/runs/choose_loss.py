"""Choose among losses on the validation split, as stages of a run (`cosup.runs.losses`).

The rounds of the run are run with each candidate, on the seed of the run, and the student of the
last round is measured on validation. The test split is not used.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cosup.errors import about
from cosup.probabilities import ProbTable
from cosup.rounds import run_rounds
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.losses import Candidate, candidates, with_loss
from cosup.runs.stages import build_recipe

log = logging.getLogger(__name__)

STAGE = "choose-loss"

Predict = Callable[[RunContext, float], ProbTable]
"""Runs the rounds of a run with the constant that it has, and returns what the last student
predicts of validation."""


def choose_loss(
    context: RunContext, prepared: Prepared
) -> tuple[RunContext, dict[str, Any] | None]:
    """Choose the loss that does best on validation, the first of equal ones.

    Returns the run with that loss, and how it was chosen: `constant`, `chosen_on`, and `candidates`
    with the accuracy of each. Without candidates the run is returned as it is, with None. Each
    candidate is a stage (`choose-loss-K`), and so is the choice (`choose-loss`), with its seconds.
    """

    def predict(tried: RunContext, value: float) -> ProbTable:
        validation = prepared.inputs.validation
        assert validation is not None, "check_candidates requires a validation split"
        task = replace(prepared.task, test_inputs=validation.inputs)
        *_, last = run_rounds(task, build_recipe(tried, prepared), tried.seed)
        return last.test_probs

    return loss_by(context, prepared, predict)


def loss_by(
    context: RunContext, prepared: Prepared, predict: Predict
) -> tuple[RunContext, dict[str, Any] | None]:
    """Choose the loss as `choose_loss`, among rounds that `predict` runs."""
    config, run = context.config, context.run
    found = candidates(config.rounds.loss)
    if not found:
        return context, None
    if not run.is_done(STAGE):
        for number, candidate in enumerate(found, start=1):
            if not run.is_done(f"{STAGE}-{number}"):
                _measure(context, prepared, predict, candidate, f"{STAGE}-{number}")
        records = [run.load(f"{STAGE}-{number}") for number in range(1, len(found) + 1)]
        best = max(records, key=lambda record: float(record["accuracy"]))
        log.info("chosen on the validation split: constant %g", best["constant"])
        tried = [{key: record[key] for key in ("constant", "accuracy")} for record in records]
        seconds = sum(record["seconds"] for record in records)
        chosen = {"constant": best["constant"], "chosen_on": "validation", "candidates": tried}
        run.finish(STAGE, {**chosen, "seconds": seconds})
    choice = {key: value for key, value in run.load(STAGE).items() if key != "seconds"}
    loss = next(item.loss for item in found if item.value == choice["constant"])
    return replace(context, config=with_loss(config, loss)), choice


def _measure(
    context: RunContext, prepared: Prepared, predict: Predict, candidate: Candidate, stage: str
) -> None:
    """Run the rounds with one candidate and record its accuracy on validation."""
    started, value = time.monotonic(), candidate.value
    validation = prepared.inputs.validation
    assert validation is not None, "check_candidates requires a validation split"
    with about(f"choosing the loss, constant {value:g}"):
        probs = predict(replace(context, config=with_loss(context.config, candidate.loss)), value)
    accuracy = validation.split.accuracy(probs)
    assert accuracy is not None, "a validation split has samples"
    log.info("constant %g: validation accuracy %.1f %%", value, 100 * accuracy)
    seconds = time.monotonic() - started
    context.run.finish(stage, {"constant": value, "accuracy": accuracy, "seconds": seconds})
    context.discard_training_states()
