"""Sums over the decisions of a round, by which the run is analysed.

The tables of decisions are read once, when the round is finished: they have all that is needed, and
nothing of the round itself depends on the sums. Their length depends on the numbers of teachers,
classes and domains, not on that of samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cosup.analysis.arrays import Codes, Values, categories, codes
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
SUMS = ("samples", "answered", "correct")
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
    decided, answered = Adding(), Adding()
    for _, found in executor.run(work, shards):
        decided.add(found.decisions)
        answered.add(found.answers)
    answers = {"teacher": level.scopes.names, "true_label": reader.classes}
    return RoundSums(
        decided.table({name: names.get(name) for name in DECIDED}, SUMS[:1]),
        answered.table(answers, SUMS),
    )


@dataclass(frozen=True)
class Grouped:
    """Rows of a table as numbers. keys: [n, K], the place of each row's value in those of a column,
    which is their number if the value is missing. sums: [n, S]."""

    keys: Codes
    sums: Codes

    def joined(self) -> "Grouped":
        """Return one row for all that have the same keys, in the order of the keys."""
        first, group = (
            np.zeros(min(len(self.keys), 1), np.int64),
            np.zeros(len(self.keys), np.int64),
        )
        for column in self.keys.T:
            whole = group * (int(column.max(initial=0)) + 1) + column
            _, first, group = np.unique(whole, return_index=True, return_inverse=True)
        sums = np.zeros((len(first), self.sums.shape[1]), np.int64)
        np.add.at(sums, group, self.sums)
        return Grouped(self.keys[first], sums)


@dataclass(frozen=True)
class ShardSums:
    """The sums of a shard, as those of `RoundSums`."""

    decisions: Grouped
    answers: Grouped


@dataclass(frozen=True)
class SumShard:
    """The sums of a round over a shard. names: the values that a column may have."""

    level: ShardLevel
    decisions: Product
    before: Product | None
    names: Mapping[str, tuple[str, ...]]

    def __call__(self, shard: Shard) -> ShardSums:
        """Return the sums."""
        store, number = self.level.samples.store, shard.number
        table = store.table(self.decisions, number, READ).to_pandas()
        table["previous_teacher"] = None
        if self.before is not None:
            before = store.table(self.before, number, ["assigned_teacher"]).to_pandas()
            table["previous_teacher"] = before["assigned_teacher"]
        found = {name: codes(table[name], list(names)) for name, names in self.names.items()}
        truth, label = found["true_label"], found["annotation"]
        known = truth >= 0
        found["annotation"] = np.where(known, -1, label)
        keys = {
            **{
                name: np.where(code < 0, len(self.names[name]), code)
                for name, code in found.items()
            },
            "shared": table["assignment_weight"].to_numpy() < HARD,
            "kept": table["kept"].to_numpy(),
            "correct": known & (label == truth),
        }
        columns = [keys[name].astype(np.int64) for name in DECIDED]
        decisions = Grouped(np.stack(columns, 1), np.ones((len(table), 1), np.int64))
        return ShardSums(decisions.joined(), self._answers(store, number, truth))

    def _answers(self, store: ShardStore, number: int, truth: Codes) -> Grouped:
        size, known = len(self.names["true_label"]), truth >= 0
        samples = np.bincount(truth[known], minlength=size)
        there = np.flatnonzero(samples)
        keys, sums = [np.empty((0, 2), np.int64)], [np.empty((0, len(SUMS)), np.int64)]
        for place, product in enumerate(self.level.annotations):
            label, confidence = (part.numpy() for part in store.probs(product, number).top())
            spoken = known & (confidence > 0)
            counts = [samples] + [
                np.bincount(truth[some], minlength=size)
                for some in (spoken, spoken & (label == truth))
            ]
            keys.append(np.stack([np.full(len(there), place), there], 1))
            sums.append(np.stack([count[there] for count in counts], 1))
        return Grouped(np.concatenate(keys), np.concatenate(sums))


@dataclass
class Adding:
    """Adds rows of shards."""

    parts: list[Grouped] = field(default_factory=list)

    def add(self, rows: Grouped) -> None:
        """Add rows; they are held until there are enough."""
        self.parts.append(rows)
        held = sum(len(part.keys) for part in self.parts[1:])
        if held > max(AT_ONCE, len(self.parts[0].keys)):
            self.parts = [self.total()]

    def total(self) -> Grouped:
        """Return the sum."""
        keys, sums = [one.keys for one in self.parts], [one.sums for one in self.parts]
        return Grouped(np.concatenate(keys), np.concatenate(sums)).joined()

    def table(
        self, names: Mapping[str, Sequence[str] | None], counted: Sequence[str]
    ) -> pd.DataFrame:
        """Return the sum as a table. names: the values of the columns of keys; None: true or not.
        counted: the names of the columns of sums."""
        total = self.total()
        columns: dict[str, Values | pd.Categorical[str]] = {}
        for (name, values), code in zip(names.items(), total.keys.T, strict=True):
            if values is None:
                columns[name] = code.astype(bool)
            else:
                columns[name] = categories(np.where(code == len(values), -1, code), values)
        return pd.DataFrame(columns | dict(zip(counted, total.sums.T, strict=True)))
