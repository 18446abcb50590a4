"""Assigners over shards give what they give of the same samples in memory, by any executor."""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from annotated_shards import SEED, Sharded, in_memory, of_memory, recipe_of
from helpers.user_errors import error_of

from cosup.assignment import Agreement, CrowdKit, crowd_kit
from cosup.control_runs import ControlRun, run_controls
from cosup.sharded.controls import ShardControls
from cosup.sharded.rounds import ShardTask
from cosup.sharded.shards import Shard
from cosup.sharded.supported import check_recipe
from cosup.sharded.work import LocalExecutor, Work

ORACLES = ["oracle", {"name": "oracle", "hard": True}, "loss_oracle"]
LEARNED: list[Any] = [
    {"name": "crowd_layer", "epochs": 3, "lr": 0.01},
    {"name": "crowd_layer", "epochs": 3, "annotations": "hard", "max_samples": 150},
    {"name": "raven", "epochs": 4, "lr": 0.05, "weight_lr": 0.3, "max_samples": 150},
    {"name": "raven", "epochs": 4, "lr": 0.05, "weight_lr": 30.0, "per_sample": True},
    {"name": "gate", "max_samples": 150},
    {"name": "crowd_kit", "method": "wawa"},
]


class Elsewhere(LocalExecutor):
    """Works as other processes do, which get a copy of the work and return one of its results, in
    any order."""

    def run(self, work: Work[Any], shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        copy = pickle.loads(pickle.dumps(work))
        for number, found in super().run(copy, list(reversed(shards))):
            yield number, pickle.loads(pickle.dumps(found))


def targets_of(sharded: Sharded, outcome: Any) -> torch.Tensor:
    store, numbers = sharded.samples.store, [shard.number for shard in sharded.world.shards]
    return torch.cat([store.probs(outcome.products.targets, n).dense() for n in numbers])


@pytest.mark.parametrize("assigners", [ORACLES, LEARNED], ids=["oracles", "learned"])
def test_assigners_are_those_of_samples_in_memory(known: Sharded, assigners: list[Any]) -> None:
    """What they learn is equal to the bit: from the same samples, drawn in the same order."""
    elsewhere = Elsewhere(known.executor.compute)
    for assigner in assigners:
        _, expected = in_memory(known, recipe_of(assigner, []))
        found = list(known.run(recipe_of(assigner, []), executor=elsewhere))
        for mine, other in zip(found, expected, strict=True):
            assert mine.assigner.keys() == other.assigner.keys()
            for name, value in other.assigner.items():
                if name in ("weight", "bias") and mine.number > 1:  # guided by the student
                    assert torch.allclose(mine.assigner[name], value, atol=1e-2), name
                else:
                    assert torch.equal(mine.assigner[name], value), (assigner, name)
            targets = other.assigned.targets.dense()
            assert torch.allclose(targets_of(known, mine), targets, atol=2e-3)
            assert torch.allclose(mine.test_probs.dense(), other.test_probs.dense(), atol=5e-3)


def test_crowd_kit_holds_no_more_samples_than_are_told(
    known: Sharded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the bytes of its method, which `cosup plan` tells."""
    recipe, samples = recipe_of("crowd_kit", []), known.world.shards.samples
    scopes = known.levels[1].scopes
    teachers, classes = scopes.classes.shape
    most = samples * teachers * crowd_kit.answer_bytes("one_coin", classes)
    monkeypatch.setattr(crowd_kit, "MOST_BYTES", most)
    recipe.assigner.check_parts(samples, scopes)
    for method in ("wawa", "mace"):
        CrowdKit(method).check_parts(samples, scopes)
    assert "glad" in str(error_of(lambda: CrowdKit("glad").check_parts(samples, scopes)))
    monkeypatch.setattr(crowd_kit, "MOST_BYTES", most - 1)
    for call in (
        lambda: recipe.assigner.check_parts(samples, known.levels[1].scopes),
        lambda: list(known.run(recipe)),
    ):
        assert "dawid_skene" in str(error_of(call))


class OfAll(Agreement):
    """Says that it weighs all sources at once, and does not learn from parts."""

    fuses = True


def test_an_assigner_that_reads_all_samples_at_once_is_refused() -> None:
    recipe = replace(recipe_of("agreement", []), assigner=OfAll())
    assert error_of(check_recipe, recipe).key == ("rounds", "assignment")


def test_controls_that_read_true_labels_are_those_of_samples_in_memory(known: Sharded) -> None:
    names = ["oracle_assignment", "oracle_without_rounds", "loss_oracle"]
    task, own = of_memory(known, recipe_of("random", []))
    expected, _ = run_controls(ControlRun(task, own, SEED, task.levels[0], own.new_student), names)
    shards = ShardTask(known.levels, known.world.shards.shards, (None, None))
    listed = ControlRun(task, own, SEED, task.levels[0], own.new_student)
    recipe, executor = recipe_of("random", []), Elsewhere(known.executor.compute)
    best = replace(known.levels[0], index=2)
    for name in names:
        context = ShardControls(name, listed, shards, recipe, known.head(), SEED, executor, best)
        found, absent = run_controls(context, [name])
        assert not absent
        assert torch.allclose(found[name].dense(), expected[name].dense(), atol=5e-3)
