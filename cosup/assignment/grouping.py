"""Groups of sources that err together, and the evidence of grouped sources.

METHODS.md section 8. Copies, and weak models that read the same pixels, are no independent
witnesses: within a group the mean counts, and only groups are multiplied.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Groups = tuple[tuple[int, ...], ...]
"""The sources of each group, ascending; every source is in one group."""

FEWEST = 20.0
"""Fewest samples (by weight) on which two sources must both be wrong."""
IDENTICAL = 0.995
"""Two sources that give this share of equal answers, or more, are copies."""
FLOOR = 1e-6


def combine(evidence: Tensor, weights: Tensor, groups: Groups) -> Tensor:
    """Return the log-likelihood [n, C] of all sources from evidence [n, T, C] and weights [n, T].

    Across groups, weighted log-likelihoods are added. In a group, the normalised likelihoods are
    averaged by the weights, and the logarithm counts as much as the largest of the weights.
    """
    total = torch.zeros_like(evidence[:, 0])
    for members in groups:
        total += group_evidence(evidence, weights, members)
    return total


def group_evidence(evidence: Tensor, weights: Tensor, members: Sequence[int]) -> Tensor:
    """Return the weighted log-likelihood [n, C] of one group."""
    if len(members) == 1:
        return weights[:, members[0], None] * evidence[:, members[0]]
    index = list(members)
    parts, share = evidence[:, index].softmax(2), weights[:, index]
    mean = (parts * share[:, :, None]).sum(1) / share.sum(1, keepdim=True).clamp_min(FLOOR)
    return share.amax(1, keepdim=True) * mean.clamp_min(1e-30).log()


def shares(evidence: Tensor, weights: Tensor, groups: Groups, winner: Tensor) -> Tensor:
    """Return each source's share [n, T] in its group's evidence for the class `winner`."""
    share = torch.ones_like(weights)
    for members in groups:
        if len(members) > 1:
            index = list(members)
            parts = evidence[:, index].softmax(2)
            won = parts.gather(2, winner[:, None, None].expand(-1, len(index), 1))[:, :, 0]
            part = won * weights[:, index]
            share[:, index] = part / part.sum(1, keepdim=True).clamp_min(1e-30)
    return share


def find_groups(
    labels: Tensor, weights: Tensor, evidence: Tensor, others: Tensor | None, above: float
) -> Groups:
    """Return the groups of sources that err together, as connected pairs.

    labels [n, T] (-1: no answer), weights [n, T], evidence [n, T, C] log-likelihoods, others [n, C]
    log-probabilities of the student, or None. A pair is connected if `excess_agreement` is above
    `above`, by more than its sampling error.
    """
    count = labels.shape[1]
    group = list(range(count))
    for first in range(count):
        for second in range(first + 1, count):
            if group[first] == group[second]:
                continue
            if _together(labels, weights, evidence, others, (first, second), above):
                old, new = group[second], group[first]
                group = [new if number == old else number for number in group]
    return tuple(
        tuple(t for t in range(count) if group[t] == number) for number in dict.fromkeys(group)
    )


def _together(
    labels: Tensor,
    weights: Tensor,
    evidence: Tensor,
    others: Tensor | None,
    pair: tuple[int, int],
    above: float,
) -> bool:
    both = (labels[:, list(pair)] >= 0).all(1)
    both &= (weights[:, list(pair)] > 0.05).all(1)
    rows = both.nonzero()[:, 0]
    if above >= 1 or len(rows) < FEWEST:
        return False
    first, second = labels[rows, pair[0]], labels[rows, pair[1]]
    if float((first == second).double().mean()) >= IDENTICAL:
        return True
    share = weights[rows, pair[0]] * weights[rows, pair[1]]
    rest = [t for t in range(labels.shape[1]) if t not in pair]
    said = evidence[rows][:, rest] * weights[rows][:, rest, None]
    joint = said.sum(1) if others is None else said.sum(1) + others[rows]
    told = joint.amax(1) - joint.amin(1) > 1e-4
    posterior = joint.softmax(1) * told[:, None]
    found, error = excess_agreement(first, second, posterior, share)
    return found - 2 * error > above


def excess_agreement(
    first: Tensor, second: Tensor, posterior: Tensor, weights: Tensor
) -> tuple[float, float]:
    """Return how much two sources agree where both are wrong, beyond chance, and its error.

    first, second: [n] answers. posterior: [n, C] of the true class, without the two. weights: [n].
    With O the share of equal answers among those where both are wrong, and E the share that
    independent answers with the same confusions would have, returns (O - E) / (1 - E) and its
    standard error; (0, 0) if both are wrong on fewer than `FEWEST` samples.
    """
    classes = posterior.shape[1]
    posterior = posterior.double() * weights.double()[:, None]
    at_first = posterior.gather(1, first[:, None])[:, 0]
    at_second = posterior.gather(1, second[:, None])[:, 0]
    equal = first == second
    one = torch.nn.functional.one_hot
    wrong_both = posterior * (1 - one(first, classes)) * (1 - one(second, classes))
    total = wrong_both.sum(0)
    both = float(total.sum())
    if both < FEWEST:
        return 0.0, 0.0
    agree = float((posterior.sum(1) - at_first)[equal].sum())
    expected = float((_coincidence(first, second, posterior, at_first, at_second) * total).sum())
    observed, expected = agree / both, expected / both
    size = both**2 / max(float(wrong_both.sum(1).square().sum()), 1e-30)
    error = math.sqrt(max(observed * (1 - observed), 1e-4) / size)
    return (observed - expected) / (1 - expected), error / (1 - expected)


def _coincidence(
    first: Tensor, second: Tensor, posterior: Tensor, at_first: Tensor, at_second: Tensor
) -> Tensor:
    """Return [C]: the chance that independent wrong answers are equal, by the true class.

    The counts of wrong answers have half an answer added to every class.
    """
    classes = posterior.shape[1]
    rates = []
    for labels in (first, second):
        counts = posterior.new_full((classes, classes), 0.5 / classes)
        counts.index_add_(0, labels, posterior)
        counts.fill_diagonal_(0.0)
        rates.append(counts / counts.sum(0, keepdim=True))
    return (rates[0] * rates[1]).sum(0)
