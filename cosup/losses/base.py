"""The contract of losses."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

Metrics = dict[str, Tensor]


class Loss(ABC):
    """A per-sample loss of logits against target probabilities.

    A subclass is a dataclass whose fields are its settings. Nothing reads a global or an epoch
    counter: a schedule reads `progress`, the share of the training that is over.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    reads_labels: ClassVar[bool] = False
    """Whether it makes use of true labels where they are given (`with_labels`)."""
    one_class: ClassVar[bool] = False
    """Whether it singles out one target class per sample, so that mixed images have no meaning."""

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Losses [..., B] and named metrics (means, detached) for logits and targets [..., B, C].

        Leading dimensions are independent heads that are fitted together. `targets` are
        probabilities (one-hot for hard ones); progress in [0, 1].
        """

    def with_labels(
        self, logits: Tensor, targets: Tensor, progress: float, labels: Tensor | None
    ) -> tuple[Tensor, Metrics]:
        """As `__call__`, with the true labels [..., B] (-1 unknown) for losses that read them."""
        return self(logits, targets, progress)
