"""A student that is not trained guides the first round over shards as in memory."""

from dataclasses import replace

import torch
from annotated_shards import SEED, Sharded, of_memory, recipe_of, student

from cosup.losses.base import Objective
from cosup.rounds import run_rounds
from cosup.seeds import torch_generator
from cosup.sharded.head import ShardHead
from cosup.sharded.lesson import Trained
from cosup.sharded.rounds import run_shard_rounds
from cosup.sharded.store import Product
from cosup.student.head import HeadStudent
from cosup.student.setup import StudentSetup


def test_the_untrained_student_guides_as_in_memory(sharded: Sharded) -> None:
    level = sharded.levels[0]
    features = sharded.whole(level)[1]
    directions = torch.randn(10, features.shape[1], generator=torch_generator(0))
    head = student().head.model_copy(update={"kind": "prototype", "init": "text"})
    section = student().model_copy(update={"head": head})
    setup = StudentSetup(section, 10, sharded.world.compute, None)

    def new_student(objective: Objective, seed: int) -> HeadStudent:
        return HeadStudent(setup, objective, seed, directions)

    filters = [{"name": "teacher_student", "mode": "mask", "k": 3}]
    recipe = replace(recipe_of("agreement", filters), student_first=True)
    task, _ = of_memory(sharded, recipe)
    expected = list(run_rounds(task, replace(recipe, new_student=new_student), SEED))
    own = ShardHead(head, section.training, features[:50], directions)
    product = Product.of("predictions", "untrained")
    untrained = Trained(own.untrained())
    work = own.predicting(level.samples, level.features, untrained, product)
    shards = sharded.world.shards.shards
    assert len(list(sharded.executor.run(work, shards))) == len(shards)
    guided = replace(sharded.task(recipe), guide=product)
    found = list(run_shard_rounds(guided, recipe, own, SEED, sharded.executor))
    for mine, other in zip(found, expected, strict=True):
        assert mine.kept.count == other.kept.count
        assert torch.allclose(mine.test_probs.dense(), other.test_probs.dense(), atol=5e-3)
    crowd = replace(recipe, student_first=False)
    plain = next(run_shard_rounds(guided, crowd, own, SEED, sharded.executor))
    assert plain.kept.count != found[0].kept.count
