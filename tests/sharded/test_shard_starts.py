"""Heads over shards start from class means and prompts as those of samples in memory do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from annotated_shards import FOLDS, SEED, Sharded, of_memory, recipe_of
from helpers.tiny_clip import architecture, one_vocabulary, write_clip

from cosup.config.schema import StudentSection
from cosup.losses.base import Objective
from cosup.models.clip_text import learnt_prompts, prompts_of
from cosup.models.learnt_prompts import LearntPrompts
from cosup.models.section import BackboneSection, HeadSection
from cosup.rounds import Outcome, run_rounds
from cosup.sharded.head import ShardHead
from cosup.sharded.rounds import ShardOutcome, run_shard_rounds
from cosup.student.head import HeadStudent
from cosup.student.setup import StudentSetup

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def both(
    sharded: Sharded, head: HeadSection, prompts: LearntPrompts | None = None, **training: Any
) -> list[tuple[ShardOutcome, Outcome]]:
    """Run the rounds of a student with this head, by shards and in memory."""
    recipe = recipe_of("agreement", [{"name": "teacher_student", "k": 3}])
    task, own = of_memory(sharded, recipe, FOLDS)
    backbone = {"name": "test_resnet", "weights": None, "image_size": 32}
    given = {"steps": 20, "batch_size": 32, "lr": 0.01, **training}
    plain = StudentSection.model_validate({"mode": "head", "backbone": backbone, "training": given})
    section = plain.model_copy(update={"head": head})  # learnt prompts need no backbone of CLIP's
    setup = StudentSetup(section, 10, sharded.world.compute, sharded.folds(FOLDS))

    def new_student(objective: Objective, seed: int) -> HeadStudent:
        return HeadStudent(setup, objective, seed, None, prompts)

    expected = run_rounds(task, replace(own, new_student=new_student), SEED)
    assert isinstance(task.test_inputs, torch.Tensor)
    mine = ShardHead(
        section.head, section.training, task.test_inputs, None, sharded.world.compute, prompts
    )
    found = run_shard_rounds(sharded.task(recipe, FOLDS), recipe, mine, SEED, sharded.executor)
    return list(zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("confident", "standardize", "steps", "lr"), [(0.5, False, 1, 1e-9), (0.07, True, 20, 0.01)]
)
def test_class_means_are_those_of_samples_in_memory(
    sharded: Sharded, confident: float, standardize: bool, steps: int, lr: float
) -> None:
    """Those of the folds' heads too, whose predictions guide the next round."""
    head = HeadSection(kind="prototype", confident=confident)
    for found, expected in both(sharded, head, steps=steps, standardize=standardize, lr=lr):
        tensors = dict(found.student)
        assert tensors.keys() == expected.student.keys()
        close = 1e-6 if steps == 1 and found.number == 1 else 5e-3
        for name, value in expected.student.items():
            torch.testing.assert_close(tensors[name], value, atol=close, rtol=1e-3)
        assert found.kept.count == expected.kept.count
        torch.testing.assert_close(
            found.test_probs.dense(), expected.test_probs.dense(), atol=5e-3, rtol=0
        )


def test_prompts_are_learnt_as_in_memory(sharded: Sharded, tmp_path: Path) -> None:
    _, features = sharded.whole(sharded.levels[0])
    write_clip(tmp_path, {**architecture(), "embed_dim": features.shape[1]})
    head = HeadSection(kind="prototype", init="prompts", context=4, class_names=DIGITS, scale=5.0)
    backbone = BackboneSection(name=f"open_clip:{tmp_path}")
    with one_vocabulary():
        prompts = learnt_prompts(backbone, prompts_of(backbone, head, DIGITS), head.context)
        pairs = both(sharded, head, prompts)
    for found, expected in pairs:
        torch.testing.assert_close(
            found.test_probs.dense(), expected.test_probs.dense(), atol=5e-3, rtol=0
        )
    first, last = (found.student["weight"] for found, _ in pairs)
    assert not torch.allclose(first, last, atol=1e-4)  # learnt from other annotations
