"""Estimate, without labels, who judges whom by the filters of a sharded round: sums over shards."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.analysis.arrays import codes
from cosup.assignment.fused import Fused
from cosup.recipe import Recipe
from cosup.seeds import seed_for
from cosup.sharded.evidence import ShardParts, ShardStream
from cosup.sharded.rounds import ShardOutcome, ShardTask
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.work import Executor, FunctionWork, in_order

__all__ = ["judge_shards"]


def judge_shards(
    task: ShardTask, recipe: Recipe, outcome: ShardOutcome, seed: int, executor: Executor
) -> dict[str, float] | None:
    """Estimate which share of the guiding student's classes and of the annotations is right.

    As `cosup.runs.scores.judge` of a round whose samples are listed: None without a filter that
    compares annotations with a student, and without a student that guides.
    """
    guide = outcome.guide
    if guide is None or not any(each.compares for each in recipe.filters.filters):
        return None
    level, shards = task.levels[outcome.level], task.shards
    found = torch.zeros(2, dtype=torch.float64)
    for student in (None, guide):
        fused, stream = Fused(student=student is not None), ShardStream(level, task.firsts, student)
        parts = ShardParts(stream, shards, fused.uses, executor)
        task.fits.fit(fused, parts, seed_for(seed, "reference"), task.provenance[outcome.level])
        judges = JudgeShard(stream, fused, guide, outcome.products.decisions)
        work = FunctionWork(f"judges of round {outcome.number}", judges)
        *right, answered = torch.stack(list(in_order(executor.run(work, shards), shards))).sum(0)
        found += torch.stack(right) / answered / 2
    return dict(zip(("student", "annotations"), found.tolist(), strict=True))


@dataclass(frozen=True)
class JudgeShard:
    """Sums over the samples of a shard that some source answers.

    stream: of the sources. fused: fitted to them. guide: predictions of the student. decisions: the
    table of the round, with the annotations.
    """

    stream: ShardStream
    fused: Fused
    guide: Product
    decisions: Product

    def __call__(self, shard: Shard) -> Tensor:
        """Return the sums [3] float64 of the probability that the student's class is right, of that
        of the annotation, and of ones."""
        samples, number = self.stream.level.samples, shard.number
        table = samples.store.table(self.decisions, number, ["annotation"]).to_pandas()
        annotation = torch.from_numpy(codes(table["annotation"], list(samples.reader.classes)))
        own, _ = samples.store.probs(self.guide, number).top()
        # Where there is no annotation, its class is 0 (`ProbTable.top`).
        labels = torch.stack([own, annotation.to(torch.int64).clamp_min(0)], dim=1)
        sums = torch.zeros(3, dtype=torch.float64)
        for rows, evidence in self.stream.of(shard, self.fused.uses).items():
            right = self.fused.posterior(evidence).gather(1, labels[rows]).double()
            answered = evidence.annotations.sum((1, 2)) > 0
            sums += torch.cat([right, torch.ones(len(right), 1)], dim=1)[answered].sum(0)
        return sums
