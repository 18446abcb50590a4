"""Groups of sources that err together, and the evidence of grouped sources.

METHODS.md section 8. Copies, and weak models that read the same pixels, are no independent
witnesses: within a group the mean counts, and only groups are multiplied.
"""

from itertools import combinations

from torch import Tensor

from cosup.assignment.answers import Answers
from cosup.assignment.em import by_region, count_hard
from cosup.assignment.likelihood import FLOOR, Groups, combine, group_evidence, shrunk_rates

FEWEST = 50.0
"""Fewest samples (by weight) that two sources must both answer."""
SMOOTHING = 1.0
"""Answers per cell by which confusion matrices are drawn towards simpler ones."""
IDENTICAL = 0.995
"""Two sources that give this share of equal answers, or more, are copies."""


def find_groups(
    answers: Answers, evidence: Tensor, rest: Tensor, start: Groups, above: float
) -> Groups:
    """Return the groups of sources that err together.

    evidence [n, T, C]: log-likelihoods of the answers. rest [n, C]: those of the student, and the
    prior. start: groups that are taken for granted. The pair that agrees most beyond chance is
    joined, and the others are measured again, until none is above `above` by twice its sampling
    error.
    """
    groups = start
    while len(groups) > 1:
        joint = combine(evidence, answers.weights, groups) + rest
        rates = _rates(answers, joint.softmax(1))
        found = max(
            (
                (_excess(answers, evidence, joint, rates, groups, one, other), one, other)
                for one, other in combinations(groups, 2)
            ),
            key=lambda item: item[0],
        )
        if found[0] <= above:
            break
        groups = _joined(groups, found[1], found[2])
    return groups


def join_copies(labels: Tensor, groups: Groups) -> Groups:
    """Join sources whose answers are equal."""
    for first, second in combinations(range(labels.shape[1]), 2):
        both = (labels[:, [first, second]] >= 0).all(1)
        if int(both.sum()) < FEWEST:
            continue
        equal = labels[both, first] == labels[both, second]
        one, other = (next(g for g in groups if t in g) for t in (first, second))
        if one != other and float(equal.double().mean()) >= IDENTICAL:
            groups = _joined(groups, one, other)
    return groups


def _joined(groups: Groups, one: tuple[int, ...], other: tuple[int, ...]) -> Groups:
    kept = [members for members in groups if members not in (one, other)]
    return tuple(sorted([*kept, tuple(sorted(one + other))]))


def _rates(answers: Answers, posterior: Tensor) -> Tensor:
    """Return P(source answers j | region, c) [T, C, R, C] under a posterior [n, C]."""
    sources, classes = answers.labels.shape[1], posterior.shape[1]
    expected = by_region(answers.regions, posterior)
    counts = expected.new_zeros(sources, classes, expected.shape[1] * classes)
    for source in range(sources):
        weighted = expected * answers.weights[:, source, None, None]
        count_hard(counts[source, None], answers.labels[:, source, None], weighted.flatten(1))
    return shrunk_rates(counts.view(sources, classes, -1, classes), SMOOTHING * classes)


def _excess(
    answers: Answers,
    evidence: Tensor,
    joint: Tensor,
    rates: Tensor,
    groups: Groups,
    one: tuple[int, ...],
    other: tuple[int, ...],
) -> float:
    """Return the largest excess of a pair of sources of two groups, less twice its error."""
    others = joint
    for members in (one, other):
        others = others - group_evidence(evidence, answers.weights, members)
    posterior, best = others.softmax(1), -1.0
    for first in one:
        for second in other:
            found, error = excess_agreement(answers, posterior, rates, first, second)
            best = max(best, found - 2 * error)
    return best


def excess_agreement(
    answers: Answers, posterior: Tensor, rates: Tensor, first: int, second: int
) -> tuple[float, float]:
    """Return how much two sources agree beyond what the posterior explains, and its error.

    posterior: [n, C] of the true class, by all other groups. rates: [T, C, R, C]. With A the share
    of equal answers and B the share that is expected of answers that are independent given class
    and region, returns (A - B) / (1 - B), which is 1 for copies, and its standard error; (0, 0) if
    the two answered together fewer than `FEWEST` times.
    """
    labels, weights = answers.labels, answers.weights
    both = (labels[:, first] >= 0) & (labels[:, second] >= 0)
    share = (weights[:, first] * weights[:, second])[both].double()
    if float(share.sum()) < FEWEST:
        return 0.0, 0.0
    equal = (labels[both, first] == labels[both, second]).double()
    by_chance = (rates[first] * rates[second]).sum(0)
    likely = (posterior[both].double() @ by_chance.T * answers.regions[both].double()).sum(1)
    total = float(share.sum())
    agree, chance = float((share * equal).sum()) / total, float((share * likely).sum()) / total
    spread = float((share.square() * likely * (1 - likely)).sum()) ** 0.5 / total
    rest = max(1 - chance, FLOOR)
    return (agree - chance) / rest, spread / rest
