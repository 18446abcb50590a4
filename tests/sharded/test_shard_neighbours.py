"""Neighbours of samples of shards are those of samples in memory, found once and resumed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from annotated_shards import FOLDS, SEED, Sharded, of_memory, recipe_of
from helpers.digits_manifest import write_manifest
from helpers.user_errors import error_of
from pyarrow import parquet
from sharded_world import LABELLED, ROWS, Open

from cosup.assigning import assign_fitted
from cosup.consistency import Chain, Filter
from cosup.consistency.base import Measures
from cosup.evidence import Assigned, Evidence
from cosup.probabilities import ProbTable
from cosup.recipe import Recipe
from cosup.refinement import ProductRefinement
from cosup.rounds import run_rounds
from cosup.seeds import seed_for
from cosup.sharded.evidence import ShardStream
from cosup.sharded.rounds import ShardOutcome
from cosup.sharded.shards import Shard
from cosup.sharded.smoothing import Smoothing
from cosup.sharded.store import Product
from cosup.sharded.supported import check_recipe
from cosup.sharded.work import LocalExecutor, Work

IMAGES = 150
"""Each is named by several samples, so that many cosines are equal."""


@pytest.fixture
def noisy(digits: Path, opened: Open, tmp_path: Path) -> Sharded:
    """Return shards of which a quarter of the labels is wrong, and a fifth unknown."""
    plain = parquet.read_table(digits / "known")["label"].to_numpy(zero_copy_only=False)
    labels = plain.astype(np.int64)[:IMAGES]
    folder = write_manifest(digits / "noisy", labels, ROWS, LABELLED, truth=True)
    (file,) = folder.iterdir()
    table, rng = parquet.read_table(file), np.random.default_rng(0)
    given = table["label"].to_numpy(zero_copy_only=False)
    free = np.arange(ROWS) >= LABELLED
    wrong = free & (rng.random(ROWS) < 0.25)
    given = np.where(wrong, rng.integers(0, 10, ROWS).astype(str), given)
    given = np.where(free & (rng.random(ROWS) < 0.2), None, given)
    column = table.schema.get_field_index("label")
    parquet.write_table(table.set_column(column, "label", pa.array(given, pa.string())), file)
    return Sharded(opened(folder), tmp_path / "store")


class Recorded(LocalExecutor):
    """Keeps of how many shards each work is done, and may stop after some of all."""

    def __init__(self, executor: LocalExecutor, left: int = -1) -> None:
        super().__init__(executor.compute)
        object.__setattr__(self, "works", Counter())
        object.__setattr__(self, "left", left)

    works: Counter[str]
    left: int

    def run(self, work: Work[Any], shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        for found in super().run(work, shards):
            self.works[work.name] += 1
            if self.left == 0:
                raise InterruptedError
            object.__setattr__(self, "left", self.left - 1)
            yield found


def kept(sharded: Sharded, product: Any) -> torch.Tensor:
    numbers = [shard.number for shard in sharded.world.shards]
    store = sharded.samples.store
    return torch.cat([store.tensors(product, n)["weight"] for n in numbers]) > 0


CHAINS = [
    [{"name": "neighbours", "k": 400, "quantile": 0.75}, {"name": "neighbours", "k": 4}],
    [{"name": "confidence", "threshold": 0.11, "keep_share": 0.7}, "neighbours", "local_global"],
]


def test_labels_are_confirmed_as_in_memory(noisy: Sharded) -> None:
    for filters in CHAINS:
        recipe = recipe_of("random", filters, label_weight=0.5)
        task, own = of_memory(noisy, recipe)
        for found, expected in zip(noisy.run(recipe), run_rounds(task, own, SEED), strict=True):
            mine = kept(noisy, found.products.weights)
            assert 0 < int(mine.sum()) < len(mine)
            names = {name for name in expected.kept.kept_alone if name != "local_global"}
            alone = expected.kept.kept_alone
            assert {name: found.kept.kept_alone[name] for name in names} == {
                name: alone[name] for name in names
            }
            if len(filters) < 3:
                assert torch.equal(mine, expected.kept.keep)
                assert found.kept == expected.kept.counts


def test_samples_without_labels_are_all_kept(sharded: Sharded) -> None:
    recipe = recipe_of("random", ["neighbours"], label_weight=0.5)
    outcome = next(sharded.run(recipe))
    assert bool(kept(sharded, outcome.products.weights).all())
    shards, store = sharded.world.shards.shards, sharded.samples.store
    assert not store.missing(outcome.neighbours[0], shards)  # written, of none


class Halves(Filter):
    """Of all samples keeps every other one."""

    needs_all = True

    def measure(self, evidence: Evidence, assigned: Assigned) -> Measures:
        return {"labels": assigned.labels}

    def decide(self, measures: Measures) -> torch.Tensor:
        return torch.arange(len(measures["labels"])) % 2 == 0


def test_other_filters_of_all_samples_are_refused() -> None:
    recipe = replace(recipe_of("agreement", []), filters=Chain(["halves"], [Halves()]))
    assert error_of(check_recipe, recipe).key == ("rounds", "consistency")


def test_neighbours_are_found_once_for_all_rounds_interrupted_or_not(
    noisy: Sharded, tmp_path: Path
) -> None:
    """What else is written for them is removed."""

    def recipe() -> Recipe:
        refiner = ProductRefinement(rounds=1, neighbours=5, references=90)
        return recipe_of("random", ["neighbours"], refiner, label_weight=0.5)

    recorded, shards = Recorded(noisy.executor), noisy.world.shards.shards
    first, _, expected = noisy.run(recipe(), FOLDS, recorded)
    assert first.neighbours == expected.neighbours
    searched = [name for name in recorded.works if name.endswith((": references", ": neighbours"))]
    assert [recorded.works[name] for name in searched] == [len(shards)] * 4  # of labels, refined
    store = noisy.samples.store
    assert not store.missing(first.neighbours[0], shards)
    kinds = {path.name for path in Path(store.root).iterdir() if any(path.rglob("*.parquet"))}
    assert "neighbours" in kinds
    assert not kinds & {"references", "given_labels", "corrected_labels", "measures", "refined"}
    assert [path.name for path in (Path(store.root) / "neighbours").iterdir()] == ["given_label"]
    cut = Sharded(noisy.world, tmp_path / "cut")
    for after in (2, 6, 11, 16, 43, 71, 43):
        with pytest.raises(InterruptedError):
            list(cut.run(recipe(), FOLDS, Recorded(cut.executor, after)))
    found = list(cut.run(recipe(), FOLDS))[-1]
    assert found.products == expected.products
    assert torch.equal(found.test_probs.logs, expected.test_probs.logs)
    assert all(torch.equal(found.counts[name], value) for name, value in expected.counts.items())


@pytest.mark.parametrize(
    ("k", "references", "shares"),
    [(12, 1000, True), (5, 400, True), (4, 1000, False), (12, 90, False)],
)
def test_refinement_takes_the_neighbours_that_a_filter_has_found(
    known: Sharded, tmp_path: Path, k: int, references: int, shares: bool
) -> None:
    """If these are among the same samples; the numbers are those of a search of its own."""

    def rounds(sharded: Sharded) -> tuple[list[ShardOutcome], set[str]]:
        refiner = ProductRefinement(rounds=2, targets="soft", neighbours=5, references=references)
        recipe = recipe_of("random", [{"name": "neighbours", "k": k}], refiner, label_weight=0.5)
        recorded = Recorded(sharded.executor)
        return list(sharded.run(recipe, FOLDS, recorded)), set(recorded.works)

    apart = known.copied(tmp_path / "apart")
    found, works = rounds(known)
    searched = {name for name in works if name.endswith(": neighbours")}
    refining = {f"refinement of round {one.number}: neighbours" for one in found[-2:]}
    assert searched - refining == {"neighbours of round 1: neighbours"}
    assert searched & refining == (set() if shares else refining)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Smoothing, "_nearest_of", lambda *args: None)
        expected, works = rounds(apart)
    assert refining <= works
    for mine, other in zip(found, expected, strict=True):
        assert mine.products == other.products
        assert torch.equal(mine.test_probs.logs, other.test_probs.logs)
        for shard in known.world.shards:
            one, two = (
                sharded.samples.store.probs(mine.products.targets, shard.number)
                for sharded in (known, apart)
            )
            assert torch.equal(one.logs, two.logs)
    left = [path.name for path in (Path(known.samples.store.root) / "neighbours").iterdir()]
    assert left == ["given_label"]


def in_parts(noisy: Sharded, read: Any) -> ProbTable:
    return ProbTable.concat([read(shard) for shard in noisy.world.shards])


@pytest.mark.parametrize("references", [90, 1000])
def test_refined_annotations_are_averaged_as_in_memory(noisy: Sharded, references: int) -> None:
    """To the bit, of the same annotations and student."""
    refiner = ProductRefinement(rounds=2, targets="soft", neighbours=7, references=references)
    recipe, store = recipe_of("block", [], refiner), noisy.samples.store
    _, features = noisy.whole(noisy.levels[0])
    guide, refines = None, 0
    outcomes = noisy.run(recipe, FOLDS)
    for found in outcomes:
        level = noisy.levels[found.level]
        stream = ShardStream(level, noisy.task(recipe).firsts, guide)

        def assigned(shard: Shard, stream: ShardStream = stream) -> ProbTable:
            part = stream.of(shard, recipe.assigner.uses)
            return assign_fitted(recipe.assigner, part, recipe.hard).annotations

        if found.number > 2:
            assert guide is not None
            student: Product = guide
            said = in_parts(noisy, assigned)
            guided = in_parts(noisy, lambda s, student=student: store.probs(student, s.number))
            seed = seed_for(seed_for(SEED, "round", found.number), "refinement")
            expected = refiner.refine(said, guided, features, seed)
            targets = found.products.targets
            mine = in_parts(noisy, lambda s, t=targets: store.probs(t, s.number))
            assert torch.equal(mine.logs, expected.logs)
            assert not torch.equal(mine.logs, refiner.product(said, guided).logs)
            refines += 1
        guide = found.predictions
    assert refines == 2
    left = {path.parts[-4] for path in Path(store.root).rglob("*.parquet")}
    assert not left & {"references", "refined", "neighbours"}
