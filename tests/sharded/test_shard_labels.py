"""A student of shards learns the labels of their samples as one of samples in memory does."""

import torch
from annotated_shards import FOLDS, Sharded, in_memory, recipe_of

from cosup.refinement import ProductRefinement


def test_labels_are_learned_beside_annotations_as_in_memory(known: Sharded) -> None:
    refiner, filters = ProductRefinement(rounds=1), [{"name": "teacher_student", "k": 3}]
    recipe = recipe_of("agreement", filters, refiner, label_weight=3.0)
    task, expected = in_memory(known, recipe, FOLDS)
    assert task.labels is not None
    plain = list(known.run(recipe_of("agreement", filters, refiner), FOLDS))
    found = list(known.run(recipe, FOLDS))
    for mine, other, without in zip(found, expected, plain, strict=True):
        assert torch.allclose(mine.test_probs.dense(), other.test_probs.dense(), atol=5e-3)
        assert not torch.allclose(mine.test_probs.dense(), without.test_probs.dense(), atol=5e-3)
        assert mine.products.weights != without.products.weights


def test_given_labels_decide_as_in_memory_before_local_students(known: Sharded) -> None:
    recipe = recipe_of("random", [{"name": "given_label", "k": 3}, "local_global"], None, 3.0)
    _, expected = in_memory(known, recipe)
    for mine, other in zip(known.run(recipe), expected, strict=True):
        assert 0 < mine.kept.kept_alone["given_label"] < mine.kept.samples
        assert mine.kept.kept_alone == other.kept.kept_alone
        assert mine.kept.rejected == other.kept.rejected
