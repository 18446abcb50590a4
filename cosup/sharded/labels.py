"""Final labels of the samples of shards, and estimates of every source: sums over shards.

As `cosup.runs.labels` and `cosup.runs.sources` do it for samples that are listed. METHODS.md
sections 10 and 11.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cosup.analysis.agreement import AgreementSums
from cosup.analysis.arrays import codes
from cosup.analysis.labels import FinalLabels, LabelSums, labels_table, review_rank
from cosup.analysis.records import Answers
from cosup.analysis.review_list import MOST_LISTED, first_labels
from cosup.analysis.said import say
from cosup.assignment.base import Assigner
from cosup.assignment.fused import Fused
from cosup.models.weights import hash_tensors
from cosup.posterior import Posterior, SourceSums, fitted_posterior
from cosup.probabilities import ProbTable
from cosup.seeds import seed_for
from cosup.sharded.evidence import ShardParts, ShardStream
from cosup.sharded.folds import hashed_groups
from cosup.sharded.rounds import ShardTask
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Executor, FunctionWork, in_order
from cosup.sources import BLOCKS, answers_of

__all__ = ["Labelled", "LastRound", "label_shards", "sum_sources"]

READ = (
    *("sample_id", "assigned_teacher", "annotation", "kept", "rejected_by", "true_label"),
    "domain",
)
"""Columns of the decisions that the labels need."""


@dataclass(frozen=True)
class LastRound:
    """What is left of the last round of a task.

    level: its index. assigner: fitted. decisions: the table of the round. predictions: of the last
    student; cross_fitted: by one that was not trained on the sample. guide: predictions that guided
    the round, if any. teachers: names of those of all levels; tables: of those that are tables of
    labels. seed: of the run.
    """

    task: ShardTask
    level: int
    assigner: Assigner
    decisions: Product
    predictions: Product
    cross_fitted: bool
    guide: Product | None
    teachers: tuple[str, ...]
    tables: frozenset[str]
    seed: int

    @property
    def answers(self) -> tuple[Product, ...]:
        """Return the annotations of every teacher."""
        found = {
            name: product
            for level in self.task.levels
            for name, product in zip(level.scopes.names, level.annotations, strict=True)
        }
        return tuple(found[name] for name in self.teachers)

    @property
    def store(self) -> ShardStore:
        """Return the store of the shards."""
        return self.task.levels[0].samples.store

    def stream(self, student: Product | None) -> ShardStream:
        """Return the evidence of the level with a student's predictions, or without any."""
        return ShardStream(self.task.levels[self.level], self.task.firsts, student)

    def fit(self, fused: Fused, student: Product | None, stage: str, executor: Executor) -> None:
        """Fit a posterior to the sources and a student. stage: names the seed."""
        parts = ShardParts(self.stream(student), self.task.shards, fused.uses, executor)
        known = self.task.provenance[self.level] if "provenance" in fused.uses else None
        self.task.fits.fit(fused, parts, seed_for(self.seed, stage), known)


def sum_sources(
    last: LastRound, regions: int, executor: Executor
) -> tuple[SourceSums, Fused, bool]:
    """Sum what every source says over all shards, beside the posterior of the true class.

    regions: number of domains; with one alone, the regions are those of the posterior. Returns the
    sums, the posterior, and whether it is that of the rounds (as `cosup.posterior.find_judge`).
    """
    own = isinstance(last.assigner, Fused)
    if isinstance(last.assigner, Fused):
        fused, heard = last.assigner, last.guide
        speaks = heard is not None and fused.student
    else:
        fused, heard = Fused(), last.predictions if last.cross_fitted else None
        speaks = heard is not None
        last.fit(fused, heard, "sources", executor)
    stream = last.stream(heard)
    judged = last.predictions if last.guide is None or not own else last.guide
    by_domain = regions > 1
    if not by_domain:
        regions = len(fused.sources(stream.level.scopes).regions)
    work = SumSources(
        stream, fused, (*last.answers, judged), last.teachers, by_domain, regions, speaks
    )
    total: SourceSums | None = None
    for found in in_order(
        executor.run(FunctionWork("sums of sources", work), last.task.shards), last.task.shards
    ):
        if total is None:
            total = found
        else:
            total.include(found)
    assert total is not None, "there is a shard"
    return total, fused, own


@dataclass(frozen=True)
class SumSources:
    """Sums over the samples of a shard.

    fused: fitted, reads the stream. answers: products of the teachers, then of the student.
    """

    stream: ShardStream
    fused: Fused
    answers: tuple[Product, ...]
    teachers: tuple[str, ...]
    by_domain: bool
    regions: int
    speaks: bool

    def __call__(self, shard: Shard) -> SourceSums:
        """Return the sums."""
        level = self.stream.level
        store, data, scopes = level.samples.store, level.samples.read(shard), level.scopes
        truth = data.truth(np.arange(len(data)))
        # `cosup.sources.block_of` draws them where all groups are listed.
        block = hashed_groups(data, BLOCKS, "blocks of groups")
        said = answers_of([store.probs(product, shard.number) for product in self.answers]).long()
        heard = [self.teachers.index(name) for name in scopes.names]
        sums = SourceSums.zeros(len(self.answers), level.num_classes, self.regions, len(scopes))
        for rows, evidence in self.stream.of(shard, self.fused.uses).items():
            if not len(said[rows]):
                continue
            sums.add(
                self.fused,
                scopes,
                evidence,
                said[rows],
                truth.labels[rows],
                truth.domains[rows] if self.by_domain else None,
                block[rows],
                heard,
                self.speaks,
            )
        return sums


class Labelled(NamedTuple):
    """The labels of shards. sums, agreement: over all samples. first: the least sure labels, as
    `cosup.analysis.review_list.first_labels`, with the number of the shard."""

    sums: LabelSums
    agreement: AgreementSums
    first: pd.DataFrame


def label_shards(last: LastRound, executor: Executor) -> tuple[Product, Labelled]:
    """Write the final labels of every shard; return their product, and what is told of them all.

    The posterior is as of `cosup.posterior.fit_posterior`.
    """
    student = last.predictions if last.cross_fitted else None

    def fit(fused: Fused) -> None:
        last.fit(fused, student if fused.student else None, "labels", executor)

    own, scopes = last.assigner, last.task.levels[last.level].scopes
    state = own.state_dict() if isinstance(own, Fused) else None
    fused, is_factor = fitted_posterior(own, state, scopes, student is not None, fit)
    factor, heard = student if is_factor else None, student if fused.student else None
    about = (
        vars(last.decisions),
        last.predictions,
        heard,
        factor,
        last.cross_fitted,
        last.answers,
        fused,
        hash_tensors(fused.state_dict()),
    )
    product = Product.of("labels", "final", repr(about))
    work = LabelShard(last, last.stream(heard), fused, factor, product)
    shards = last.task.shards
    total: Labelled | None = None
    results = executor.run(FunctionWork("labels", work), shards)
    for found in in_order(results, shards):
        if total is None:
            total = found
        else:
            total.sums.include(found.sums)
            total.agreement.include(found.agreement)
            total = total._replace(first=_least_sure(pd.concat([total.first, found.first])))
    assert total is not None, "there is a shard"
    first = total.first.assign(review_rank=range(1, len(total.first) + 1))
    return product, total._replace(first=first)


def _least_sure(table: pd.DataFrame) -> pd.DataFrame:
    """Return the first rows by `review_rank`, in this order."""
    rank = review_rank(table["probability"], table["runner_up_probability"])
    return table.iloc[np.argsort(rank)[:MOST_LISTED]].reset_index(drop=True)


@dataclass(frozen=True)
class LabelShard:
    """Labels the samples of a shard. stream: what `fused` reads. product: of the labels."""

    last: LastRound
    stream: ShardStream
    fused: Fused
    factor: Product | None
    product: Product

    def __call__(self, shard: Shard) -> Labelled:
        """Write the table of labels; return the sums."""
        import pyarrow as pa

        last, level, number = self.last, self.stream.level, shard.number
        store, classes = level.samples.store, list(level.samples.reader.classes)
        decisions = store.table(last.decisions, number, READ).to_pandas()
        predicted = store.probs(last.predictions, number)
        final = self._labels(shard, predicted, torch.tensor(decisions["kept"].to_numpy(bool)))
        table = labels_table(final, decisions, classes)
        written = table.drop(columns="review_rank")
        store.write(self.product, number, pa.Table.from_pandas(written, preserve_index=False))
        tables = dict(
            zip(last.teachers, (store.probs(one, number) for one in last.answers), strict=True)
        )
        said = answers_of([*tables.values(), predicted]).long()
        annotations, asked = (
            torch.from_numpy(codes(decisions[column], known))
            for column, known in (
                ("annotation", classes),
                ("assigned_teacher", list(last.teachers)),
            )
        )
        return Labelled(
            LabelSums.of(table, decisions["true_label"], classes),
            AgreementSums.of(said, final.label, annotations, asked),
            self._first(table, decisions, tables, predicted).assign(shard=number),
        )

    def _first(
        self,
        table: pd.DataFrame,
        decisions: pd.DataFrame,
        tables: Mapping[str, ProbTable],
        predicted: ProbTable,
    ) -> pd.DataFrame:
        """Return the least sure labels of a shard. tables: annotations of each teacher."""
        level = self.stream.level
        rows = np.argsort(table["review_rank"].to_numpy())[:MOST_LISTED]
        places = torch.from_numpy(rows)
        answers = {name: Answers.of(tables[name].take(places)) for name in level.scopes.names}
        classes = level.samples.reader.classes
        labels, known = (one.iloc[rows].reset_index(drop=True) for one in (table, decisions))
        student, said = Answers.of(predicted.take(places)), say(answers, self.last.tables, classes)
        return first_labels(labels, known, student, said, classes)

    def _labels(self, shard: Shard, predicted: ProbTable, kept: Tensor) -> FinalLabels:
        store, scopes = self.stream.level.samples.store, self.stream.level.scopes
        factor = None if self.factor is None else store.probs(self.factor, shard.number)
        stream = self.stream.of(shard, self.fused.uses)
        posterior = Posterior(self.fused, stream, factor)
        parts = [
            FinalLabels.of(found, evidence.annotations, self.fused.weights(evidence, scopes), own)
            for found, own, evidence in posterior.beside(
                predicted, kept, cross_fitted=self.last.cross_fitted
            )
        ]
        return FinalLabels.concat(parts, scopes.names)
