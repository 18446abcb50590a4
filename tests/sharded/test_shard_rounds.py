"""Rounds over shards give the numbers of rounds over samples in memory, resumed or not."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from annotated_shards import FOLDS, SEED, Sharded, in_memory, of_memory, recipe_of

from cosup.analysis.decisions import refinement_measures, refinement_shares
from cosup.consistency import Chain
from cosup.control_runs import ControlRun, run_controls
from cosup.controls import NO_TRUE_LABEL
from cosup.recipe import Recipe
from cosup.refinement import ProductRefinement
from cosup.sharded.batches import batches_of
from cosup.sharded.controls import ShardControls
from cosup.sharded.evidence import ShardBatches, ShardStream
from cosup.sharded.folds import folds_of
from cosup.sharded.head import predict_labelled
from cosup.sharded.lesson import LabelledRows, ShardSamples, Subsets
from cosup.sharded.rounds import ShardTask, run_shard_rounds
from cosup.sharded.shards import Shard
from cosup.sharded.work import LocalExecutor, Work

REFINED = ProductRefinement(rounds=1)


LOCAL = [
    {"name": "confidence", "threshold": 0.11, "keep_share": 0.7},
    "local_global",
    {"name": "local_global", "divergence": 0.2},
    {"name": "unanimity", "share": 0.5},
]
"""Filters that train students after others, of which one ranks."""


@pytest.mark.parametrize(
    ("assigner", "filters"),
    [
        ("agreement", []),
        ("random", []),
        ({"name": "dawid_skene", "hard": False}, [{"name": "confidence", "threshold": 0.12}]),
        ("gate", [{"name": "teacher_student", "mode": "mask", "k": 3}]),
        ("mean", [{"name": "unanimity", "share": 0.5}]),
        ("block", [{"name": "confidence", "threshold": 0.11, "keep_share": 0.5}]),
        ({"name": "fused", "regions": "none", "max_samples": 150}, []),
        ("random", ["local_global"]),
        ("random", LOCAL),
    ],
    ids=["agreement", "random", "dawid_skene", "gate", "mean", "block", "fused", "local", "chain"],
)
def test_decisions_and_students_are_those_of_samples_in_memory(
    sharded: Sharded, assigner: Any, filters: Sequence[Any]
) -> None:
    _, expected = in_memory(sharded, recipe_of(assigner, filters))
    found = list(sharded.run(recipe_of(assigner, filters)))
    store = sharded.samples.store
    for mine, other in zip(found, expected, strict=True):
        numbers = [shard.number for shard in sharded.world.shards]
        kept = torch.cat([store.tensors(mine.products.weights, n)["weight"] for n in numbers])
        targets = torch.cat([store.probs(mine.products.targets, n).dense() for n in numbers])
        assert torch.equal(kept > 0, other.kept.keep)
        assert torch.allclose(targets, other.assigned.targets.dense(), atol=2e-3)
        assert mine.kept.count == other.kept.count
        assert mine.kept.rejected == other.kept.rejected
        assert mine.kept.kept_alone == other.kept.kept_alone
        assert torch.allclose(mine.test_probs.dense(), other.test_probs.dense(), atol=5e-3)


RANKS = [
    [{"name": "teacher_student", "k": 2}],
    [{"name": "teacher_student", "k": 3, "class_balanced": True}],
    [
        {"name": "unanimity", "share": 0.5},
        {"name": "confidence", "threshold": 0.11, "keep_share": 0.6},
        {"name": "teacher_student", "k": 1},
    ],
]


@pytest.mark.parametrize("filters", RANKS, ids=["rank", "balanced", "several"])
def test_ranks_are_those_of_all_samples_together(sharded: Sharded, filters: list[Any]) -> None:
    """Each round's filters decide on the evidence of all shards as they do in memory."""
    recipe, store = recipe_of("agreement", filters), sharded.samples.store
    guide = None
    for outcome in sharded.run(recipe):
        shards = sharded.world.shards.shards
        firsts = ShardTask(sharded.levels, shards, (None, None)).firsts
        level = sharded.levels[outcome.level]
        stream = ShardStream(level, firsts, guide, guide if outcome.level else None)
        chain, measured = recipe.filters, []
        for evidence in ShardBatches(stream, shards, recipe.assigner.uses | chain.needs):
            measured.append(chain.measure(evidence, recipe.assigner.assign(evidence, level.scopes)))
        expected = chain.decide(Chain.join(measured))
        weights = [store.tensors(outcome.products.weights, s.number)["weight"] for s in shards]
        assert torch.equal(torch.cat(weights) > 0, expected.keep)
        assert outcome.kept.kept_alone == expected.kept_alone
        assert outcome.kept.rejected == expected.rejected
        assert store.missing(outcome.products.measures, shards) == list(shards)  # removed
        guide = outcome.predictions


@pytest.mark.parametrize(("targets", "label_weight"), [("hard", 0.0), ("soft", 3.0)])
def test_refined_rounds_are_those_of_samples_in_memory(
    sharded: Sharded, targets: Any, label_weight: float
) -> None:
    """With a weight of labels, the student learns labelled samples beside them."""
    refiner = ProductRefinement(rounds=2, targets=targets)
    recipe = recipe_of("agreement", [], refiner, label_weight)
    task, expected = in_memory(sharded, recipe, FOLDS)
    found = list(sharded.run(recipe, FOLDS))
    store, numbers = sharded.samples.store, [shard.number for shard in sharded.world.shards]
    assert [one.refined is None for one in expected] == [True, True, False, False]
    for mine, other in zip(found, expected, strict=True):
        own = [store.tensors(mine.products.weights, n)["fold"] for n in numbers]
        assert torch.equal(torch.cat(own).long(), sharded.folds(FOLDS) * (mine.number < 4))
        assert torch.allclose(mine.test_probs.dense(), other.test_probs.dense(), atol=5e-3)
        if mine.number < len(found):
            probs = [store.probs(mine.predictions, n).dense() for n in numbers]
            assert torch.allclose(torch.cat(probs), other.train_probs.dense(), atol=5e-3)
        tables = [store.table(mine.products.decisions, n).to_pandas() for n in numbers]
        whole, shares = pd.concat(tables), refinement_shares(mine.counts)
        assert ("refined_label" in whole) == bool(shares) == (other.refined is not None)
        if other.refined is None:
            continue
        label = torch.tensor(whole["refined_label"].astype(int).to_numpy())
        assert float((label == other.refined.top()[0]).double().mean()) > 0.99
        measured = refinement_measures(other, task.truth)
        assert 0 < measured["refined"] == pytest.approx(shares["refined"], abs=0.01)
        assert shares["refined_accuracy"] is None  # no label is known
        goals = torch.cat([store.probs(mine.products.targets, n).dense() for n in numbers])
        assert bool((goals.amax(1) > 0.999).all()) == (targets == "hard")


def test_the_student_is_a_source_of_fused_rounds_as_in_memory(sharded: Sharded) -> None:
    fused = {"name": "fused", "regions": "none", "confidence_weight": True}
    recipe = replace(recipe_of(fused, []), repeat=2)
    _, expected = in_memory(sharded, recipe, FOLDS)
    for mine, other in zip(sharded.run(recipe, FOLDS), expected, strict=True):
        assert (mine.level, mine.assigner.keys()) == (1, other.assigner.keys())
        assert bool(mine.assigner["student"]) == (mine.number == 2)
        for name, value in other.assigner.items():
            assert torch.allclose(mine.assigner[name].double(), value.double(), atol=2e-3), name
        numbers = [shard.number for shard in sharded.world.shards]
        store, weights = sharded.samples.store, other.assigned.weighed(other.kept.keep)
        found = [store.tensors(mine.products.weights, n)["weight"] for n in numbers]
        assert torch.allclose(torch.cat(found), weights, atol=5e-3)
        assert torch.allclose(mine.test_probs.dense(), other.test_probs.dense(), atol=5e-3)


def test_labelled_samples_are_learned_as_in_memory(sharded: Sharded) -> None:
    recipe = recipe_of("agreement", [], label_weight=3.0)
    _, expected = in_memory(sharded, recipe)
    plain = list(sharded.run(recipe_of("agreement", [])))
    for mine, other, without in zip(sharded.run(recipe), expected, plain, strict=True):
        assert torch.allclose(mine.test_probs.dense(), other.test_probs.dense(), atol=5e-3)
        assert not torch.allclose(mine.test_probs.dense(), without.test_probs.dense(), atol=5e-3)


def test_labelled_samples_are_predicted_by_students_that_did_not_learn_them(
    sharded: Sharded,
) -> None:
    recipe = recipe_of("agreement", [], label_weight=3.0)
    _, expected = in_memory(sharded, recipe, FOLDS)
    labelled = sharded.labelled(FOLDS)
    task = ShardTask(sharded.levels, sharded.world.shards.shards, (None, None), FOLDS, labelled)
    *_, last = run_shard_rounds(
        task, recipe, sharded.head(), SEED, sharded.executor, fold_last=True
    )
    found, other = predict_labelled(last.folds, labelled), expected[-1].labelled_probs
    assert other is not None
    assert torch.allclose(found.dense(), other.dense(), atol=5e-3)


@pytest.mark.parametrize("counts", [[30, 50, 20], [1000]])
def test_labelled_samples_are_spread_over_the_windows_of_a_pass(counts: list[int]) -> None:
    some = torch.arange(17)
    rows = LabelledRows(some, some, torch.zeros(17), torch.zeros(17, 2))
    shares = rows.shares(counts, seed=0, number=0)
    assert torch.equal(torch.cat(shares).sort().values, some)
    for share, count in zip(shares, counts, strict=True):
        assert abs(len(share) - 17 * count / sum(counts)) <= 1
    again = rows.shares(counts, seed=0, number=1)
    assert not torch.equal(torch.cat(again), torch.cat(shares))


def test_controls_are_those_of_samples_in_memory(sharded: Sharded) -> None:
    names = ["mean_ensemble", "best_teacher", "random_assignment"]
    recipe = recipe_of("agreement", [])
    task, own = of_memory(sharded, recipe)
    best = replace(task.levels[0], index=2)
    control = ControlRun(task, own, SEED, best, own.new_student)
    expected, _ = run_controls(control, names)
    shards = ShardTask(sharded.levels, sharded.world.shards.shards, (None, None))
    for name in names:
        mine = ShardControls(
            name,
            control,
            shards,
            recipe,
            sharded.head(),
            SEED,
            sharded.executor,
            replace(sharded.levels[0], index=2),
        )
        found, absent = run_controls(mine, [name])
        assert not absent
        assert torch.allclose(found[name].dense(), expected[name].dense(), atol=5e-3)
    _, absent = run_controls(replace(mine, name="ceiling"), ["ceiling"])
    assert absent == {"ceiling": NO_TRUE_LABEL}


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


class Recorded(LocalExecutor):
    """Keeps of how many shards each work is done, and may stop after four shards of one."""

    def __init__(self, executor: LocalExecutor, dies_in: str = "") -> None:
        super().__init__(executor.compute)
        object.__setattr__(self, "works", Counter())
        object.__setattr__(self, "dies_in", dies_in)

    works: Counter[str]
    dies_in: str

    def run(self, work: Work[Any], shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        for place, found in enumerate(super().run(work, shards)):
            self.works[work.name] += 1
            if place == 3 and work.name == self.dies_in:
                raise Killed
            yield found


def resumed(cut: Sharded, recipe: Callable[[], Recipe], folds: int, works: Sequence[str]) -> Any:
    """Interrupt the rounds in each of these works in turn; return the last round of those that
    end, and of how many shards each work was done by all of them."""
    done: Counter[str] = Counter()
    for dies_in in works:
        executor = Recorded(cut.executor, dies_in)
        with pytest.raises(Killed):
            list(cut.run(recipe(), folds, executor))
        done += executor.works
    executor = Recorded(cut.executor)
    found = list(cut.run(recipe(), folds, executor))[-1]
    return found, done + executor.works


SUMS = "sums of the assigner"
RANKED = ["ranks of round 1: measures", "ranks of round 1: counts", "decisions of round 1"]


@pytest.mark.parametrize(
    ("filters", "works"),
    [
        ([], [SUMS, "decisions of round 1", "predictions, round-1", "decisions of round 3"]),
        (["teacher_student"], [*RANKED, "ranks of round 2: measures", "ranks of round 2: ties"]),
    ],
)
def test_rounds_that_are_interrupted_end_with_the_same_numbers(
    sharded: Sharded, tmp_path: Path, filters: list[str], works: list[str]
) -> None:
    cut = sharded.copied(tmp_path / "cut")
    recipe: Callable[[], Recipe] = lambda: recipe_of("dawid_skene", filters, REFINED)  # noqa: E731
    expected = list(sharded.run(recipe(), FOLDS))[-1]
    found, _ = resumed(cut, recipe, FOLDS, works)
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
    for batch in batches_of(samples, size, 0, window=100):
        drawn.append(batch.features)
        if len(drawn) * size >= total:
            break
    first = torch.cat(drawn)[:total]
    whole = torch.cat([samples.read(shard).features for shard in shards])
    assert not torch.equal(first, whole)
    assert torch.equal(first.sort(0).values, whole.sort(0).values)


def test_no_head_has_weight_on_samples_of_its_fold(sharded: Sharded) -> None:
    products = next(sharded.run(recipe_of("agreement", []), FOLDS)).products
    shards, store = sharded.world.shards.shards, sharded.samples.store
    folds = [store.tensors(products.weights, s.number)["fold"].bincount() for s in shards]
    counts = tuple(tuple(one.tolist()) for one in folds)
    kept = tuple(map(sum, counts))
    samples = ShardSamples(
        sharded.samples,
        sharded.features,
        products,
        shards,
        kept,
        counts,
        subsets=Subsets.outside(FOLDS),
    )
    for window in (100, 1000):
        for _, batch in zip(range(40), batches_of(samples, 16, 0, window), strict=False):
            own, weights = batch.folds.view(1 + FOLDS, 16), batch.weights.view(1 + FOLDS, 16)
            assert bool((weights > 0).all())
            assert not bool((own[1:] == torch.arange(FOLDS)[:, None]).any())
    outside = samples.subset(1)
    assert sum(outside.kept) == sum(kept) - sum(one[1] for one in counts)
    assert not bool((outside.read(shards[0]).folds == 1).any())


def test_folds_keep_groups_whole_and_are_those_of_any_shard(sharded: Sharded) -> None:
    found = sharded.folds(FOLDS)
    assert found.bincount(minlength=FOLDS).min() > len(found) / FOLDS / 2
    data = sharded.samples.read(sharded.world.shards.shards[0])
    half = data.subset(np.arange(0, len(data), 2))
    assert torch.equal(folds_of(half, FOLDS, SEED), folds_of(data, FOLDS, SEED)[::2])
    one = replace(data, table=data.table.assign(group="all"))
    assert len(folds_of(one, FOLDS, SEED).unique()) == 1
    assert not torch.equal(folds_of(data, FOLDS, SEED + 1), folds_of(data, FOLDS, SEED))


WORKS = [
    "parts of round 2",
    "predictions, round-2-global",
    "predictions, round-2-local",
    "decisions of round 2",
]


def test_local_students_that_are_interrupted_are_not_made_twice(
    sharded: Sharded, tmp_path: Path
) -> None:
    """What is written for them is removed at the end."""
    cut = sharded.copied(tmp_path / "cut")
    recipe: Callable[[], Recipe] = lambda: recipe_of("random", LOCAL)  # noqa: E731
    expected = list(sharded.run(recipe()))[-1]
    found, done = resumed(cut, recipe, 0, WORKS)
    assert torch.equal(found.test_probs.logs, expected.test_probs.logs)
    assert found.products == expected.products
    assert all(torch.equal(found.counts[name], value) for name, value in expected.counts.items())
    assert [done[name] for name in WORKS] == [len(cut.world.shards)] * len(WORKS)
    folders = {path.parent.parent.name for path in (tmp_path / "cut").rglob("*.parquet")}
    assert {name for name in folders if name.startswith("round-")} == {"round-1", "round-2"}
