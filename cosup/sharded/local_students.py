"""The students that `local_global` compares, trained on shards (`cosup.consistency.local_global`).

The filters that train no students decide first. A global student is trained on all samples that
they keep, and a local one on those of each teacher: together, as with cross-fitting, with teachers
in place of folds. Both predict every shard, where the filter is then measured like any other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cosup.assigning import assign_fitted
from cosup.consistency.base import check_counts
from cosup.recipe import Recipe
from cosup.seeds import seed_for
from cosup.sharded.counts import (
    Counts,
    added_counts,
    counts_of_shards,
    filter_counts,
    kept_counts,
    write_counts,
)
from cosup.sharded.deciding import DecideShard, RoundProducts
from cosup.sharded.evidence import ShardLevel
from cosup.sharded.lesson import (
    Lesson,
    ShardSamples,
    ShardStudent,
    State,
    Subsets,
    Trained,
    write_predictions,
)
from cosup.sharded.ranking import Ranking
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.work import Executor

__all__ = ["LocalStudents"]


@dataclass(frozen=True)
class LocalStudents:
    """Trains the global and the local students of a round.

    name: of the round. key: a hash of all that its decisions depend on. seed: of the round. start:
    the student that they start from, or None.
    """

    name: str
    key: str
    level: ShardLevel
    shards: tuple[Shard, ...] = field(repr=False)
    student: ShardStudent
    seed: int
    start: State | None
    executor: Executor

    @property
    def products(self) -> RoundProducts:
        """Return what the students learn."""
        return RoundProducts.of(f"{self.name}-parts", self.key)

    @property
    def predictions(self) -> tuple[Product, Product]:
        """Return the predictions of the global student, and those of the local ones."""
        names = f"{self.name}-global", f"{self.name}-local"
        broad, local = (Product.of("predictions", name, self.key) for name in names)
        return broad, local

    def __call__(self, decide: DecideShard) -> DecideShard:
        """Train the students; return what decides with their predictions.

        decide: the cuts of its filters that rank are found. Raises `RunError` if the filters that
        train no students keep nothing, or a loss is not finite.
        """
        recipe = replace(decide.recipe, filters=decide.recipe.filters.without_students())
        total: Counts = {}
        kept = []
        for counts in self._assigned(decide, recipe):
            total = added_counts(total, counts)
            kept.append(counts["kept_by_fold"])
        check_counts(kept_counts(total, recipe.filters), 0.0)
        broad, local = self.predictions
        if int((total["assigned"] > 0).sum()) < 2:
            # The local student would be the global one: there is nothing to train.
            broad = local = self.products.targets
        elif self._missing(broad) or self._missing(local):
            self._train(recipe, torch.stack(kept), int(total["samples"]))
        stream = replace(decide.stream, global_probs=broad, local_probs=local)
        return replace(decide, stream=stream)

    def remove(self) -> None:
        """Remove what was written, once the round is decided."""
        found = self.products
        for product in (found.targets, found.weights, found.counts, *self.predictions):
            self.level.samples.store.remove(product)

    def _missing(self, *products: Product) -> list[Shard]:
        store = self.level.samples.store
        return sorted({shard for one in products for shard in store.missing(one, self.shards)})

    def _assigned(self, decide: DecideShard, recipe: Recipe) -> Iterator[Counts]:
        """Write what is learned of the shards; yield the counts of each."""
        products, store = self.products, self.level.samples.store
        ranking = Ranking(decide.stream, recipe, decide.products.measures, decide.cuts)
        missing = self._missing(products.targets, products.weights, products.counts)
        name = f"parts of round {decide.number}"
        assign = AssignShard(ranking, products)
        return counts_of_shards(
            name, assign, products.counts, store, self.shards, missing, self.executor
        )

    def _train(self, recipe: Recipe, by_teacher: Tensor, count: int) -> None:
        """Train the students and predict the shards.

        by_teacher: [shards, T], samples that are kept. count: of all samples.
        """
        level, kept = self.level, by_teacher.sum(0)
        # A teacher of all or none of the kept samples has no student of its own.
        own = torch.nonzero((kept > 0) & (kept < kept.sum()))[:, 0].tolist()
        samples = ShardSamples(
            level.samples,
            level.features,
            self.products,
            self.shards,
            tuple(by_teacher.sum(1).tolist()),
            tuple(map(tuple, by_teacher.tolist())),
            subsets=Subsets(tuple(own), inside=True),
        )
        lesson = Lesson(
            f"{self.name}-parts",
            samples,
            recipe.objective,
            level.num_classes,
            count,
            seed_for(self.seed, "parts"),
            self.start,
        )
        trained = self.student.fit(lesson, self.executor, None)
        states = dict(zip(own, trained.folds, strict=True))
        local = tuple(states.get(teacher, trained.state) for teacher in range(len(kept)))
        both = Trained(trained.state), Trained(trained.state, local)
        for product, students in zip(self.predictions, both, strict=True):
            write_predictions(self.student, samples, students, product, self.executor)


@dataclass(frozen=True)
class AssignShard:
    """Writes what the students learn of a shard, and in place of folds the teacher with the most
    weight on each sample.

    ranking: of the filters that train no students.
    """

    ranking: Ranking
    products: RoundProducts

    def __call__(self, shard: Shard) -> Counts:
        """Return the counts of the filters, and of the samples of each teacher: all, and kept."""
        ranking, recipe = self.ranking, self.ranking.recipe
        level, store = ranking.stream.level, ranking.stream.level.samples.store
        stream = ranking.stream.of(shard, recipe.assigner.uses | recipe.filters.needs)
        assigned = assign_fitted(recipe.assigner, stream, recipe.hard)
        kept = ranking.run(stream, assigned, shard)
        teacher, teachers = assigned.weights.argmax(1), len(level.scopes.names)
        weights, places = kept.keep.float(), teacher.to(torch.int32)
        self.products.write_taught(store, shard.number, assigned.targets, weights, places)
        counts = {
            **filter_counts(kept),
            "assigned": torch.bincount(teacher, minlength=teachers),
            "kept_by_fold": torch.bincount(teacher[kept.keep], minlength=teachers),
        }
        write_counts(store, self.products.counts, shard.number, counts)
        return counts
