"""The contract of consistency filters, and their chain."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from cosup.errors import UserError
from cosup.evidence import Evidence, mix

Measures = dict[str, Tensor]
"""Per-sample statistics, each [N]: all that a filter needs of a sample to decide on it."""


class Filter(ABC):
    """Decides which assigned annotations are kept.

    Two steps, so that memory doesn't grow with samples x classes: `measure` reduces a batch to a
    few numbers per sample, `decide` sees those of all samples at once (a rank needs them all).
    A subclass is a dataclass whose fields are its settings. What it `needs` beyond the student and
    the annotations: "coarse_probs", "global_probs", "local_probs", "features", "labels".
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `Evidence` that must be filled in for this filter."""
        return frozenset()

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


def check_setting(name: str, value: object, allowed: bool, what: str) -> None:
    """`UserError` with the setting's name, its value and what is allowed, unless it is allowed."""
    if not allowed:
        raise UserError(f"{name}: {value!r}: must be {what}")
