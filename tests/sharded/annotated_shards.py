"""What the tests of sharded rounds share: annotated shards, and the same samples in memory."""

import shutil
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sharded_world import World
from torch import Tensor

from cosup.config.schema import StudentSection
from cosup.decisions import build_assigner, build_filters
from cosup.evidence import Truth
from cosup.levels import ArrayAnnotations, Labelled, Level, Task
from cosup.losses.base import Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.recipe import Recipe
from cosup.refinement import ProductRefinement
from cosup.rounds import Outcome, run_rounds
from cosup.sharded.evidence import ShardLevel
from cosup.sharded.folds import folds_of
from cosup.sharded.head import ShardHead
from cosup.sharded.image_work import annotation_works, extract_work
from cosup.sharded.lesson import LabelledRows
from cosup.sharded.rounds import ShardOutcome, ShardTask, run_shard_rounds
from cosup.sharded.store import ShardStore
from cosup.sharded.work import LocalExecutor, Samples
from cosup.student.head import HeadStudent
from cosup.student.setup import StudentSetup
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import scopes

SEED, FOLDS = 3, 3


class Sharded:
    """A manifest with its annotations and features in a store."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        samples = Samples(world.shards.reader, ShardStore(str(folder)))
        self.executor = LocalExecutor(world.compute)
        teachers = world.teachers()
        works = annotation_works(teachers, samples, world.restoring(), world.compute)
        backbone = world.config.student.backbone
        self.cache = FeatureCache(world.compute)
        extract = extract_work(backbone, samples, self.cache, torch.device("cpu"))
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

    def copied(self, folder: Path) -> "Sharded":
        """Return the same with a store of its own, in a new folder."""
        found, store = copy(self), ShardStore(str(folder))
        shutil.copytree(self.samples.store.root, folder)
        found.samples = replace(self.samples, store=store)
        found.levels = tuple(replace(level, samples=found.samples) for level in self.levels)
        return found

    def whole(self, level: ShardLevel) -> tuple[Tensor, Tensor]:
        """Return all annotations [N, T, C] and features [N, D]."""
        store, numbers = self.samples.store, [s.number for s in self.world.shards]
        columns = [
            torch.cat([store.probs(product, number).dense() for number in numbers])
            for product in level.annotations
        ]
        parts = [store.tensors(level.features, number)["features"] for number in numbers]
        return torch.stack(columns, 1), torch.cat(parts)

    def run(
        self, recipe: Recipe, folds: int = 0, executor: LocalExecutor | None = None
    ) -> Iterator[ShardOutcome]:
        """Run the rounds; the student predicts the first samples as the test split."""
        task, head = self.task(recipe, folds), self.head()
        return run_shard_rounds(task, recipe, head, SEED, executor or self.executor)

    def task(self, recipe: Recipe, folds: int = 0) -> ShardTask:
        """Return the task of the rounds.

        If the objective gives labels weight, the student learns those of the samples, or labelled
        samples where these have none.
        """
        learned, shards = bool(recipe.objective.true_label_weight), self.world.shards
        labelled = self.labelled(folds) if learned and not shards.known else None
        labels = learned and shards.known
        return ShardTask(self.levels, shards.shards, (None, None), folds, labelled, labels)

    def head(self) -> ShardHead:
        _, features = self.whole(self.levels[0])
        return ShardHead(student().head, student().training, features[:50])

    def labelled(self, folds: int) -> LabelledRows:
        """Return the samples of teacher_train."""
        data, section = self.world.labelled, self.world.config.student.backbone
        rows, split = data.rows("teacher_train"), "teacher_train"
        found = self.cache.source(section).of_split(data, split)
        fold = folds_of(data.subset(rows), folds, SEED)
        return LabelledRows(torch.from_numpy(rows), data.given(rows), fold, found)

    def truth(self) -> Truth:
        """Return the labels and domains of all samples."""
        parts = [self.samples.read(shard) for shard in self.world.shards]
        found = [part.truth(np.arange(len(part))) for part in parts]
        labels, domains = zip(*((one.labels, one.domains) for one in found), strict=True)
        return Truth(torch.cat(labels), torch.cat(domains))

    def folds(self, count: int) -> Tensor:
        """Return the fold of each sample."""
        parts = [self.samples.read(shard) for shard in self.world.shards]
        return torch.cat([folds_of(part, count, SEED) for part in parts])


def student() -> StudentSection:
    backbone = {"name": "test_resnet", "weights": None, "image_size": 32}
    training = {"steps": 40, "batch_size": 32, "lr": 0.01}
    given = {"mode": "head", "backbone": backbone, "training": training}
    return StudentSection.model_validate(given)


def no_student(objective: Objective, seed: int) -> HeadStudent:
    raise AssertionError("the student learns from shards")


def recipe_of(
    assigner: Any,
    filters: Sequence[Any],
    refiner: ProductRefinement | None = None,
    label_weight: float = 0.0,
) -> Recipe:
    objective, chain = Objective(CrossEntropy(), 1.0, label_weight), build_filters(filters)
    return Recipe(build_assigner(assigner), objective, no_student, chain, refiner=refiner)


def in_memory(sharded: Sharded, recipe: Recipe, folds: int = 0) -> tuple[Task, list[Outcome]]:
    task, recipe = of_memory(sharded, recipe, folds)
    return task, list(run_rounds(task, recipe, SEED))


def of_memory(sharded: Sharded, recipe: Recipe, folds: int = 0) -> tuple[Task, Recipe]:
    levels = []
    for level in sharded.levels:
        annotations, features = sharded.whole(level)
        levels.append(Level(level.index, level.scopes, ArrayAnnotations(annotations)))
    truth = sharded.truth()
    task = Task(tuple(levels), features, features[:50], truth, 10, features)
    parts = sharded.folds(folds) if folds else None
    if sharded.world.shards.known:
        task = replace(task, labels=truth.labels)
    elif recipe.objective.true_label_weight:
        more = sharded.labelled(folds)
        joined = torch.cat([features, more.features])
        task = replace(task, labelled=Labelled(joined, more.labels))
        parts = None if parts is None else torch.cat([parts, more.folds])
    setup = StudentSetup(student(), 10, sharded.world.compute, parts)

    def new_student(objective: Objective, seed: int) -> HeadStudent:
        return HeadStudent(setup, objective, seed)

    return task, replace(recipe, new_student=new_student)
