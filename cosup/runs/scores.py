"""Estimates without labels: how well a student fits the sources, and who judges whom.

METHODS.md section 9.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.fused import Fused
from cosup.config.rounds import Filters, RoundsSection
from cosup.levels import Level, Stream, Task
from cosup.probabilities import ProbTable
from cosup.rounds import Outcome
from cosup.runs.measure import Score
from cosup.seeds import seed_for
from cosup.sources import Tally, others_speak
from cosup.words import percent


@dataclass(frozen=True)
class Reference:
    """The posterior of the true class of N samples, from the sources of a level by `fused`.

    posterior: [N, C]. answered: [N] bool: whether any source answers.
    """

    posterior: Tensor
    answered: Tensor

    @classmethod
    def of(cls, stream: Stream, level: Level, seed: int) -> "Reference":
        """Fuse the sources of a level, and the student of the stream if it has one."""
        fused = Fused(student=stream.student is not None)
        seed = seed_for(seed, "reference")
        fused.fit(stream, level.scopes, seed=seed, provenance=level.provenance)
        posterior, answered = [], []
        for evidence in stream:
            posterior.append(fused.posterior(evidence))
            answered.append(evidence.annotations.sum((1, 2)) > 0)
        return cls(torch.cat(posterior), torch.cat(answered))

    def agrees(self, table: ProbTable) -> Tensor:
        """Return [n] float64: 1 where the class of a table is the most probable one, of the samples
        for which there are answers."""
        labels, _ = table.top()
        return (labels == self.posterior.argmax(1))[self.answered].double()

    def right(self, table: ProbTable) -> float:
        """Return the estimated share of samples of which a table's class is right, in 0 .. 1."""
        labels, _ = table.top()
        likely = self.posterior.gather(1, labels[:, None])[:, 0]
        return float(likely[self.answered].double().mean())


def estimated_scores(
    level: Level, tables: Mapping[str, ProbTable], features: Tensor | None, seed: int
) -> dict[str, Score]:
    """Estimate how many answers of each teacher are right, by the posterior from those of a level.

    tables: each teacher's annotations [N]. Counted are the samples on which another teacher of the
    level speaks too: a source that is alone cannot be judged. METHODS.md section 10.
    """
    fused, names = Fused(student=False), list(tables)
    stream = Stream(level, None, features, None).restricted(fused.uses)
    seed = seed_for(seed, "reference")
    fused.fit(stream, level.scopes, seed=seed, provenance=level.provenance)
    columns = [
        label.masked_fill(sure <= 0, -1) for label, sure in map(ProbTable.top, tables.values())
    ]
    said = torch.stack(columns, dim=1)
    speakers = [names.index(name) for name in level.scopes.names]
    tally = Tally(len(names), stream.num_classes)
    for rows, evidence in stream.items():
        answers = said[rows]
        nobody = torch.zeros(len(answers), 1, dtype=torch.bool)  # in the place of the student
        spoken = torch.cat([answers >= 0, nobody], dim=1)
        judged = spoken & others_speak(spoken, speakers, student=False)
        one = torch.zeros(len(answers), dtype=torch.int64)
        tally.add(answers.masked_fill(~judged[:, :-1], -1), fused.posterior(evidence), one, one)
    right, counted = tally.right.sum(1), tally.samples
    return {
        name: Score(float(right[place]), int(counted[place]), len(said))
        for place, name in enumerate(names)
    }


def judge(
    rounds: RoundsSection, task: Task, outcome: Outcome, seed: int
) -> dict[str, float] | None:
    """Estimate which share of the guiding student's classes and of the annotations is right.

    Returns `student` and `annotations`, in 0 .. 1; None for a round without a filter that compares
    annotations with a student, and in the first round, which no student guides. The means over two
    posteriors: one from the sources of the round, which favours their annotations, and one in which
    the student is a source too, which favours the student.
    """
    compares = any(Filters.settings(choice).compares for choice in rounds.consistency)
    guide = outcome.guide
    if not compares or guide is None:
        return None
    level = task.levels[outcome.level]
    tables = {"student": guide, "annotations": outcome.assigned.targets}
    streams = [Stream(level, student, task.features, None) for student in (None, guide)]
    references = [Reference.of(stream, level, seed) for stream in streams]
    return {
        name: sum(reference.right(table) for reference in references) / len(references)
        for name, table in tables.items()
    }


def weak_judge(found: dict[str, float] | None, number: int) -> str | None:
    """Return why the filters of a round should not judge, given `judge` of it; None if they may."""
    if found is None or found["student"] >= found["annotations"]:
        return None
    student, annotations = percent(found["student"]), percent(found["annotations"])
    return (
        f"round {number} filters annotations of which about {annotations} are right by a student "
        f"that is right on about {student} of the samples (estimated without labels)"
    )
