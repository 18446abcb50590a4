"""The contract of consistency filters, and their chain.

Several filters in a row: what is kept, and which filter rejected the rest.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.errors import RunError, UserError
from cosup.evidence import Evidence, mix
from cosup.settings.filters import FilterSettings

log = logging.getLogger(__name__)

Measures = dict[str, Tensor]
"""Per-sample statistics, each [N]: all that a filter needs of a sample to decide on it."""


class Filter(FilterSettings, ABC):
    """Decides which assigned annotations are kept.

    Two steps, so that memory doesn't grow with samples x classes: `measure` reduces a batch to a
    few numbers per sample, `decide` sees those of all samples at once (a rank needs them all).
    A subclass is a dataclass whose fields are its settings. What it `needs` beyond the student and
    the annotations: "coarse_probs", "global_probs", "local_probs", "features", "labels".
    """

    @abstractmethod
    def measure(self, evidence: Evidence, weights: Tensor) -> Measures:
        """Statistics [n] of a batch, given the assignment weights [n, T]."""

    @abstractmethod
    def decide(self, measures: Measures) -> Tensor:
        """keep [N] bool from the statistics of all N samples."""

    def keep(self, evidence: Evidence, weights: Tensor) -> Tensor:
        """keep [N] bool for samples that fit in memory."""
        return self.decide(self.measure(evidence, weights))


def join_measures(parts: Sequence[Measures]) -> Measures:
    """The statistics of all batches, in their order."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


def assigned_labels(evidence: Evidence, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The assigned annotation's most probable class [n] int64 (-1: abstained; ties: the first) and
    its probability [n], given the assignment weights [n, T].
    """
    mixed = mix(evidence.annotations, weights)
    labels = mixed.argmax(1)
    top = mixed.gather(1, labels[:, None])[:, 0]
    return labels.masked_fill(top <= 0, -1), top


def within_top(probs: Tensor, labels: Tensor, k: int) -> Tensor:
    """[n] bool: is the label among the k most probable classes of probs [n, C]?

    Of equally probable classes the first come first, so that exactly k classes are within. False
    for the label -1.
    """
    own = probs.gather(1, labels.clamp_min(0)[:, None])
    earlier = torch.arange(probs.shape[1], device=probs.device)[None] < labels[:, None]
    ahead = (probs > own) | ((probs == own) & earlier)
    return (ahead.sum(1) < k) & (labels >= 0)


def required(evidence: Evidence, field: str, by: str) -> Tensor:
    """A field of the evidence; `UserError` naming field and filter if it is not filled in."""
    value: Tensor | None = getattr(evidence, field)
    if value is None:
        raise UserError(f"{by}: Evidence.{field} is None, give it (the filter's `needs`)")
    return value


ABSTAINED = "abstained"


@dataclass(frozen=True)
class ChainResult:
    """What a chain decided on N samples.

    keep: [N] bool. rejected_by: [N] int64 index into `reasons`, the first filter that rejects the
    sample, or -1 where it is kept. reasons: the filters' names, then "abstained" (all assigned
    teachers abstain; no filter is asked). rejected: samples per reason, each counted once.
    kept_alone: samples that each filter would keep by itself. settings: each filter, written out.
    """

    keep: Tensor
    rejected_by: Tensor
    reasons: tuple[str, ...]
    rejected: dict[str, int]
    kept_alone: dict[str, int]
    settings: dict[str, str]

    @property
    def kept(self) -> int:
        """How many samples are kept."""
        return int(self.keep.sum())


class Chain:
    """Filters that all look at all samples; an annotation is kept if every one keeps it.

    A name that occurs twice is told apart by its place: `confidence`, `confidence_2`.
    """

    def __init__(self, names: Sequence[str], filters: Sequence[Filter]) -> None:
        if len(names) != len(filters):
            raise ValueError(f"{len(names)} names for {len(filters)} filters")
        self.names = _unique(names)
        self.filters = tuple(filters)

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `Evidence` that any of the filters needs."""
        return frozenset[str]().union(*(each.needs for each in self.filters))

    def measure(self, evidence: Evidence, weights: Tensor) -> list[Measures]:
        """Statistics of a batch: one entry per filter, and a last one that says who answered."""
        labels, _ = assigned_labels(evidence, weights)
        parts = [each.measure(evidence, weights) for each in self.filters]
        return [*parts, {"answered": labels >= 0}]

    @staticmethod
    def join(batches: Sequence[list[Measures]]) -> list[Measures]:
        """The statistics of all batches, in their order: what `decide` takes."""
        return [join_measures(parts) for parts in zip(*batches, strict=True)]

    def decide(self, measures: Sequence[Measures]) -> ChainResult:
        """The decision on all N samples from their joined statistics."""
        answered = measures[-1]["answered"]
        decisions = [
            each.decide(part) & answered
            for each, part in zip(self.filters, measures[:-1], strict=True)
        ]
        rejected_by = torch.full(answered.shape, -1, dtype=torch.int64, device=answered.device)
        for index in reversed(range(len(decisions))):
            rejected_by[~decisions[index]] = index
        rejected_by[~answered] = len(decisions)
        reasons = (*self.names, ABSTAINED)
        counts = torch.bincount(rejected_by + 1, minlength=len(reasons) + 1)[1:].tolist()
        return ChainResult(
            keep=rejected_by < 0,
            rejected_by=rejected_by,
            reasons=reasons,
            rejected=dict(zip(reasons, counts, strict=True)),
            kept_alone={
                name: int(keep.sum()) for name, keep in zip(self.names, decisions, strict=True)
            },
            settings={
                name: _written(each) for name, each in zip(self.names, self.filters, strict=True)
            },
        )

    def keep(self, evidence: Evidence, weights: Tensor) -> ChainResult:
        """The decision on samples that fit in memory."""
        return self.decide(self.measure(evidence, weights))


def check_kept(result: ChainResult, min_kept: float) -> None:
    """Warn of each filter that by itself keeps less than the share `min_kept` of the answered
    samples, and of the chain if it does; `RunError` naming filter and settings if nothing is kept.
    """
    total = len(result.keep)
    answered = total - result.rejected[ABSTAINED]
    if result.kept == 0:
        raise RunError(_nothing_kept(result, total, answered))
    for name, kept in result.kept_alone.items():
        if kept < min_kept * answered:
            log.warning(
                "filter '%s' (%s) keeps %d of %d samples, less than min_kept: %g",
                name,
                result.settings[name],
                kept,
                answered,
                min_kept,
            )
    few_alone = any(kept < min_kept * answered for kept in result.kept_alone.values())
    if result.kept < min_kept * answered and not few_alone:
        log.warning(
            "the filters together keep %d of %d samples, less than min_kept: %g",
            result.kept,
            answered,
            min_kept,
        )


def _nothing_kept(result: ChainResult, total: int, answered: int) -> str:
    if answered == 0:
        return f"every assigned teacher abstains on each of the {total} samples: nothing to learn"
    guilty = [name for name, kept in result.kept_alone.items() if kept == 0]
    named = ", ".join(f"'{name}' ({result.settings[name]})" for name in guilty or result.settings)
    alone = "keeps none" if guilty else "together keep none"
    return f"filter {named} {alone} of {answered} annotated samples: loosen it or leave it out"


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(unique)


def _written(filter_: Filter) -> str:
    settings = getattr(filter_, "__dataclass_fields__", {})
    return ", ".join(f"{name}: {getattr(filter_, name)}" for name in settings)
