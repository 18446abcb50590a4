"""Estimate without labels how far each source can be trusted, and find the bad ones.

METHODS.md section 10. The true class of a sample is replaced by its posterior q from all sources
(`cosup.assignment.fused`): the reliability of a source is the mean of q(its answer | x) over the
samples that it answers. With the true classes in place of q the same sums are measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cosup.metrics import ratio_intervals
from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator

__all__ = [
    "BLOCKS",
    "ENOUGH",
    "FEWEST",
    "STUDENT",
    "Note",
    "Tally",
    "answers_of",
    "block_of",
    "notes",
    "others_speak",
]

Note = Literal["random", "constant", "adversarial", "copy"]

BLOCKS = 1000
"""Groups of samples are drawn in at most so many blocks, so that memory is bounded."""
ENOUGH = 0.5
"""A source that answers a smaller share of the samples is the best one only if all do."""
STUDENT = "student"
"""The student's name among the sources."""
MOST_COUNTS = 2**26
"""Cells of confusions in float64: 512 MiB. Larger ones are in float32."""
FEWEST = 20
"""Fewest samples on which a source is judged."""
SURE = 3.09
"""Standard normal quantile of 0.999: the level of each test."""
LITTLE = 0.02
"""Information on the class that counts as none, as a share of the entropy of the classes. A source
has a hand in the posterior, so that random answers seem to tell a little."""
SAME = 0.99
"""Share of equal answers of a source that always says the same."""
ALIKE = 0.9
"""Agreement beyond chance, 1 at most, from which two sources are copies."""


@dataclass
class Tally:
    """Expected right answers of S sources, summed over batches of samples.

    confusion: [S, C, C], answers j of samples of class c at [s, j, c]. right, total: [S, R] by
    region; block_right, block_total: [S, B] by block of groups. equal, both: [S, S], samples on
    which two sources give the same answer, and which both answer. All float64, but for confusions
    of more than `MOST_COUNTS` cells (float32); the sizes do not depend on the number of samples.
    """

    sources: int
    classes: int
    regions: int = 1
    blocks: int = BLOCKS
    confusion: Tensor = field(init=False)
    right: Tensor = field(init=False)
    total: Tensor = field(init=False)
    block_right: Tensor = field(init=False)
    block_total: Tensor = field(init=False)
    equal: Tensor = field(init=False)
    both: Tensor = field(init=False)

    def __post_init__(self) -> None:
        def zeros(*sizes: int) -> Tensor:
            return torch.zeros(self.sources, *sizes, dtype=torch.float64)

        cells = (self.sources, self.classes, self.classes)
        large = math.prod(cells) > MOST_COUNTS
        self.confusion = torch.zeros(cells, dtype=torch.float32 if large else torch.float64)
        self.right, self.total = zeros(self.regions), zeros(self.regions)
        self.block_right, self.block_total = zeros(self.blocks), zeros(self.blocks)
        self.equal, self.both = zeros(self.sources), zeros(self.sources)

    def add(self, labels: Tensor, posterior: Tensor, region: Tensor, block: Tensor) -> None:
        """Add n samples.

        labels: [n, S] answers (-1: none, or not to be counted). posterior: [n, C] of the true
        class. region, block: [n] int64.
        """
        posterior = posterior.to(torch.float64)
        for source, said in enumerate(labels.T):
            rows = (said >= 0).nonzero()[:, 0]
            answer, where = said[rows], posterior[rows]
            self.confusion[source].index_add_(0, answer, where.to(self.confusion.dtype))
            likely, one = where.gather(1, answer[:, None])[:, 0], torch.ones(len(rows)).double()
            for place, right, total in (
                (region, self.right, self.total),
                (block, self.block_right, self.block_total),
            ):
                right[source].index_add_(0, place[rows], likely)
                total[source].index_add_(0, place[rows], one)
            both = (labels[rows] >= 0).double()
            self.both[source] += both.sum(0)
            self.equal[source] += ((labels[rows] == answer[:, None]) * both).sum(0)

    def include(self, other: "Tally") -> None:
        """Add the sums over other samples, of the same sources, classes and regions."""
        for name in ("confusion", "right", "total", "block_right", "block_total", "equal", "both"):
            getattr(self, name).add_(getattr(other, name))

    @property
    def samples(self) -> Tensor:
        """Return the number [S] of samples that each estimate rests on."""
        return self.total.sum(1)

    def reliability(self) -> Tensor:
        """Return the share [S] of answers that are right; nan without answers."""
        return self.right.sum(1) / self.samples

    def by_region(self) -> Tensor:
        """Return the share [S, R] of answers that are right in each region."""
        return self.right / self.total

    def class_samples(self) -> Tensor:
        """Return the expected number [S, C] of samples of each true class."""
        return self.confusion.sum(1)

    def by_class(self) -> Tensor:
        """Return the share [S, C] of answers that are right on samples of each true class."""
        return self.confusion.diagonal(dim1=1, dim2=2) / self.class_samples()

    def intervals(self, seed: int) -> list[tuple[float, float] | None]:
        """Return the 95 % interval of each reliability (bootstrap over groups); None without
        answers. It has the chance of sampling alone, not what is wrong with the posterior."""
        used = (self.block_total > 0).any(0)
        if not bool(used.any()):
            return [None] * self.sources
        low, high = ratio_intervals(
            self.block_right[:, used].T.numpy(), self.block_total[:, used].T.numpy(), seed=seed
        )
        return [
            None if np.isnan(one) else (float(one), float(other))
            for one, other in zip(low, high, strict=True)
        ]


def block_of(groups: Tensor) -> Tensor:
    """Return the block [N] of each sample's group [N]: groups are kept whole, drawn at random."""
    names, index = torch.unique(groups, return_inverse=True)
    order = torch.randperm(len(names), generator=torch_generator(0, "blocks of groups"))
    found: Tensor = order[index] % BLOCKS
    return found


def notes(tally: Tally, teachers: int) -> list[tuple[Note | None, list[int]]]:
    """Return, for each source, what is wrong with it (None: nothing), and the sources it copies.

    teachers: the first so many sources are teachers, which can be copies of each other; the
    student is none. Sources of fewer than `FEWEST` samples are not judged.
    """
    found: list[tuple[Note | None, list[int]]] = []
    for source in range(tally.sources):
        if float(tally.samples[source]) < FEWEST:
            found.append((None, []))
            continue
        note = _note(tally.confusion[source])
        copies = []
        if note is None and source < teachers:
            others = [other for other in range(teachers) if other != source]
            copies = [other for other in others if _are_copies(tally, source, other)]
        found.append((note or ("copy" if copies else None), copies))
    return found


def _note(confusion: Tensor) -> Note | None:
    """Judge a source by its expected counts [C, C] of answers j to samples of class c."""
    answers, classes, total = confusion.sum(1), confusion.sum(0), float(confusion.sum())
    top = int(answers.argmax())
    if float(answers[top]) >= SAME * total and float(classes[top]) < SAME * total:
        return "constant"
    chance = float((answers * classes).sum()) / total**2
    right = float(confusion.diagonal().sum()) / total
    error = math.sqrt(max(chance * (1 - chance), 1e-12) / total)
    if not _informs(confusion):
        return "random"
    return "adversarial" if right < chance - SURE * error else None


def _informs(confusion: Tensor) -> bool:
    """Return whether answers tell of the class, by more than chance and more than `LITTLE`.

    The likelihood-ratio statistic 2 n I of their mutual information I is compared with the 0.999
    quantile of its chi-squared distribution if there is none (Wilks 1938).
    """
    answers, classes, total = confusion.sum(1), confusion.sum(0), confusion.sum()
    entropy = float(torch.special.entr(classes / total).sum())
    if entropy <= 0:
        return True  # a single class: nothing to tell
    joint = confusion / total
    even = (answers / total)[:, None] * (classes / total)[None]
    told = float((torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, even)).sum())
    freedom = max(1, int((answers > 0).sum() - 1) * int((classes > 0.5).sum() - 1))
    bias = freedom / (2 * float(total))
    return 2 * float(total) * told > _chi_squared(freedom) and told - bias > LITTLE * entropy


def _chi_squared(freedom: int) -> float:
    """Return the 0.999 quantile of a chi-squared distribution (Wilson and Hilferty 1931)."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + SURE * math.sqrt(part)) ** 3


def _are_copies(tally: Tally, one: int, other: int) -> bool:
    """Return whether two sources agree far more than their confusions explain.

    With E the share of equal answers that independent sources of the same confusions would give,
    and A the observed one, (A - E) / (1 - E) is 1 for copies.
    """
    both = float(tally.both[one, other])
    if both < FEWEST:
        return False
    counts = tally.confusion[[one, other]]
    seen = counts.sum(1)
    rates = counts / seen.clamp_min(1e-12)[:, None]
    classes = (seen / seen.sum(1, keepdim=True)).mean(0)
    expected = float(((rates[0] * rates[1]).sum(0) * classes).sum())
    observed = float(tally.equal[one, other]) / both
    error = math.sqrt(max(expected * (1 - expected), 1e-12) / both)
    beyond = observed - expected
    return beyond > SURE * error and beyond >= ALIKE * (1 - expected)


def answers_of(tables: Sequence[ProbTable]) -> Tensor:
    """Return the answers [N, S] int32 of sources by their probabilities (-1: none)."""
    columns = []
    for table in tables:
        label, confidence = table.top()
        columns.append(label.masked_fill(confidence <= 0, -1).to(torch.int32))
    return torch.stack(columns, dim=1)


def others_speak(spoken: Tensor, speakers: Sequence[int], student: bool) -> Tensor:
    """Return [n, S] bool: whether another source than each one speaks of a sample.

    spoken: [n, S] bool, who answers; the last one is the student. speakers: the sources whose
    answers the posterior reads; with the student if `student`.
    """
    heard = [*speakers, spoken.shape[1] - 1] if student else list(speakers)
    voices = torch.zeros_like(spoken)
    voices[:, heard] = spoken[:, heard]
    found: Tensor = voices.sum(1, keepdim=True) > voices.long()
    return found
