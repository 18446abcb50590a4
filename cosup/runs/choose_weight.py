"""Choose the weight of labelled samples (`rounds.labelled_weight: auto`), as a stage of a run.

The rounds of the run are run with each weight, on the seed of the run, their heads fitted together.
The students of the last round are compared by their predictions of the labelled samples, each by a
student that was not trained on the sample (cross-fitted). Neither the validation nor the test split
is used.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cosup.config.schema import Config
from cosup.errors import about
from cosup.rounds import Outcome, run_rounds_together
from cosup.runs.assemble import Prepared
from cosup.runs.choose import pick, standings
from cosup.runs.context import RunContext
from cosup.runs.stages import build_recipe
from cosup.words import percent

log = logging.getLogger(__name__)

STAGE = "choose-labelled-weight"
WEIGHTS = (0.3, 1.0, 3.0, 10.0, 100.0)
"""With the last one, annotations are but a hint."""


def choose_weight(
    context: RunContext, prepared: Prepared
) -> tuple[RunContext, dict[str, Any] | None]:
    """Choose the weight of labelled samples that predicts them best.

    Returns the run with that weight, and how it was chosen: `weight`, `samples`, and `candidates`
    with the accuracy of each. Where there is nothing to choose the run is returned as it is, with
    None.
    """
    return weight_by(context, lambda: _right_of_each(context, prepared))


def weight_by(
    context: RunContext, right_of_each: Callable[[], Tensor]
) -> tuple[RunContext, dict[str, Any] | None]:
    """Choose the weight as `choose_weight`. right_of_each: returns for each of `WEIGHTS` which of
    the labelled samples [M] are predicted right, [K, M] float64."""
    config, run = context.config, context.run
    if not config.weighs_labels:
        return context, None
    if not run.is_done(STAGE):
        started = time.monotonic()
        with about("choosing the weight of labelled samples"):
            choice = _compare(right_of_each())
        run.finish(STAGE, {**choice, "seconds": time.monotonic() - started})
    choice = {key: value for key, value in run.load(STAGE).items() if key != "seconds"}
    return replace(context, config=with_weight(config, choice["weight"])), choice


def with_weight(config: Config, weight: float) -> Config:
    """Return the config with this weight of labelled samples, and the same folds."""
    rounds = config.rounds.model_copy(update={"labelled_weight": weight})
    student = config.student.model_copy(update={"cross_fit": config.folds})
    return config.model_copy(update={"rounds": rounds, "student": student})


def _right_of_each(context: RunContext, prepared: Prepared) -> Tensor:
    """Run the rounds with each weight together; return what the last students predict right."""
    labelled = prepared.task.labelled
    assert labelled is not None
    plans = [
        (
            prepared.task,
            build_recipe(replace(context, config=with_weight(context.config, one)), prepared),
        )
        for one in WEIGHTS
    ]
    *_, last = run_rounds_together(plans, context.seed, needed=True)
    ends = [outcome for outcome in last if outcome is not None]
    return _right(ends, labelled.labels)


def _compare(right: Tensor) -> dict[str, Any]:
    """Compare the weights by what their students predict right."""
    values, errors = standings(right)
    place = pick(values, errors, [True] * len(WEIGHTS))  # the smallest within noise
    records = [
        {"weight": weight, "accuracy": value} for weight, value in zip(WEIGHTS, values, strict=True)
    ]
    chosen = records[place]
    log.info(
        "weight of labelled samples: %g, with which %s of them are predicted right, cross-fitted",
        chosen["weight"],
        percent(chosen["accuracy"]),
    )
    return {"weight": chosen["weight"], "samples": right.shape[1], "candidates": records}


def _right(ends: Sequence[Outcome], labels: Tensor) -> Tensor:
    """Return [K, M] float64: 1 where the students of a weight predict a known label."""
    known, found = labels >= 0, []
    for outcome in ends:
        assert outcome.labelled_probs is not None
        found.append((outcome.labelled_probs.top()[0] == labels)[known].double())
    return torch.stack(found)
