"""Choose the recipe of the rounds by evidence (`rounds.choose: auto`), as a stage of a run.

The rounds of all candidates (`cosup.runs.recipes`) are run in lockstep on the seed of the run,
their heads fitted together, and the last students are compared: on the validation split if it has
enough labels, else on the labelled samples of teacher_train, else by a score that needs no labels.
No student sees the samples that it is compared on: one that learns from the labels of teacher_train
predicts them cross-fitted. The test split is not used. METHODS.md section 9.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from cosup.config.schema import Assigners, Config
from cosup.data.table import ImageData
from cosup.errors import about
from cosup.levels import Stream
from cosup.probabilities import ProbTable
from cosup.protocols import TestInputs
from cosup.rounds import Outcome, run_rounds_together
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.recipes import Candidate, candidates
from cosup.runs.scores import Reference, judge, weak_judge
from cosup.runs.stages import build_recipe, student_factory
from cosup.teachers.hierarchy import plan_hierarchy
from cosup.words import percent, plural

log = logging.getLogger(__name__)

STAGE = "choose-recipe"
LABELS_PER_CLASS = 30
"""Labels per class, on average, from which candidates are compared on a split."""
TIE = 0.5
"""Standard errors of a difference of accuracies within which the simpler candidate is taken."""

FUSED = Assigners.check("fused")

By = Literal["validation", "teacher_train", "score"]


@dataclass(frozen=True)
class Criterion:
    """What candidates are compared by.

    samples: how many. inputs, labels: the samples whose accuracy is measured; without labels
    (`score`) a few inputs that no one looks at.
    """

    by: By
    samples: int
    inputs: TestInputs
    labels: Tensor

    def right(self, probs: ProbTable) -> Tensor:
        """Return [n] float64: 1 where the prediction is right, of the labelled samples."""
        found, _ = probs.top()
        known = self.labels >= 0
        return (found == self.labels)[known].double()


def choose_recipe(
    context: RunContext, prepared: Prepared
) -> tuple[RunContext, Prepared, dict[str, Any] | None]:
    """Choose the recipe that does best.

    Returns the run with it, what its rounds read, and how it was chosen: `chosen`, `by`, `samples`
    and `candidates`. Without `choose: auto` the run is returned as it is, with None.
    """
    config = context.config
    if config.rounds.choose is None:
        return context, prepared, None
    data = prepared.data
    hierarchy = plan_hierarchy(config.teachers, data.classes, data.domains, config.run.seed)
    found = candidates(config, hierarchy, learns_labels(config, data))
    return recipe_by(context, prepared, found, lambda: _compare(context, prepared, found))


def recipe_by(
    context: RunContext,
    prepared: Prepared,
    found: Sequence[Candidate],
    compare: Callable[[], dict[str, Any]],
) -> tuple[RunContext, Prepared, dict[str, Any]]:
    """Choose the recipe as `choose_recipe`, among those found. compare: returns how it is chosen,
    as `choice_of`."""
    run = context.run
    if not run.is_done(STAGE):
        started = time.monotonic()
        names = "', '".join(item.name for item in found)
        log.info("comparing %s: '%s'", plural(len(found), "recipe"), names)
        with about("choosing the recipe"):
            choice = compare()
        log.info("%s", describe(choice))
        run.finish(STAGE, {**choice, "seconds": time.monotonic() - started})
        context.discard_training_states()
    choice = {key: value for key, value in run.load(STAGE).items() if key != "seconds"}
    chosen = next(item.config for item in found if item.name == choice["chosen"])
    return replace(context, config=chosen), prepared.for_rounds(chosen), choice


def criterion_of(config: Config, data: ImageData) -> tuple[By, int]:
    """Return what the candidates of a run are compared by, and on how many samples."""
    splits: tuple[By, ...] = ("validation", "teacher_train")
    for by in splits:
        if by == "teacher_train" and data.share_train:
            continue  # the student is trained on these samples
        labels = _labels(data, by)
        if int((labels >= 0).sum()) >= LABELS_PER_CLASS * len(data.classes):
            return by, int((labels >= 0).sum())
    return "score", len(data.rows("student_train"))


def learns_labels(config: Config, data: ImageData) -> bool:
    """Return whether recipes may teach the student the labels of teacher_train, beside annotations:
    enough of them are known, and students can be compared by labels."""
    rounds = config.rounds
    if "labelled" not in rounds.open:
        return rounds.labelled
    apart = not (data.share_train or config.data.few_shot is not None or rounds.true_label_weight)
    known = int((_labels(data, "teacher_train") >= 0).sum())
    enough = known >= LABELS_PER_CLASS * len(data.classes)
    return apart and enough and criterion_of(config, data)[0] != "score"


def _labels(data: ImageData, split: str) -> Tensor:
    return data.given(data.rows(split))


def find_criterion(context: RunContext, prepared: Prepared) -> Criterion:
    """Return what the candidates of a run are compared by, with the samples."""
    by, samples = criterion_of(context.config, prepared.data)
    inputs = prepared.inputs
    if by == "validation":
        assert inputs.validation is not None
        return Criterion(by, samples, inputs.validation.inputs, _labels(prepared.data, by))
    if by == "teacher_train":
        return Criterion(by, samples, inputs.of_split(by), _labels(prepared.data, by))
    return Criterion(by, samples, prepared.task.inputs[torch.arange(1)], torch.tensor([-1]))


def _compare(context: RunContext, prepared: Prepared, found: Sequence[Candidate]) -> dict[str, Any]:
    """Run the rounds of all candidates and compare them."""
    criterion = find_criterion(context, prepared)
    plans = []
    for item in found:
        ready = prepared.for_rounds(item.config)
        recipe = build_recipe(replace(context, config=item.config), ready)
        own = criterion.by == "teacher_train" and item.config.rounds.labelled
        if criterion.by != "score" and not own:  # nobody reads cross-fitted predictions of the last
            student = item.config.student.model_copy(update={"cross_fit": 0})
            plain = item.config.model_copy(update={"student": student})
            last_student = student_factory(replace(context, config=plain), ready)
            recipe = replace(recipe, last_student=last_student)
        plans.append((replace(ready.task, test_inputs=criterion.inputs), recipe))
    last: list[Outcome | None] = [None] * len(found)
    rejected: list[str | None] = [None] * len(found)
    for outcomes in run_rounds_together(plans, context.seed, needed=True):
        for place, outcome in enumerate(outcomes):
            if outcome is None:
                continue
            last[place] = outcome
            rounds, task = found[place].config.rounds, plans[place][0]
            reason = weak_judge(judge(rounds, task, outcome, context.seed), outcome.number)
            rejected[place] = rejected[place] or reason
        number = max(outcome.number for outcome in outcomes if outcome is not None)
        log.info("choosing the recipe: round %d of each is finished", number)
    ends = [outcome for outcome in last if outcome is not None]
    return choice_of(found, criterion, _values(context, prepared, criterion, ends), rejected)


def choice_of(
    found: Sequence[Candidate],
    criterion: Criterion,
    values: Tensor,
    rejected: Sequence[str | None],
) -> dict[str, Any]:
    """Choose among candidates, and return how.

    values: [K, n] of each candidate, whose mean is its accuracy or score. rejected: why each may
    not be chosen, or None.
    """
    by = criterion.by
    means, errors = standings(values)
    allowed = [reason is None for reason in rejected]
    place = pick(means, errors, allowed, 0.0 if by == "score" else TIE)
    key = "score" if by == "score" else "accuracy"
    records = [
        {"name": item.name, "rounds": item.settings, key: mean, "rejected": reason}
        for item, mean, reason in zip(found, means, rejected, strict=True)
    ]
    return {
        "chosen": found[place].name,
        "by": by,
        "samples": criterion.samples,
        "candidates": records,
    }


def describe(choice: dict[str, Any]) -> str:
    """Return a sentence that says what was chosen, among how many, and by what."""
    key = "score" if choice["by"] == "score" else "accuracy"
    values = {item["name"]: item[key] for item in choice["candidates"]}
    chosen = choice["chosen"]
    others = {
        item["name"]: item[key]
        for item in choice["candidates"]
        if item["name"] != chosen and item["rejected"] is None
    }
    show = percent if key == "accuracy" else "{:.3f}".format
    where = described(choice["by"], choice["samples"])
    text = f"chose '{chosen}' among {plural(len(values), 'recipe')} {where}: {show(values[chosen])}"
    if not others:
        return text
    best = max(others, key=lambda name: others[name])
    tie = ", not better beyond noise" if others[best] > values[chosen] else ""
    return f"{text} (next '{best}', {show(others[best])}{tie})"


def described(by: By, samples: int) -> str:
    """Return what candidates are compared by, in words."""
    if by == "validation":
        return f"on {samples} validation samples"
    if by == "teacher_train":
        return f"on the {samples} labelled samples of the teachers"
    return f"by a score without labels on {samples} samples"


def _values(
    context: RunContext, prepared: Prepared, criterion: Criterion, ends: Sequence[Outcome]
) -> Tensor:
    """Return the values [K, n] whose means are each candidate's accuracy or score."""
    if criterion.by == "score":
        rounds = context.config.rounds.model_copy(update={"assignment": FUSED})
        fused = context.config.model_copy(update={"rounds": rounds})
        level = prepared.for_rounds(fused).task.levels[-1]
        stream = Stream(level, None, prepared.task.features, None)
        reference = Reference.of(stream, level, context.seed)
        return torch.stack([reference.agrees(outcome.train_probs) for outcome in ends])
    return torch.stack([criterion.right(_answers(criterion, outcome)) for outcome in ends])


def standings(parts: Tensor) -> tuple[list[float], list[list[float]]]:
    """Return the mean of each candidate [K, n], and the standard error of each difference."""
    differences = parts[:, None] - parts[None]
    return parts.mean(1).tolist(), (differences.std(-1) / parts.shape[1] ** 0.5).tolist()


def _answers(criterion: Criterion, outcome: Outcome) -> ProbTable:
    """Return the predictions of the samples that are compared on, which are cross-fitted if the
    student learns from them."""
    if criterion.by == "teacher_train" and outcome.labelled_probs is not None:
        return outcome.labelled_probs
    return outcome.test_probs


def pick(
    values: Sequence[float],
    errors: Sequence[Sequence[float]],
    allowed: Sequence[bool],
    tie: float = TIE,
) -> int:
    """Return the first of the allowed candidates that the best one does not beat by more than `tie`
    standard errors of their difference.

    errors: the standard error of the difference of any two.
    """
    places = [place for place, fine in enumerate(allowed) if fine]
    best = max(places, key=lambda place: values[place])
    return next(
        place for place in places if values[best] - values[place] <= tie * errors[best][place]
    )
