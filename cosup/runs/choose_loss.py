"""Choosing among losses (`cosup.runs.candidates`) on the validation split, as stages of a run.

The run's own rounds are run with each candidate, on the seed of the run, and the last round's
student is measured on validation. The test split has no part in it.
"""

import logging
import shutil
import time
from dataclasses import replace
from typing import Any

from cosup.config.schema import Config
from cosup.errors import about
from cosup.registry import Choice
from cosup.rounds import run_rounds
from cosup.runs.assemble import Prepared
from cosup.runs.candidates import Candidate, candidates
from cosup.runs.directory import RunDirectory
from cosup.runs.stages import round_recipe, student_factory

log = logging.getLogger(__name__)

STAGE = "choose-loss"


def chosen_loss(
    config: Config, prepared: Prepared, run: RunDirectory, seed: int
) -> tuple[Config, dict[str, Any] | None]:
    """The config with the loss that does best on validation (the first of equal ones), and how it
    was chosen: `constant`, `chosen_on`, and `candidates` with the accuracy of each.

    The config as it is, and None, where there is nothing to choose. Each candidate is a stage
    (`choose-loss-K`), and so is the choice (`choose-loss`), with its seconds.
    """
    found = candidates(config.rounds.loss)
    if not found:
        return config, None
    if not run.is_done(STAGE):
        for number, candidate in enumerate(found, start=1):
            if not run.is_done(f"{STAGE}-{number}"):
                _try(config, candidate, prepared, run, seed, number)
        records = [run.load(f"{STAGE}-{number}") for number in range(1, len(found) + 1)]
        best = max(records, key=lambda record: float(record["accuracy"]))
        log.info("chosen on the validation split: constant %g", best["constant"])
        tried = [{key: record[key] for key in ("constant", "accuracy")} for record in records]
        seconds = sum(record["seconds"] for record in records)
        chosen = {"constant": best["constant"], "chosen_on": "validation", "candidates": tried}
        run.finish(STAGE, {**chosen, "seconds": seconds})
    choice = {key: value for key, value in run.load(STAGE).items() if key != "seconds"}
    loss = next(item.loss for item in found if item.value == choice["constant"])
    return with_loss(config, loss), choice


def with_loss(config: Config, loss: Choice) -> Config:
    """The same config with this loss alone."""
    rounds = config.rounds.model_copy(update={"loss": loss, "losses": None})
    return config.model_copy(update={"rounds": rounds})


def _try(
    config: Config,
    candidate: Candidate,
    prepared: Prepared,
    run: RunDirectory,
    seed: int,
    number: int,
) -> None:
    """Run the rounds with one candidate and record its accuracy on validation."""
    started = time.monotonic()
    inputs, split = prepared.task.validation_inputs, prepared.validation
    assert inputs is not None, "check_candidates has seen a validation split"
    assert split is not None
    tried = with_loss(config, candidate.loss)
    task = replace(prepared.task, test_inputs=inputs)
    with about(f"choosing the loss, constant {candidate.value:g}"):
        recipe = round_recipe(tried.rounds, student_factory(tried, prepared, seed))
        *_, last = run_rounds(task, recipe, seed)
    accuracy = split.accuracy(last.test_probs)
    log.info("constant %g: validation accuracy %.1f %%", candidate.value, 100 * accuracy)
    seconds = time.monotonic() - started
    record = {"constant": candidate.value, "accuracy": accuracy, "seconds": seconds}
    run.finish(f"{STAGE}-{number}", record)
    shutil.rmtree(prepared.scratch, ignore_errors=True)
