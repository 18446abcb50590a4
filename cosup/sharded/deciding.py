"""Assign and filter the samples of shards, and write their decisions and targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from cosup.analysis.decisions import decisions_table, someone_right
from cosup.assigning import assign_fitted
from cosup.assignment.base import Assigner
from cosup.consistency.ranking import Cut, ranking_filters
from cosup.levels import Stream
from cosup.models.weights import hash_tensors
from cosup.probabilities import ProbTable
from cosup.recipe import Recipe
from cosup.rounds import Decided
from cosup.seeds import seed_for
from cosup.sharded.confirming import confirming_filters, find_corrected
from cosup.sharded.counts import (
    Counts,
    added_counts,
    counts_of,
    counts_of_shards,
    write_counts,
)
from cosup.sharded.evidence import ShardParts, ShardStream
from cosup.sharded.fits import Fits
from cosup.sharded.folds import folds_of
from cosup.sharded.ranking import Ranking, find_cuts
from cosup.sharded.shards import Shard
from cosup.sharded.smoothing import Smoothing
from cosup.sharded.store import FOLD, LABEL, WEIGHT, Product, ShardStore
from cosup.sharded.work import Executor

__all__ = ["DecideShard", "RoundProducts", "about_decisions", "decide_shards", "fit_assigner"]


def fit_assigner(
    assigner: Assigner,
    stream: ShardStream,
    shards: Sequence[Shard],
    seed: int,
    provenance: tuple[Tensor, Tensor] | None,
    executor: Executor,
    fits: Fits,
) -> None:
    """Fit an assigner to all samples, as `cosup.assigning.assign` does.

    Sums are computed by the executor; what else is learned is read here, in order. seed: of the
    round. provenance: as in `Assigner.fit`, if it reads any. fits: keeps what is learned.
    """
    parts = ShardParts(stream, shards, assigner.uses, executor)
    known = provenance if "provenance" in assigner.uses else None
    fits.fit(assigner, parts, seed_for(seed, "assigner"), known)


def about_decisions(
    stream: ShardStream, recipe: Recipe, refines: bool, folds: tuple[int, int] | None
) -> str:
    """Return a text of all that the decisions of a round depend on, its assigner fitted. folds: how
    many, and the seed that divides the samples."""
    level, assigner, chain = stream.level, recipe.assigner, recipe.filters
    products: Sequence[Product | None] = (
        *level.annotations,
        level.features,
        stream.student,
        stream.coarse,
    )
    about = (
        level.samples.key,
        level.scopes.names,
        products,
        assigner,
        hash_tensors(assigner.state_dict()),
        chain.names,
        chain.filters,
        recipe.hard,
        recipe.refiner if refines else None,
        folds,
    )
    return repr(about)


@dataclass(frozen=True)
class RoundProducts:
    """What a round writes of each shard.

    measures: what the filters rank all samples by; removed once the round is decided. decisions:
    the table of `cosup.analysis.decisions`. targets: what the student learns, with weights: the
    column `weight`. counts: of the decisions, and the last to be written.
    """

    measures: Product
    decisions: Product
    targets: Product
    weights: Product
    counts: Product

    @property
    def kept(self) -> tuple[Product, ...]:
        """Return what is kept once the round is decided."""
        return self.decisions, self.targets, self.weights, self.counts

    @staticmethod
    def of(name: str, *about: str) -> "RoundProducts":
        """Return the products of a round, whose keys are a hash of these texts."""
        kinds = ("decisions", "targets", "weights", "counts")
        measures = Product.of("measures", name, *about, "by the name of a filter")
        return RoundProducts(measures, *(Product.of(kind, name, *about) for kind in kinds))

    def write_taught(
        self,
        store: ShardStore,
        number: int,
        targets: ProbTable,
        weights: Tensor,
        folds: Tensor,
        labels: Tensor | None = None,
    ) -> None:
        """Write what a student is to learn of the samples of a shard, and of which fold each is.

        weights: [n], 0 of those that it does not learn. labels: [n], -1 unknown, if it learns them.
        """
        store.write_probs(self.targets, number, targets)
        marks = {WEIGHT: weights, FOLD: folds}
        if labels is not None:
            marks[LABEL] = labels
        store.write(self.weights, number, marks)


@dataclass(frozen=True)
class DecideShard:
    """Assigns and filters the samples of a shard, and refines what is assigned.

    recipe: its assigner is fitted. refines: whether this round refines. folds, seed: into so many
    folds the samples are divided, by this seed; 0 does not. cuts: as of `Ranking`. labels: whether
    the student learns the samples' labels, which are then written beside their weights. smoothing:
    what refines with neighbours, once they are found.
    """

    stream: ShardStream
    recipe: Recipe
    number: int
    refines: bool
    products: RoundProducts
    folds: int
    seed: int
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    labels: bool = False
    smoothing: Smoothing | None = None

    @property
    def smooths(self) -> Smoothing | None:
        """Return what refines with neighbours, before these are found; None without any."""
        refiner, counts = self.recipe.refiner, self.products.counts
        if not self.refines or refiner is None or not refiner.neighbours:
            return None
        seed = seed_for(seed_for(self.seed, "round", self.number), "refinement")
        return Smoothing(self.stream, self.recipe, counts.name, counts.key, seed)

    @property
    def ranking(self) -> Ranking:
        """Return the filters."""
        return Ranking(self.stream, self.recipe, self.products.measures, self.cuts)

    def __call__(self, shard: Shard) -> Counts:
        """Write the decisions and targets; return their counts."""
        import pyarrow as pa

        level, products = self.stream.level, self.products
        store, data = level.samples.store, level.samples.read(shard)
        rows = np.arange(len(data))
        stream = self.stream.of(shard, self.recipe.assigner.uses | self.recipe.filters.needs)
        truth, decided = data.truth(rows), self._decide(stream, shard)
        table = decisions_table(
            decided, level.scopes, data.sample_ids(rows), truth, data.classes, data.domains
        )
        keep = decided.kept.keep
        folds = folds_of(data, self.folds, self.seed)
        store.write(
            products.decisions, shard.number, pa.Table.from_pandas(table, preserve_index=False)
        )
        targets = self.recipe.taught(decided.assigned, decided.refined)
        weights, labels = decided.assigned.weighed(keep), data.given(rows) if self.labels else None
        products.write_taught(store, shard.number, targets, weights, folds.to(torch.uint8), labels)
        counts = counts_of(decided, level.scopes, truth)
        counts["best"] = someone_right(stream.level.annotations, truth.labels).sum()
        counts["kept_by_fold"] = torch.bincount(folds[keep], minlength=self.folds)[: self.folds]
        write_counts(store, products.counts, shard.number, counts)
        return counts

    def _decide(self, stream: Stream, shard: Shard) -> Decided:
        recipe = self.recipe
        assigned = assign_fitted(recipe.assigner, stream, recipe.hard)
        kept = self.ranking.run(stream, assigned, shard)
        refined = None
        if self.smoothing is not None:
            refined = self.smoothing.of(shard)
        elif self.refines:
            assert recipe.refiner is not None
            assert stream.student is not None, "a round that refines follows another"
            refined = recipe.refiner.refine(assigned.annotations, stream.student)
        return Decided(
            self.number, stream.level.index, stream.student, assigned, kept, refined=refined
        )


def decide_shards(
    decide: DecideShard,
    shards: Sequence[Shard],
    executor: Executor,
    train: Callable[[DecideShard], DecideShard] | None = None,
) -> tuple[Counts, list[Counts]]:
    """Decide on the shards that are not decided yet.

    train: trains the students that filters compare, and returns what decides with them. Returns the
    counts of all shards together, and `samples`, `kept` and `kept_by_fold` of each.
    """
    store, product = decide.stream.level.samples.store, decide.products.counts
    ranks = ranking_filters(decide.recipe.filters)
    lacking = {shard for one in decide.products.kept for shard in store.missing(one, shards)}
    missing = sorted(lacking)
    confirming = confirming_filters(decide.stream, decide.recipe.filters)
    if missing or any(store.missing(one.found, shards) for one in confirming.values()):
        name = f"neighbours of round {decide.number}"
        confirming = find_corrected(name, confirming, shards, executor)
    if missing and ranks:
        name = f"ranks of round {decide.number}"
        ranking = replace(decide.ranking, confirming=confirming)
        decide = replace(decide, cuts=find_cuts(name, ranking, shards, executor))
    if missing and train is not None:
        decide = train(decide)
    smoothing = decide.smooths
    if missing and smoothing is not None:
        name = f"refinement of round {decide.number}"
        decide = replace(
            decide, smoothing=smoothing.found(name, shards, executor, confirming.values())
        )
    name = f"decisions of round {decide.number}"
    total: Counts = {}
    kept = []
    for counts in counts_of_shards(name, decide, product, store, shards, missing, executor):
        total = added_counts(total, counts)
        kept.append({name: counts[name] for name in ("samples", "kept", "kept_by_fold")})
    if ranks:
        store.remove(decide.products.measures)
    left = {other for one in confirming.values() for other in one.removed}
    left.update(() if smoothing is None else smoothing.removed)
    for other in left:
        store.remove(other)
    return total, kept
