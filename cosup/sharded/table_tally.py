"""What the parts of an annotation table tell of each annotator: sums, and answers on the samples
that are listed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from cosup.data.images import Ints
from cosup.errors import Mistakes, UserError
from cosup.sharded.sample_ids import LISTED, ManifestIds
from cosup.sharded.table_part import COMMON, TablePart
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.table import ANNOTATED, Lookup, TableCounts, TableRead, first_id
from cosup.teachers.table_errors import check_rows, external_of, no_sample, two_answers
from cosup.teachers.tables.matching import Matched
from cosup.teachers.tables.votes import first_repeated

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Answered", "Tally"]

MakeLookup = Callable[[int, "pa.Table", int], Lookup]
"""The answers of a teacher, by its position, on so many samples."""
FirstAbsent = Callable[[int, int], str]
"""Called with the position of a teacher and the number of a shard."""


@dataclass(frozen=True)
class Answered:
    """The answers of a part whose annotators are teachers.

    part: it. at: [n] their rows in the part. who: [n] positions of the teachers. classes: [n] the
    classes that they name, -1 for none.
    """

    part: TablePart
    at: Ints
    who: Ints
    classes: Ints


class Tally:
    """Sums over the parts, by teacher.

    rows, matched, answered: answers, those on a sample, and samples of the annotated splits with a
    class. there: rows on samples of shards, whether they name a class or not; by_shard: the same
    [T, S], of teachers that may not abstain.
    """

    def __init__(self, specs: Sequence[TeacherSpec], ids: ManifestIds) -> None:
        self.specs = specs
        self.ids = ids
        size = len(specs)
        self.rows, self.matched, self.answered, self.there = np.zeros((4, size), np.int64)
        strict = [at for at, spec in enumerate(specs) if external_of(spec).missing != "abstain"]
        self.strict = np.full(size, -1)
        self.strict[strict] = np.arange(len(strict))
        self.by_shard = np.zeros((len(strict), len(ids.shards)), np.int64)
        self.first: dict[int, tuple[int, str]] = {}
        self.twice: dict[int, tuple[int, UserError]] = {}
        self.listed: list[pa.Table] = []
        self.measured = np.isin(np.arange(len(ids.listed)), _annotated(ids))

    def add(self, found: Answered, matched: Matched) -> "tuple[Ints, pa.Table]":
        """Count the answers of a part. Return the shards [m] of those on samples of shards, and the
        answers: `who`, `place`, `label` and the content."""
        import pyarrow as pa

        part, size = found.part, len(self.specs)
        hit = matched.places[part.sample[found.at]]
        on = hit >= 0
        self.rows += np.bincount(found.who, minlength=size)
        self.matched += np.bincount(found.who[on], minlength=size)
        self._note_first(found)
        at, who, hit, classes = found.at[on], found.who[on], hit[on], found.classes[on]
        shard, place = part.samples.shards[hit].astype(np.int64), part.samples.places[hit]
        used = shard >= LISTED
        at, who, hit, classes, shard, place = (
            values[used] for values in (at, who, hit, classes, shard, place)
        )
        if first_repeated(who * len(part.samples.names) + hit) is not None:
            self._note_twice(part, at, who, hit)
        own = shard >= 0
        given = (classes >= 0) & (own | self.measured[np.where(own, 0, place)])
        self.answered += np.bincount(who[given], minlength=size)
        self.there += np.bincount(who[own], minlength=size)
        strict = self.strict[who[own]]
        if len(self.by_shard):
            kept = strict >= 0
            np.add.at(self.by_shard, (strict[kept], shard[own][kept]), 1)
        content = [name for name in part.rows.column_names if name not in COMMON]
        columns = {name: part.rows.column(name).take(at) for name in content}
        numbers = {"label": classes, "place": place, "who": who, "shard": shard}
        table = pa.table(columns | {name: n.astype(np.int32) for name, n in numbers.items()})
        self.listed.append(table.filter(~own))
        return shard[own], table.filter(own)

    def reads(self, how: str, lookup: MakeLookup, absent: FirstAbsent) -> list[TableRead]:
        """Return what an ordinary run reads for each teacher, with its answers on listed samples.

        how: ids were matched, in words. lookup: of some answers on so many samples. absent: names
        the first sample in a shard on which a teacher has no row. Raise the errors of all teachers.
        """
        import pyarrow as pa

        mistakes, found = Mistakes(), []
        table = pa.concat_tables(self.listed).combine_chunks()
        who = table.column("who").to_numpy()
        samples = int(self.measured.sum()) + self.ids.shards.samples
        for number in range(len(self.specs)):
            with mistakes.caught():
                own = lookup(
                    number, table.take(np.flatnonzero(who == number)), len(self.ids.listed)
                )
                self._check(number, own, absent)
                rows, hit = int(self.rows[number]), int(self.matched[number])
                silent = samples - int(self.answered[number])
                found.append(
                    TableRead(own, TableCounts(rows, hit, rows - hit, silent, samples, how))
                )
        mistakes.raise_all()
        return found

    def _check(self, number: int, own: Lookup, absent: FirstAbsent) -> None:
        """Raise `UserError` for a sample with two answers, and for samples without a row."""
        spec, first = self.specs[number], self.first[number][1]
        if number in self.twice:
            raise self.twice[number][1]
        if not self.matched[number]:
            raise no_sample(spec, first)
        data, samples = self.ids.listed, self.ids.shards.samples
        for split in ANNOTATED:
            if split == "student_train":
                left = samples - int(self.there[number])
                check_rows(
                    spec, split, left, samples, partial(self._lacking, number, absent), first
                )
                continue
            rows = data.rows(split)
            lost = rows[own.places.numpy()[rows] < 0]
            check_rows(spec, split, len(lost), len(rows), partial(first_id, data, lost), first)

    def _lacking(self, number: int, absent: FirstAbsent) -> str:
        """Return the first sample of shards without a row."""
        if not self.there[number]:
            return absent(number, 0)
        sizes = np.array([shard.samples for shard in self.ids.shards])
        shard = np.flatnonzero(self.by_shard[self.strict[number]] < sizes)[0]
        return absent(number, int(shard))

    def _note_first(self, found: Answered) -> None:
        """Remember the first id of each teacher."""
        rows = found.part.row[found.at]
        order = np.argsort(rows, kind="stable")
        teachers, first = np.unique(found.who[order], return_index=True)
        for number, at in zip(teachers.tolist(), order[first].tolist(), strict=True):
            name = str(found.part.ids[found.part.sample[found.at[at]]])
            earlier = self.first.get(number, (int(rows[at]), name))
            self.first[number] = min(earlier, (int(rows[at]), name))

    def _note_twice(self, part: TablePart, at: Ints, who: Ints, hit: Ints) -> None:
        """Remember the first sample that a teacher answers under two ids."""
        for number in np.unique(who).tolist():
            own = np.flatnonzero(who == number)
            found = first_repeated(hit[own])
            if found is not None:
                one, other = (at[own[place]] for place in found[:2])
                names = (str(part.ids[part.sample[row]]) for row in (one, other))
                error = two_answers(
                    self.specs[number], part.samples.names[hit[own[found[0]]]], *names
                )
                noted = int(part.row[other]), error
                self.twice[number] = min(self.twice.get(number, noted), noted, key=itemgetter(0))


def _annotated(ids: ManifestIds) -> Ints:
    """Return the listed rows of the splits that teachers annotate."""
    return np.concatenate([ids.listed.rows(split) for split in ANNOTATED])
