"""Groups of sources that err together, and the evidence of grouped sources.

METHODS.md section 8. Copies, and weak models that read the same pixels, are no independent
witnesses: within a group the mean counts, and only groups are multiplied.
"""

import math
from itertools import combinations

import torch
from torch import Tensor

from cosup.assignment.answers import Answers
from cosup.assignment.em import (
    MOST_PRODUCTS,
    by_region,
    count_hard,
    in_parts,
    separate_regions,
)
from cosup.assignment.likelihood import FLOOR, Groups, combine, group_evidence, shrunk_rates

FEWEST = 50.0
"""Fewest samples (by weight) that two sources must both answer."""
SMOOTHING = 1.0
"""Answers per cell by which confusion matrices are drawn towards simpler ones."""
MOST_COMPARED, FEWEST_COMPARED = 2**30, 500
"""Pairs of sources times samples times classes that a search compares at most (about ten seconds of
a processor), and the least number of samples all the same."""
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
    few = _few(*evidence.shape)
    if few is not None:
        rest = rest.expand_as(evidence[:, 0])[few]
        answers, evidence = answers.take(few), evidence[few]
    while len(groups) > 1:
        joint = combine(evidence, answers.weights, groups) + rest
        chance = _chance(_rates(answers, joint.softmax(1)))
        found = max(
            (
                (_excess(answers, evidence, joint, chance, one, other), one, other)
                for one, other in combinations(groups, 2)
            ),
            key=lambda item: item[0],
        )
        if found[0] <= above:
            break
        groups = _joined(groups, found[1], found[2])
    return groups


def _few(samples: int, sources: int, classes: int) -> Tensor | None:
    """Return evenly spaced samples, if all are more than are compared for each pair of sources."""
    pairs = max(1, sources * (sources - 1) // 2)
    most = max(FEWEST_COMPARED, MOST_COMPARED // (pairs * classes))
    return None if samples <= most else torch.linspace(0, samples - 1, most).long()


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
    """Return P(source answers j | region, c) [T, C, R, C] under a posterior [n, C].

    In float32 where matrices are so large that float64 would double much.
    """
    sources, classes = answers.labels.shape[1], posterior.shape[1]
    separate = separate_regions(sources, answers.regions.shape[1], classes)
    expected = by_region(answers.regions, posterior, separate)
    shape = (sources, classes, separate, classes)
    large = math.prod(shape) > MOST_PRODUCTS
    rates = expected.new_empty(shape, dtype=torch.float32 if large else torch.float64)
    for source in range(sources):
        weighted = expected * answers.weights[:, source, None, None]
        counts = expected.new_zeros(1, classes, separate * classes)
        count_hard(counts, answers.labels[:, source, None], weighted.flatten(1))
        counts = counts.view(1, classes, separate, classes)
        rates[source] = shrunk_rates(counts, SMOOTHING * classes)[0]
    return rates


def _chance(rates: Tensor) -> Tensor:
    """Return the probability [T, T, R, C] that two sources give equal answers, given region and
    class, from rates [T, C, R, C]."""
    sources, classes, regions, _ = rates.shape
    found = rates.new_empty(regions, classes, sources, sources)
    for region in range(regions):
        for some in in_parts(classes, sources * classes):
            part = rates[:, :, region, some].permute(2, 0, 1)
            found[region, some] = part @ part.transpose(1, 2)
    return found.permute(2, 3, 0, 1)


def _excess(
    answers: Answers,
    evidence: Tensor,
    joint: Tensor,
    chance: Tensor,
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
            found, error = excess_agreement(answers, posterior, chance, first, second)
            best = max(best, found - 2 * error)
    return best


def excess_agreement(
    answers: Answers, posterior: Tensor, chance: Tensor, first: int, second: int
) -> tuple[float, float]:
    """Return how much two sources agree beyond what the posterior explains, and its error.

    posterior: [n, C] of the true class, by all other groups. chance: [T, T, R, C]. With A the share
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
    by_chance = chance[first, second].double()
    regions = answers.regions[both].double() if len(by_chance) > 1 else 1.0
    likely = (posterior[both].double() @ by_chance.T * regions).sum(1)
    total = float(share.sum())
    agree, expected = (float((share * part).sum()) / total for part in (equal, likely))
    spread = float((share.square() * likely * (1 - likely)).sum()) ** 0.5 / total
    rest = max(1 - expected, FLOOR)
    return (agree - expected) / rest, spread / rest
