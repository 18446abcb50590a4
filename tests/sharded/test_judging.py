"""Who judges whom is estimated as in memory, by works that other processes may do."""

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from annotated_shards import SEED, Sharded, in_memory, recipe_of

from cosup.config.rounds import RoundsSection
from cosup.runs.scores import judge
from cosup.sharded.judging import judge_shards
from cosup.sharded.shards import Shard
from cosup.sharded.work import LocalExecutor, Work


class Sending(LocalExecutor):
    """Sends works through pickle, as to another process."""

    def run(self, work: Work[Any], shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        return super().run(pickle.loads(pickle.dumps(work)), shards)


def test_a_guiding_student_is_judged_as_in_memory(sharded: Sharded) -> None:
    filters = [{"name": "teacher_student", "mode": "mask", "k": 3}]
    rounds = RoundsSection.model_validate({"assignment": "mean", "consistency": filters})
    task, outcomes = in_memory(sharded, recipe_of("mean", filters))
    recipe, executor = recipe_of("mean", filters), Sending(sharded.world.compute)
    whole, judged = sharded.task(recipe), []
    for outcome, other in zip(sharded.run(recipe), outcomes, strict=True):
        found = judge_shards(whole, recipe, outcome, SEED, executor)
        expected = judge(rounds, task, other, SEED)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found == pytest.approx(expected, abs=2e-3)
            judged.append(found)
    assert len(judged) == 1  # no student guides the first round
    assert judged[0]["student"] != judged[0]["annotations"]


def test_without_a_filter_that_compares_nobody_is_judged(sharded: Sharded) -> None:
    recipe = recipe_of("mean", [{"name": "unanimity", "share": 0.5}])
    task = sharded.task(recipe)
    for outcome in sharded.run(recipe):
        assert judge_shards(task, recipe, outcome, SEED, sharded.executor) is None
