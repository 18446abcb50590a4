"""The model that `fused` learns: what each source's answers are worth. METHODS.md section 8."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.answers import Answers, Reader
from cosup.assignment.em import (
    EPSILON,
    in_parts,
    log_rates_of,
    look_up,
    mean_vote,
    rates_of,
)

Groups = tuple[tuple[int, ...], ...]
"""The sources of each group, ascending; every source is in one group."""
FLOOR = 1e-30
"""Likelihoods and sums of weights are clamped to this."""


@dataclass(frozen=True)
class Model:
    """What is learned of the sources.

    log_rates: [H, C, R, C], log P(source answers j | region, c) at [h, j, r, c], of the H sources
    that are read by their class; [H, C, 1, C] where regions are not separate. prior: [C]
    frequencies of the classes. exponents: [T + 1], of the soft sources' probabilities, one for each
    group, and, last, of the student's (1 for the others). groups: of the sources that err together.
    """

    reader: Reader
    log_rates: Tensor
    prior: Tensor
    exponents: Tensor
    groups: Groups

    def evidence(self, answers: Answers) -> Tensor:
        """Return the log-likelihood [n, T, C] of each source's answers; 0 where it abstains."""
        samples, sources = answers.labels.shape
        found = self.log_rates.new_zeros(samples, sources, self.log_rates.shape[1])
        soft = self.reader.soft
        found[:, soft] = answers.soft * (answers.labels[:, soft] >= 0)[:, :, None]
        for rates, source in zip(self.log_rates, (~soft).nonzero()[:, 0].tolist(), strict=True):
            rows = look_up(rates.flatten(1), answers.labels[:, source])
            if rates.shape[1] > 1:
                by_region = rows.view(samples, -1, found.shape[2])
                rows = (by_region * answers.regions[:, :, None]).sum(1)
            found[:, source] = rows
        return found

    def scaled(self, answers: Answers) -> Tensor:
        """Return the weights [n, T] of the sources, times their exponents."""
        return answers.weights * self.exponents[:-1]

    def own(self, answers: Answers) -> Tensor | None:
        """Return the student's log-likelihood [n, C], or None without a student."""
        return None if answers.student is None else answers.student * self.exponents[-1]

    def first(self) -> Tensor:
        """Return the log-prior [C] of the classes.

        Probabilities of soft sources and of the student include it already.
        """
        if bool(self.reader.soft.any()) or self.reader.student:
            return torch.zeros_like(self.prior)
        return self.prior.clamp_min(EPSILON).log()

    def joint(self, answers: Answers, evidence: Tensor | None = None) -> Tensor:
        """Return log p(answers, c) [n, C], up to a constant for each sample."""
        evidence = self.evidence(answers) if evidence is None else evidence
        joint = self.first() + combine(evidence, self.scaled(answers), self.groups)
        own = self.own(answers)
        return joint if own is None else joint + own


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
    return share.amax(1, keepdim=True) * mean.clamp_min(FLOOR).log()


def vote(reader: Reader, answers: Answers, classes: int, groups: Groups) -> Tensor:
    """Return the mean vote [n, C] of the groups, weighted by how far samples lie in scopes."""
    samples, sources = answers.labels.shape
    said = answers.regions.new_zeros(samples, sources, classes)
    said.scatter_(2, answers.labels.clamp_min(0)[:, :, None], 1.0)
    said[:, reader.soft] = answers.soft.exp()
    said *= answers.weights[:, :, None]
    votes = said.new_zeros(samples, classes)
    for members in groups:
        share = answers.weights[:, list(members)]
        mean = said[:, list(members)].sum(1) / share.sum(1, keepdim=True).clamp_min(FLOOR)
        votes += share.amax(1, keepdim=True) * mean
    return mean_vote(votes)


def shares(evidence: Tensor, weights: Tensor, groups: Groups, winner: Tensor) -> Tensor:
    """Return each source's share [n, T] in its group's evidence for the class `winner`."""
    share = torch.ones_like(weights)
    for members in groups:
        if len(members) > 1:
            index = list(members)
            parts = evidence[:, index].softmax(2)
            won = parts.gather(2, winner[:, None, None].expand(-1, len(index), 1))[:, :, 0]
            part = won * weights[:, index]
            share[:, index] = part / part.sum(1, keepdim=True).clamp_min(FLOOR)
    return share


def shrink_into(log_rates: Tensor, counts: Tensor, strength: float) -> None:
    """Write the logarithm of the `shrunk_rates` of counts [H, C, R, C], some sources at a time."""
    for some in in_parts(len(counts), counts[:1].numel()):
        log_rates[some] = log_rates_of(shrunk_rates(counts[some], strength)).float()


def shrunk_rates(counts: Tensor, strength: float) -> Tensor:
    """Return P(source answers j | region, c) at [h, j, r, c] from counts [H, C, R, C].

    Each region's matrix is drawn towards the source's own over all regions, and that towards a
    matrix that has the source's accuracy on the diagonal and even errors, by `strength` answers per
    true class.
    """
    classes = counts.shape[1]
    overall = counts.sum(2)
    right = overall.diagonal(dim1=1, dim2=2).sum(1)
    accuracy = (right + 1) / (overall.sum((1, 2)) + classes)
    even = (1 - accuracy) / max(classes - 1, 1)
    coin = even[:, None, None].expand(-1, classes, classes).clone()
    coin.diagonal(dim1=1, dim2=2).copy_(accuracy[:, None].expand(-1, classes))
    whole = rates_of(overall + strength * coin)[:, :, None]
    if counts.shape[2] == 1:
        return whole
    smoothed = counts + strength * whole
    empty = smoothed.sum(1, keepdim=True) <= 0
    return torch.where(empty, whole, rates_of(smoothed))
