"""Sums over the decisions of a round, by which the run is analysed.

The tables of decisions are read once, when the round is finished: they have all that is needed, and
nothing of the round itself depends on the sums. Their length depends on the numbers of teachers,
classes and domains, not on that of samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cosup.analysis.arrays import Values, categories, codes
from cosup.analysis.decisions import HARD
from cosup.layout.schemas import DECISION_SUM_COLUMNS
from cosup.sharded.evidence import ShardLevel
from cosup.sharded.rounds import ShardOutcome, ShardTask
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Executor, FunctionWork

__all__ = ["RoundSums", "sum_round"]

READ = (
    "assigned_teacher",
    "assignment_weight",
    "annotation",
    "kept",
    "rejected_by",
    "true_label",
    "domain",
)
DECIDED = tuple(name for name in DECISION_SUM_COLUMNS if name != "samples")
ANSWERED = ("teacher", "true_label")
AT_ONCE = 2**16
"""Rows of tables that are held before they are added."""


@dataclass(frozen=True)
class RoundSums:
    """Sums over samples.

    decisions: the number of samples with the same decision. Columns: assigned_teacher,
    previous_teacher (of the round before; null in the first), shared (is the sample shared among
    teachers?), kept, rejected_by, correct (is the annotation the true label?), true_label,
    annotation (only where the true label is unknown), domain, samples. answers: the annotations of
    each teacher of the level, assigned or not. Columns: teacher, true_label, samples, answered (it
    did not abstain), correct.
    """

    decisions: pd.DataFrame
    answers: pd.DataFrame


def sum_round(
    task: ShardTask, outcome: ShardOutcome, before: Product | None, executor: Executor
) -> RoundSums:
    """Return the sums of a round over all shards. before: the decisions of the round before."""
    level, shards = task.levels[outcome.level], task.shards
    reader = level.samples.reader
    teachers = tuple(dict.fromkeys(name for one in task.levels for name in one.scopes.names))
    names = {
        "assigned_teacher": teachers,
        "previous_teacher": teachers,
        "rejected_by": tuple(outcome.kept.rejected),
        "true_label": reader.classes,
        "annotation": reader.classes,
        "domain": reader.domains,
    }
    sums = SumShard(level, outcome.products.decisions, before, names)
    work = FunctionWork(f"sums of round {outcome.number}", sums)
    decided, answered = _Adding(DECIDED), _Adding(ANSWERED)
    for _, found in executor.run(work, shards):
        decided.add(found.decisions)
        answered.add(found.answers)
    return RoundSums(decided.total(), answered.total())


@dataclass(frozen=True)
class SumShard:
    """The sums of a round over a shard. names: the values that a column may have."""

    level: ShardLevel
    decisions: Product
    before: Product | None
    names: Mapping[str, tuple[str, ...]]

    def __call__(self, shard: Shard) -> RoundSums:
        """Return the sums."""
        store, number = self.level.samples.store, shard.number
        table = store.table(self.decisions, number, READ).to_pandas()
        shared = table.pop("assignment_weight") < HARD
        table["previous_teacher"] = None
        if self.before is not None:
            before = store.table(self.before, number, ["assigned_teacher"]).to_pandas()
            table["previous_teacher"] = before["assigned_teacher"]
        for column, names in self.names.items():
            table[column] = categories(codes(table[column], list(names)), names)
        truth, label = (table[name].cat.codes.to_numpy() for name in ("true_label", "annotation"))
        keys = table.assign(
            shared=shared,
            correct=(truth >= 0) & (label == truth),
            annotation=table["annotation"].where(truth < 0),
            samples=1,
        )
        return RoundSums(_added([keys], DECIDED), self._answers(store, number, truth))

    def _answers(self, store: ShardStore, number: int, truth: Values) -> pd.DataFrame:
        teachers, names = self.level.scopes.names, self.names["true_label"]
        size = len(names)
        known = truth >= 0
        samples = np.bincount(truth[known], minlength=size)
        there = np.flatnonzero(samples)
        parts = []
        for place, product in enumerate(self.level.annotations):
            label, confidence = (part.numpy() for part in store.probs(product, number).top())
            spoken = known & (confidence > 0)
            right = spoken & (label == truth)
            parts.append(
                pd.DataFrame(
                    {
                        "teacher": categories(np.full(len(there), place), teachers),
                        "true_label": categories(there, names),
                        "samples": samples[there],
                        "answered": np.bincount(truth[spoken], minlength=size)[there],
                        "correct": np.bincount(truth[right], minlength=size)[there],
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)


@dataclass
class _Adding:
    """Adds tables. keys: the columns by which their rows are the same."""

    keys: Sequence[str]
    parts: list[pd.DataFrame] = field(default_factory=list)

    def add(self, table: pd.DataFrame) -> None:
        """Add a table; tables are held until there are enough rows."""
        self.parts.append(table)
        held = sum(map(len, self.parts[1:]))
        if held > max(AT_ONCE, len(self.parts[0])):
            self.parts = [self.total()]

    def total(self) -> pd.DataFrame:
        """Return the sum, its rows ordered by the keys."""
        return _added(self.parts, self.keys)


def _added(parts: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    joined = pd.concat(parts, ignore_index=True)
    return joined.groupby(list(keys), observed=True, dropna=False).sum().reset_index()
