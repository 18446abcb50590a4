"""Controls over shards are those of samples in memory, and leave nothing of shards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from annotated_shards import FOLDS, SEED, Sharded, of_memory, recipe_of

from cosup.control_runs import ControlRun, run_controls
from cosup.sharded.controls import ShardControls


@pytest.mark.parametrize(("hard", "label_weight"), [(True, 0.0), (False, 3.0)])
def test_self_training_is_that_of_samples_in_memory(
    known: Sharded, hard: bool, label_weight: float
) -> None:
    recipe = recipe_of("agreement", [], label_weight=label_weight)
    recipe = replace(recipe, hard=hard, least=3)
    whole, own = of_memory(known, recipe, FOLDS)
    _, plain = of_memory(known, recipe)
    best = replace(whole.levels[0], index=2)
    control = ControlRun(whole, own, SEED, best, plain.new_student)
    name = "self_training"
    expected, _ = run_controls(control, [name])
    shards = ShardControls(
        name,
        control,
        known.task(recipe, FOLDS),
        recipe,
        known.head(),
        SEED,
        known.executor,
        replace(known.levels[0], index=2),
    )
    before = files_of(known)
    found, absent = run_controls(shards, [name])
    assert not absent
    assert torch.allclose(found[name].dense(), expected[name].dense(), atol=5e-3)
    once, _ = run_controls(shards, ["best_teacher"])
    assert not torch.allclose(found[name].dense(), once["best_teacher"].dense(), atol=5e-3)
    assert files_of(known) == before


def files_of(sharded: Sharded) -> set[Path]:
    return set(Path(sharded.samples.store.root).rglob("*.parquet"))
