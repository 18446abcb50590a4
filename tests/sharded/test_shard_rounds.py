"""Rounds over shards give the numbers of rounds over samples in memory, resumed or not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.user_errors import error_of
from sharded_world import Open, World
from torch import Tensor

from cosup.config.schema import StudentSection
from cosup.consistency import Chain
from cosup.decisions import build_assigner, build_filters
from cosup.evidence import Truth
from cosup.levels import ArrayAnnotations, Level, Task
from cosup.losses.base import Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.rounds import Outcome, Recipe, run_rounds
from cosup.sharded.evidence import ShardLevel
from cosup.sharded.head import ShardHead
from cosup.sharded.image_work import annotation_works, extract_work
from cosup.sharded.lesson import ShardSamples
from cosup.sharded.rounds import ShardOutcome, ShardRecipe, ShardTask, run_shard_rounds
from cosup.sharded.shards import Shard
from cosup.sharded.store import ShardStore
from cosup.sharded.work import LocalExecutor, Samples, Work
from cosup.student.head import HeadStudent
from cosup.student.setup import StudentSetup
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import scopes

SEED = 3


class Sharded:
    """A manifest with its annotations and features in a store."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        samples = Samples(world.shards.reader, ShardStore(str(folder)))
        self.executor = LocalExecutor(world.compute)
        teachers = world.teachers()
        works = annotation_works(teachers, samples, world.restoring(), world.compute)
        backbone = world.config.student.backbone
        extract = extract_work(backbone, samples, FeatureCache(world.compute), torch.device("cpu"))
        for work in [*works, extract]:
            for _ in self.executor.run(
                work, samples.store.missing(work.products[-1], world.shards)
            ):
                pass
        products = {product.name: product for work in works for product in work.products}
        (self.features,) = extract.products
        by_level = [[t for t in teachers if t.spec.level == level] for level in (0, 1)]
        self.levels = tuple(
            ShardLevel(
                index,
                scopes([t.spec for t in members], 10, 1),
                samples,
                tuple(products[t.name] for t in members),
                self.features,
            )
            for index, members in enumerate(by_level)
        )
        self.samples = samples

    def whole(self, level: ShardLevel) -> tuple[Tensor, Tensor]:
        """Return all annotations [N, T, C] and features [N, D]."""
        store, numbers = self.samples.store, [s.number for s in self.world.shards]
        columns = [
            torch.cat([store.probs(product, number).dense() for number in numbers])
            for product in level.annotations
        ]
        parts = [store.tensors(level.features, number)["features"] for number in numbers]
        return torch.stack(columns, 1), torch.cat(parts)

    def task(self) -> ShardTask:
        return ShardTask(self.levels, self.world.shards.shards, (None, None))

    def run(self, recipe: ShardRecipe) -> Iterator[ShardOutcome]:
        return run_shard_rounds(self.task(), self.tested(recipe), SEED, self.executor)

    def tested(self, recipe: ShardRecipe) -> ShardRecipe:
        """Return the recipe whose student predicts the first samples as the test split."""
        _, features = self.whole(self.levels[0])
        assert isinstance(recipe.student, ShardHead)
        return replace(recipe, student=replace(recipe.student, test=features[:50]))


@pytest.fixture
def sharded(opened: Open, tmp_path: Path) -> Sharded:
    return Sharded(opened(), tmp_path / "store")


def student() -> StudentSection:
    backbone = {"name": "test_resnet", "weights": None, "image_size": 32}
    training = {"steps": 40, "batch_size": 32, "lr": 0.01}
    given = {"mode": "head", "backbone": backbone, "training": training}
    return StudentSection.model_validate(given)


def recipe_of(assigner: Any, filters: Sequence[Any]) -> ShardRecipe:
    section, chain = student(), build_filters(filters)
    return ShardRecipe(
        build_assigner(assigner),
        ShardHead(section.head, section.training, Objective(CrossEntropy()), torch.empty(0, 0)),
        Chain(chain.names, chain.filters),
        ((1, 0), (2, 1)),
    )


def in_memory(sharded: Sharded, assigner: Any, filters: Sequence[Any]) -> list[Outcome]:
    levels = []
    for level in sharded.levels:
        annotations, features = sharded.whole(level)
        levels.append(Level(level.index, level.scopes, ArrayAnnotations(annotations)))
    count = len(features)
    truth = Truth(torch.full((count,), -1), torch.zeros(count, dtype=torch.int64))
    task = Task(tuple(levels), features, features[:50], truth, 10, features)
    setup = StudentSetup(student(), 10, sharded.world.compute)

    def new_student(objective: Objective, seed: int) -> HeadStudent:
        return HeadStudent(setup, objective, seed)

    recipe = Recipe(
        build_assigner(assigner), Objective(CrossEntropy()), new_student, build_filters(filters)
    )
    return list(run_rounds(task, recipe, SEED))


@pytest.mark.parametrize(
    ("assigner", "filters"),
    [
        ("agreement", []),
        ("random", []),
        ({"name": "dawid_skene", "hard": False}, [{"name": "confidence", "threshold": 0.12}]),
        ("gate", [{"name": "teacher_student", "mode": "mask", "k": 3}]),
        ("mean", [{"name": "unanimity", "share": 0.5}]),
    ],
    ids=["agreement", "random", "dawid_skene", "gate", "mean"],
)
def test_decisions_and_students_are_those_of_samples_in_memory(
    sharded: Sharded, assigner: Any, filters: Sequence[Any]
) -> None:
    expected = in_memory(sharded, assigner, filters)
    recipe = recipe_of(assigner, filters)
    schedule = tuple((one.number, one.level) for one in expected)
    found = list(sharded.run(replace(recipe, schedule=schedule)))
    store = sharded.samples.store
    for mine, other in zip(found, expected, strict=True):
        numbers = [shard.number for shard in sharded.world.shards]
        kept = torch.cat([store.tensors(mine.products.weights, n)["weight"] for n in numbers])
        targets = torch.cat([store.probs(mine.products.targets, n).dense() for n in numbers])
        assert torch.equal(kept > 0, other.kept.keep)
        assert torch.allclose(targets, other.assigned.targets.dense(), atol=2e-3)
        assert mine.kept.count == other.kept.count
        assert mine.kept.rejected == other.kept.rejected
        assert torch.allclose(mine.test_probs.dense(), other.test_probs.dense(), atol=5e-3)


def test_the_table_of_decisions_has_the_columns_of_a_run(sharded: Sharded) -> None:
    outcome = list(sharded.run(recipe_of("agreement", [])))[-1]
    shard = sharded.world.shards.shards[1]
    table = sharded.samples.store.table(outcome.products.decisions, shard.number).to_pandas()
    assert len(table) == shard.samples
    assert {"sample_id", "assigned_teacher", "annotation", "kept", "rejected_by", "loss_weight"} < {
        *table.columns
    }
    assert set(table["round"]) == {2}
    assert table["assigned_teacher"].isin(sharded.levels[1].scopes.names).all()


class Killed(Exception):
    """Raised in the middle of a work."""


class Dying(LocalExecutor):
    """Stops after some shards of all works together."""

    def __init__(self, executor: LocalExecutor, left: int) -> None:
        super().__init__(executor.compute)
        object.__setattr__(self, "left", left)

    left: int

    def run(self, work: Work[Any], shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        for found in super().run(work, shards):
            if self.left == 0:
                raise Killed
            object.__setattr__(self, "left", self.left - 1)
            yield found


@pytest.mark.parametrize("after", [4, 20, 30, 60])
def test_rounds_that_are_interrupted_end_with_the_same_numbers(
    opened: Open, tmp_path: Path, after: int
) -> None:
    world = opened()
    whole, cut = Sharded(world, tmp_path / "whole"), Sharded(world, tmp_path / "cut")
    recipe: Callable[[], ShardRecipe] = lambda: recipe_of("dawid_skene", [])  # noqa: E731
    expected = list(whole.run(recipe()))[-1]
    dying = Dying(cut.executor, after)
    with pytest.raises(Killed):
        list(run_shard_rounds(cut.task(), cut.tested(recipe()), SEED, dying))
    found = list(cut.run(recipe()))[-1]
    assert torch.equal(found.test_probs.logs, expected.test_probs.logs)
    assert found.products == expected.products
    assert all(torch.equal(found.counts[name], value) for name, value in expected.counts.items())


def test_windows_draw_each_kept_sample_once_in_a_pass(sharded: Sharded) -> None:
    outcome = list(
        sharded.run(recipe_of("agreement", [{"name": "teacher_student", "mode": "mask", "k": 1}]))
    )
    products, store = outcome[-1].products, sharded.samples.store
    shards = sharded.world.shards.shards
    kept = [int((store.tensors(products.weights, s.number)["weight"] > 0).sum()) for s in shards]
    samples = ShardSamples(sharded.samples, sharded.features, products, shards, tuple(kept))
    total, size = sum(kept), 16
    assert 0 < total < sharded.world.shards.samples
    drawn = []
    for batch in samples.batches(size, 0, window=100):
        drawn.append(batch.features)
        if len(drawn) * size >= total:
            break
    first = torch.cat(drawn)[:total]
    whole = torch.cat([samples.read(shard).features for shard in shards])
    assert not torch.equal(first, whole)
    assert torch.equal(first.sort(0).values, whole.sort(0).values)


@pytest.mark.parametrize(
    ("assigner", "filters", "key"),
    [
        ("agreement", ["teacher_student"], "rounds.consistency"),
        ("agreement", ["local_global"], "rounds.consistency"),
        ("agreement", ["given_label"], "rounds.consistency"),
        ("fused", [], "rounds.assignment"),
        ("crowd_layer", [], "rounds.assignment"),
    ],
)
def test_what_needs_all_samples_at_once_is_refused(
    assigner: str, filters: list[str], key: str
) -> None:
    error = error_of(recipe_of(assigner, filters).check)
    assert error.key == tuple(key.split("."))
