"""The contract of consistency filters, and chains of filters."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cosup.errors import RunError, UserError
from cosup.evidence import Assigned, Evidence
from cosup.levels import Assignment, Stream
from cosup.protocols import Inputs, PartPredictor
from cosup.settings.filters import FilterSettings

log = logging.getLogger(__name__)

Measures = dict[str, Tensor]
"""Statistics per sample by name, each [N], or [N, D] for features: all that a filter needs to
decide."""


@dataclass(frozen=True)
class PartTrainer:
    """Trains students on parts of the samples, for filters that compare them.

    fit: `Student.fit_parts` for these inputs (of N samples) and the assigned annotations.
    """

    inputs: Inputs
    fit: Callable[[Sequence[Tensor]], PartPredictor]


class Filter(FilterSettings, ABC):
    """Base of filters: decide which assigned annotations are kept.

    A filter has two steps, so that memory does not grow with samples x classes: `measure` reduces a
    batch to a few numbers per sample, and `decide` gets those of all samples (a rank needs all). A
    subclass is a dataclass whose fields are its settings.
    """

    @abstractmethod
    def measure(self, evidence: Evidence, assigned: Assigned) -> Measures:
        """Return statistics [n] of a batch."""

    @abstractmethod
    def decide(self, measures: Measures) -> Tensor:
        """Return keep [N] bool from the statistics of all N samples."""

    def prepare(
        self, stream: Stream, assignment: Assignment, kept: Tensor, trainer: PartTrainer
    ) -> Stream:
        """Return the stream with evidence from students trained for this filter.

        Called if `trains_students`. kept: [N] bool, the samples kept by all filters that do not.
        """
        return stream

    def keep(self, evidence: Evidence, assigned: Assigned) -> Tensor:
        """Return keep [N] bool for samples in memory."""
        return self.decide(self.measure(evidence, assigned))


def within_top(probs: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return [n] bool: whether a label is among the k most probable classes of probs [n, C].

    Of equally probable classes the first ones count, so exactly k classes are within. False for
    the label -1.
    """
    own = probs.gather(1, labels.clamp_min(0)[:, None])
    earlier = torch.arange(probs.shape[1], device=probs.device)[None] < labels[:, None]
    ahead = (probs > own) | ((probs == own) & earlier)
    return (ahead.sum(1) < k) & (labels >= 0)


def required(evidence: Evidence, field: str, by: str) -> Tensor:
    """Return a field of the evidence; raise `UserError` with field and filter if it is None."""
    value: Tensor | None = getattr(evidence, field)
    if value is None:
        raise UserError(f"{by}: Evidence.{field} is None, give it (the filter's `needs`)")
    return value


ABSTAINED = "abstained"


@dataclass(frozen=True)
class Kept:
    """Decision of a chain of filters on N samples.

    keep: [N] bool. rejected_by: [N] int64 index into `reasons` of the first filter that rejects the
    sample, or -1 if it is kept. reasons: the names of the filters, then "abstained" (all assigned
    teachers abstain; no filter is applied). kept_alone: number of samples that each filter alone
    would keep. settings: of each filter, as text.
    """

    keep: Tensor
    rejected_by: Tensor
    reasons: tuple[str, ...]
    kept_alone: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of samples kept."""
        return int(self.keep.sum())

    @property
    def rejected(self) -> dict[str, int]:
        """Number of samples per reason, each counted once."""
        counts = torch.bincount(self.rejected_by + 1, minlength=len(self.reasons) + 1)
        return dict(zip(self.reasons, counts[1:].tolist(), strict=True))

    @property
    def counts(self) -> "KeptCounts":
        """Return the numbers of samples."""
        return KeptCounts(
            len(self.keep), self.count, self.rejected, dict(self.kept_alone), dict(self.settings)
        )

    def reason(self) -> list[str]:
        """Return for each sample the name of the filter that rejects it first, or ''."""
        names = (*self.reasons, "")
        return [names[index] for index in self.rejected_by.tolist()]


@dataclass(frozen=True)
class KeptCounts:
    """How many of some samples a chain of filters keeps; the fields are those of `Kept`."""

    samples: int
    count: int
    rejected: Mapping[str, int]
    kept_alone: Mapping[str, int]
    settings: Mapping[str, str]


class Chain:
    """Filters applied to all samples; an annotation is kept if every filter keeps it.

    names: of the filters; one that occurs twice gets a number: `confidence`, `confidence_2`.
    """

    def __init__(self, names: Sequence[str], filters: Sequence[Filter]) -> None:
        if len(names) != len(filters):
            raise ValueError(f"{len(names)} names for {len(filters)} filters")
        self.names = _unique(names)
        self.filters = tuple(filters)

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Evidence` needed by any of the filters."""
        return frozenset[str]().union(*(each.needs for each in self.filters))

    def without_students(self) -> "Chain":
        """Return the chain of the filters that train no students."""
        pairs = zip(self.names, self.filters, strict=True)
        plain = [(name, each) for name, each in pairs if not each.trains_students]
        return Chain([name for name, _ in plain], [each for _, each in plain])

    def run(self, stream: Stream, assignment: Assignment) -> Kept:
        """Measure batch by batch, then decide on all samples."""
        return self.decide(self.measured(stream, assignment))

    def measured(self, stream: Stream, assignment: Assignment) -> list[Measures]:
        """Return the statistics of all samples, measured batch by batch.

        The statistics of all samples are allocated before the first batch: small tensors that
        outlive large ones would keep the heap from shrinking, and memory would grow with the
        samples.
        """
        whole: list[Measures] = []
        for rows, evidence in stream.items():
            parts = self.measure(evidence, assignment.batch(rows, evidence))
            if not whole:
                whole = [
                    {
                        name: value.new_empty(len(stream), *value.shape[1:])
                        for name, value in part.items()
                    }
                    for part in parts
                ]
            for into, part in zip(whole, parts, strict=True):
                for name, value in part.items():
                    into[name][rows] = value
        return whole

    def measure(self, evidence: Evidence, assigned: Assigned) -> list[Measures]:
        """Return the statistics of a batch: one entry per filter, and `answered` of each sample."""
        parts = [each.measure(evidence, assigned) for each in self.filters]
        return [*parts, {"answered": assigned.labels >= 0}]

    @staticmethod
    def join(batches: Sequence[list[Measures]]) -> list[Measures]:
        """Return the statistics of several batches, in their order, as `decide` takes them."""
        return [
            {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            for parts in zip(*batches, strict=True)
        ]

    def decide(self, measures: Sequence[Measures]) -> Kept:
        """Return the decision on all N samples from their joined statistics."""
        pairs = zip(self.filters, measures[:-1], strict=True)
        return self.joined([each.decide(part) for each, part in pairs], measures[-1]["answered"])

    def joined(self, keeps: Sequence[Tensor], answered: Tensor) -> Kept:
        """Return the decision from that of each filter, keep [N] bool. answered: [N] bool."""
        decisions = [keep & answered for keep in keeps]
        rejected_by = torch.full(answered.shape, -1, dtype=torch.int64, device=answered.device)
        for index in reversed(range(len(decisions))):
            rejected_by[~decisions[index]] = index
        rejected_by[~answered] = len(decisions)
        reasons = (*self.names, ABSTAINED)
        return Kept(
            keep=rejected_by < 0,
            rejected_by=rejected_by,
            reasons=reasons,
            kept_alone={
                name: int(keep.sum()) for name, keep in zip(self.names, decisions, strict=True)
            },
            settings=self.settings,
        )

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings of each filter, as text."""
        return dict(zip(self.names, map(_settings_text, self.filters), strict=True))

    def keep(self, evidence: Evidence, assigned: Assigned) -> Kept:
        """Return the decision on samples in memory."""
        return self.decide(self.measure(evidence, assigned))


def check_kept(result: Kept, min_kept: float) -> None:
    """Check the number of samples that are kept, as `check_counts` does."""
    check_counts(result.counts, min_kept)


def check_counts(result: KeptCounts, min_kept: float) -> None:
    """Warn if a filter, or the chain, keeps less than the share `min_kept` of annotated samples.

    Raises `RunError` with the filter and its settings if nothing is kept.
    """
    total = result.samples
    answered = total - result.rejected[ABSTAINED]
    if result.count == 0:
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
    if result.count < min_kept * answered and not few_alone:
        log.warning(
            "the filters together keep %d of %d samples, less than min_kept: %g",
            result.count,
            answered,
            min_kept,
        )


def _nothing_kept(result: KeptCounts, total: int, answered: int) -> str:
    if answered == 0:
        return f"every assigned teacher abstains on each of the {total} samples: nothing to learn"
    empty = [name for name, kept in result.kept_alone.items() if kept == 0]
    named = ", ".join(f"'{name}' ({result.settings[name]})" for name in empty or result.settings)
    alone = "keeps none" if empty else "together keep none"
    return f"filter {named} {alone} of {answered} annotated samples: loosen it or leave it out"


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    unique = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    return tuple(unique)


def _settings_text(filter_: Filter) -> str:
    settings = getattr(filter_, "__dataclass_fields__", {})
    return ", ".join(f"{name}: {getattr(filter_, name)}" for name in settings)
