"""Several filters in a row: what is kept, and which filter rejected the rest."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.consistency.base import Filter, Measures, assigned_labels, join_measures
from cosup.errors import RunError
from cosup.evidence import Evidence

log = logging.getLogger(__name__)

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
