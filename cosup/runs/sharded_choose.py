"""Choose the recipe of the rounds (`rounds.choose: auto`) of a sharded run.

As `cosup.runs.choose`, on the same samples and by the same rule, with the rounds of one candidate
after another. Students are compared by labels: a score without them would read all shards.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cosup.config.schema import Config
from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.runs.assemble import Prepared
from cosup.runs.choose import (
    LABELS_PER_CLASS,
    Criterion,
    choice_of,
    criterion_of,
    find_criterion,
    learns_labels,
    recipe_by,
)
from cosup.runs.context import RunContext
from cosup.runs.recipes import Candidate, candidates
from cosup.runs.scores import weak_judge
from cosup.runs.sharded_check import shard_recipe
from cosup.runs.sharded_task import shard_student, with_rounds
from cosup.sharded.head import ShardHead, predict_labelled
from cosup.sharded.judging import judge_shards
from cosup.sharded.rounds import ShardTask, run_shard_rounds
from cosup.sharded.store import Product
from cosup.sharded.supported import check_recipe
from cosup.sharded.work import Executor
from cosup.teachers.hierarchy import Hierarchy

__all__ = ["check_comparable", "choose_shard_recipe", "shard_candidates"]

log = logging.getLogger(__name__)

PREFIX = "recipe-"
"""Of the names of what candidates write. Those with equal decisions write the same products. Also
begins the names of the stages that record candidates, each of which is there until one is
chosen."""


def check_comparable(config: Config, data: ImageData) -> None:
    """Raise `UserError` if recipes are to be compared, and there are too few labels for it. data:
    the listed samples."""
    if config.rounds.choose is None or criterion_of(config, data)[0] != "score":
        return
    least = LABELS_PER_CLASS * len(data.classes)
    splits = ("validation", "teacher_train")
    known = (len(data.labelled(data.rows(split))) for split in splits)
    counts = " and ".join(f"{split} has {n}" for split, n in zip(splits, known, strict=True))
    raise UserError(
        f"compares recipes by labels with data.sharded, at least {least} of one split "
        f"({LABELS_PER_CLASS} per class), and {counts}",
        key="rounds.choose",
        value="auto",
        allowed="null",
    )


def shard_candidates(
    config: Config, hierarchy: Hierarchy, data: ImageData
) -> tuple[list[Candidate], dict[str, str]]:
    """Return the recipes that a sharded run compares, from simple to complex, and by name why
    others cannot be run shard by shard. data: the listed samples.

    Raises `UserError` if everything is given.
    """
    found, left_out = list[Candidate](), dict[str, str]()
    for item in candidates(config, hierarchy, learns_labels(config, data)):
        try:
            check_recipe(shard_recipe(item.config))
        except UserError as error:
            left_out[item.name] = str(error)
        else:
            found.append(item)
    assert found, "settings that no recipe can have are refused (check_sharded)"
    return found, left_out


def choose_shard_recipe(
    context: RunContext, prepared: Prepared, task: ShardTask, executor: Executor
) -> tuple[RunContext, Prepared, ShardTask, dict[str, Any] | None]:
    """Choose as `choose_recipe`. Returns also the task of the rounds with the recipe; `left_out`
    is the reason for each recipe that was not compared, by name, if there are any."""
    config = context.config
    if config.rounds.choose is None:
        return context, prepared, task, None
    levels = prepared.annotated.levels
    hierarchy = tuple(tuple(teacher.spec for teacher in level) for level in levels)
    found, left_out = shard_candidates(config, hierarchy, prepared.data)

    def compare() -> dict[str, Any]:
        for name, reason in left_out.items():
            log.info("not compared: '%s': %s", name, reason)
        criterion = find_criterion(context, prepared)
        choice = _compare(_Comparison(context, prepared, task, executor, criterion), found)
        return {**choice, "left_out": left_out} if left_out else choice

    chosen, ready, choice = recipe_by(context, prepared, found, compare)
    for number in range(1, len(found) + 1):
        context.run.files.stage(f"{PREFIX}{number}").remove()
    return chosen, ready, with_rounds(task, chosen, ready), choice


class _Compared(NamedTuple):
    """What a candidate is compared by. right: [n] float64, 1 where the last student is right.
    rejected: why it may not be chosen, or None. products: what its rounds have written."""

    right: Tensor
    rejected: str | None
    products: set[Product]

    def record(self, item: Candidate) -> dict[str, Any]:
        """Return it as plain values, with the candidate that it is of."""
        return {
            "name": item.name,
            "rounds": item.settings,
            "samples": len(self.right),
            "right": np.packbits(self.right.numpy() > 0).tobytes().hex(),
            "rejected": self.rejected,
            "products": [vars(product) for product in sorted(self.products, key=repr)],
        }

    @staticmethod
    def of(record: dict[str, Any]) -> "_Compared":
        """Return what `record` has returned."""
        bits = np.frombuffer(bytes.fromhex(record["right"]), np.uint8)
        right = torch.from_numpy(np.unpackbits(bits, count=record["samples"])).double()
        products = {Product(**product) for product in record["products"]}
        return _Compared(right, record["rejected"], products)


@dataclass(frozen=True)
class _Comparison:
    """The run whose recipe is chosen, and by what."""

    context: RunContext
    prepared: Prepared
    task: ShardTask
    executor: Executor
    criterion: Criterion

    def finish(self, number: int, item: Candidate) -> _Compared:
        """Run a candidate and record what it is compared by, unless that is recorded already."""
        stage, run = f"{PREFIX}{number}", self.context.run
        if run.is_done(stage):
            record = run.load(stage)
            if (record["name"], record["rounds"]) == (item.name, item.settings):
                return _Compared.of(record)
        found = self.run(item)
        run.finish(stage, found.record(item))
        return found

    def run(self, item: Candidate) -> _Compared:
        """Run the rounds of a candidate on which its last student depends."""
        criterion, seed, executor = self.criterion, self.context.seed, self.executor
        context = replace(self.context, config=item.config)
        task, recipe = with_rounds(self.task, context, self.prepared), shard_recipe(item.config)
        own = criterion.by == "teacher_train" and item.config.rounds.labelled
        student = shard_student(context, self.prepared)
        assert isinstance(student, ShardHead), "recipes are compared by heads"
        student = replace(student, test=criterion.inputs)
        rejected, products = None, set[Product]()
        for outcome in run_shard_rounds(
            task, recipe, student, seed, executor, prefix=PREFIX, fold_last=own, needed=True
        ):
            products |= {*outcome.written}
            judged = judge_shards(task, recipe, outcome, seed, executor)
            rejected = rejected or weak_judge(judged, outcome.number)
        if not own:
            return _Compared(criterion.right(outcome.test_probs), rejected, products)
        assert task.labelled is not None
        found, _ = predict_labelled(outcome.folds, task.labelled).top()
        return _Compared((found == task.labelled.labels).double(), rejected, products)


def _compare(comparison: _Comparison, found: Sequence[Candidate]) -> dict[str, Any]:
    """Run the candidates one after another, those that are not recorded, and compare them.

    What a candidate has written of shards is kept for the next one, which may decide alike, and
    then removed.
    """
    store = comparison.task.levels[0].samples.store
    values, rejected, held = list[Tensor](), list[str | None](), set[Product]()
    for number, item in enumerate(found, start=1):
        right, reason, products = comparison.finish(number, item)
        values.append(right)
        rejected.append(reason)
        for product in held - products:
            store.remove(product)
        held = products
        log.info("choosing the recipe: '%s' is finished, %d of %d", item.name, number, len(found))
    for product in held:
        store.remove(product)
    return choice_of(found, comparison.criterion, torch.stack(values), rejected)
