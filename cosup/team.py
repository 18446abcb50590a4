"""Predict with the student and the team: the teachers of a level, routed by a fitted assigner.

Student and team are combined by a product of experts with learnt exponents,

    p(c | x)  proportional to  p_student(c | x)^b  p_team(c | x)^a,     a, b >= 0.

The exponents maximise the likelihood of labelled samples that neither the student nor the teachers
were trained on (METHODS.md section 5). The log-likelihood is concave in (a, b), so the maximum is
unique.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.evidence import Assigned, Truth
from cosup.levels import Level, LevelAnnotations, Stream
from cosup.probabilities import ProbTable

__all__ = [
    "Answering",
    "Exponents",
    "TeamAnswers",
    "TeamFit",
    "ask_team",
    "combine",
    "fit_exponents",
    "fit_team",
]

FLOOR = 1e-6
"""Probabilities are clamped to this before taking logarithms."""
PENALTY = 1.0
"""Penalty of PENALTY / 2 on the squared distance of the exponents from 1, for all samples together;
it keeps them finite where student or team make no error."""
FOLDS = 5
LARGEST = 2**23
"""Most values [N, C] that exponents are fitted to; evenly spaced samples if there are more."""

Uses = Literal["student", "team", "both"]


@dataclass(frozen=True)
class Exponents:
    """The exponents of the probabilities of the student and of the team."""

    student: float
    team: float


ALONE: dict[Uses, Exponents] = {"student": Exponents(1.0, 0.0), "team": Exponents(0.0, 1.0)}


@dataclass(frozen=True)
class TeamAnswers:
    """Answers of the team on N samples.

    probs: [N, C], rows of zeros where no teacher answers. weights: [N, T] of the teachers.
    """

    probs: ProbTable
    weights: Tensor


@dataclass(frozen=True)
class Answering:
    """The annotations of some teachers of a level; the others abstain.

    answers: [T] bool.
    """

    annotations: LevelAnnotations
    answers: Tensor

    def __len__(self) -> int:
        return len(self.annotations)

    def iter_dense(self, max_elements: int = 2**23) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, annotations [n, T, C]), with rows of zeros for those who abstain."""
        for rows, dense in self.annotations.iter_dense(max_elements):
            yield rows, dense * self.answers[None, :, None]


def ask_team(
    assigner: Assigner,
    level: Level,
    student: ProbTable,
    features: Tensor | None = None,
    domains: Tensor | None = None,
) -> TeamAnswers:
    """Return the answers of a level's teachers, routed by a fitted assigner.

    student: [N, C], by which some assigners route. An assigner whose posterior counts the student
    as a witness (`mixes` is False) gets uniform probabilities in its place, so that the student is
    not counted twice. features: [N, D], domains: [N] int64, if the assigner reads them.
    """
    truth = None if domains is None else Truth(torch.full_like(domains, -1), domains)
    stream = Stream(level, student, features, truth).restricted(assigner.uses)
    weights = torch.zeros(len(stream), len(level.scopes))
    probs = ProbTable.empty(len(stream), stream.num_classes)
    for rows, evidence in stream.items():
        if not assigner.mixes:
            uniform = torch.full_like(evidence.student_probs, 1 / stream.num_classes)
            evidence = replace(evidence, student_probs=uniform)
        assigned: Assigned = assigner.elsewhere().assign(evidence, level.scopes)
        weights[rows] = assigned.weights
        answered = evidence.annotations.sum((1, 2)) > 0
        probs.put(rows, ProbTable.compress(assigned.targets * answered[:, None]))
    return TeamAnswers(probs, weights)


def combine(student: Tensor, team: Tensor, exponents: Exponents) -> Tensor:
    """Return the normalised product [N, C] of probabilities [N, C] of student and team.

    Where the team abstains (a row of zeros), it is the student's own row.
    """
    answers = team.sum(1, keepdim=True) > 0
    product = exponents.student * _log(student) + exponents.team * _log(team)
    return torch.where(answers, product.softmax(1).to(student), student)


def fit_exponents(student: Tensor, team: Tensor, labels: Tensor, uses: Uses = "both") -> Exponents:
    """Return the exponents that maximise the log-likelihood of labels [N] int64.

    student, team: [N, C]. uses: the exponent of the one that is not used is 0.
    """
    logs = {"student": _log(student), "team": _log(team)}
    names = ["student", "team"] if uses == "both" else [uses]
    found, _ = _maximise(torch.stack([logs[name] for name in names], 2), labels)
    if uses == "both" and min(found) < 0:
        # The function is concave: its maximum over a, b >= 0 is then on one of the two borders.
        alone = [(_maximise(logs[name][:, :, None], labels), name) for name in names]
        ((best, _), name) = max(alone, key=lambda each: each[0][1])
        names, found = [name], best
    by_name = dict(zip(names, found, strict=True))
    return Exponents(*(max(0.0, by_name.get(name, 0.0)) for name in ("student", "team")))


@dataclass(frozen=True)
class TeamFit:
    """What to predict with, and why.

    uses: the one that is used of student, team and both. exponents: (1, 0) for the student alone,
    (0, 1) for the team alone. samples: number of labelled samples. accuracy, log_likelihood: those
    of each of the three on these samples, cross-validated; in nats per sample.
    """

    uses: Uses
    exponents: Exponents
    samples: int
    accuracy: dict[Uses, float]
    log_likelihood: dict[Uses, float]


def fit_team(student: Tensor, team: Tensor, labels: Tensor, groups: Tensor) -> TeamFit:
    """Fit the exponents, and decide between student, team and both.

    student, team: [N, C], of samples that neither was trained on. labels: [N] int64. groups: [N]
    int64; samples of one group are in the same fold.

    The three are compared by their cross-validated log-likelihood. The team replaces the student,
    and both replace the better of the two, only where the gain is above its standard error (over
    groups), and where the accuracy is not lower.
    """
    student, team, labels, groups = _thinned(student, team, labels, groups)
    held: dict[Uses, Tensor] = {}
    everything: tuple[Uses, ...] = ("student", "team", "both")
    for uses in everything:
        held[uses] = _cross_validated(student, team, labels, groups, uses)
    nats = {uses: _log_likelihood(log, labels) for uses, log in held.items()}
    right = {uses: (log.argmax(1) == labels).double() for uses, log in held.items()}
    best: Uses = "student"
    if _is_better(nats["team"] - nats[best], groups) and _mean(right["team"] - right[best]) >= 0:
        best = "team"
    highest = max(_mean(right["student"]), _mean(right["team"]))
    if _is_better(nats["both"] - nats[best], groups) and _mean(right["both"]) >= highest:
        best = "both"
    fitted = fit_exponents(student, team, labels) if best == "both" else ALONE[best]
    return TeamFit(
        best,
        fitted,
        len(labels),
        {uses: _mean(hits) for uses, hits in right.items()},
        {uses: _mean(each) for uses, each in nats.items()},
    )


def _log(probs: Tensor) -> Tensor:
    return probs.double().clamp_min(FLOOR).log()


def _maximise(logs: Tensor, labels: Tensor) -> tuple[list[float], float]:
    """Maximise the penalised log-likelihood of labels [N] over exponents [k] of logs [N, C, k].

    Newton's method with halved steps. Returns the exponents, and the mean log-likelihood.
    """
    count, kinds = len(labels), logs.shape[2]
    chosen = logs[torch.arange(count), labels].mean(0)

    def value(theta: Tensor) -> float:
        reached = chosen @ theta - (logs @ theta).logsumexp(1).mean()
        return float(reached - PENALTY / (2 * count) * (theta - 1).square().sum())

    theta = torch.ones(kinds, dtype=torch.float64)
    now = value(theta)
    for _ in range(50):
        probs = (logs @ theta).softmax(1)
        mean = torch.einsum("nc,nck->nk", probs, logs)
        gradient = chosen - mean.mean(0) - PENALTY / count * (theta - 1)
        second = torch.einsum("nc,nck,ncl->kl", probs, logs, logs) - mean.T @ mean
        curvature = second / count + PENALTY / count * torch.eye(kinds, dtype=torch.float64)
        step = torch.linalg.solve(curvature, gradient)
        before = now
        while (now := value(theta + step)) < before and float(step.abs().max()) > 1e-12:
            step = step / 2
        if now - before < 1e-12:
            break
        theta = theta + step
    return theta.tolist(), now


def _cross_validated(
    student: Tensor, team: Tensor, labels: Tensor, groups: Tensor, uses: Uses
) -> Tensor:
    """Return log-probabilities [N, C] of samples, each by exponents fitted to other folds."""
    _, group = torch.unique(groups, return_inverse=True)
    folds = min(FOLDS, int(group.max()) + 1)
    fold = group % folds
    found = torch.zeros(student.shape, dtype=torch.float64)
    for number in range(folds):
        inside = fold == number
        outside = ~inside if folds > 1 else inside
        fitted = fit_exponents(student[outside], team[outside], labels[outside], uses)
        found[inside] = (
            combine(student[inside], team[inside], fitted).double().clamp_min(1e-12).log()
        )
    return found


def _log_likelihood(log_probs: Tensor, labels: Tensor) -> Tensor:
    return log_probs.gather(1, labels[:, None])[:, 0]


def _is_better(gain: Tensor, groups: Tensor) -> bool:
    """Return whether the mean gain [N] is above its standard error over groups."""
    _, group = torch.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    centred = torch.zeros(count, dtype=torch.float64).index_add_(0, group, gain - gain.mean())
    error = float((centred.square().sum() * count / max(1, count - 1)).sqrt()) / len(gain)
    return float(gain.mean()) > max(error, 1e-6)


def _mean(values: Tensor) -> float:
    return float(values.mean())


def _thinned(student: Tensor, team: Tensor, labels: Tensor, groups: Tensor) -> Sequence[Tensor]:
    most = max(1, LARGEST // student.shape[1])
    every = torch.arange(0, len(labels), -(-len(labels) // most))
    return [part[every] for part in (student, team, labels, groups)]
