"""Compact class probabilities, as stored on disk and kept in memory by the rounds.

With at most `DENSE_LIMIT` classes, a row is stored in full, in float16. With more, a row is its
`TOP_K` largest probabilities with their classes, and the mass of the rest, which `dense` spreads
evenly over the other classes of the support. 1.3 million rows of 1,000 classes take about 170 MB.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

DENSE_LIMIT = 64
TOP_K = 32


@dataclass(frozen=True)
class ProbTable:
    """Compact probabilities of N samples over C classes.

    values: [N, K] float16, K = C when dense, else `TOP_K`.
    indices: [N, K] int32 classes of `values`, or None when dense.
    rest: [N] float16 mass outside `values`, or None when dense.
    support: [C] bool classes that can have any mass, or None for all.
    """

    num_classes: int
    values: Tensor
    indices: Tensor | None = None
    rest: Tensor | None = None
    support: Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    @staticmethod
    def compress(probs: Tensor, support: Tensor | None = None) -> "ProbTable":
        """Return the table of `probs` [N, C] (rows sum to 1, or to 0 for an abstention)."""
        classes = probs.shape[1]
        if classes <= DENSE_LIMIT:
            return ProbTable(classes, probs.to(torch.float16), support=support)
        values, indices = probs.topk(TOP_K, dim=1)
        rest = (probs.sum(1) - values.sum(1)).clamp_min(0)
        return ProbTable(
            classes,
            values.to(torch.float16),
            indices.to(torch.int32),
            rest.to(torch.float16),
            support,
        )

    @staticmethod
    def empty(samples: int, num_classes: int) -> "ProbTable":
        """Return a table of abstentions, to be filled by `put`."""
        if num_classes <= DENSE_LIMIT:
            return ProbTable(num_classes, torch.zeros(samples, num_classes, dtype=torch.float16))
        return ProbTable(
            num_classes,
            torch.zeros(samples, TOP_K, dtype=torch.float16),
            torch.zeros(samples, TOP_K, dtype=torch.int32),
            torch.zeros(samples, dtype=torch.float16),
        )

    def put(self, rows: slice, part: "ProbTable") -> None:
        """Overwrite these rows with those of a table of the same form."""
        self.values[rows] = part.values
        if self.indices is not None:
            self.indices[rows] = _required(part.indices)
        if self.rest is not None:
            self.rest[rows] = _required(part.rest)

    @staticmethod
    def one_hot(labels: Tensor, num_classes: int) -> "ProbTable":
        """Return the table of labels [N]: one class per row, for any number of classes."""
        return ProbTable(
            num_classes,
            torch.ones(len(labels), 1, dtype=torch.float16),
            labels[:, None].to(torch.int32),
            torch.zeros(len(labels), dtype=torch.float16),
        )

    def with_labels(self, rows: Tensor, labels: Tensor) -> "ProbTable":
        """Return the table with probability 1 for one class [n] in each of the rows [n]."""
        values = self.values.clone()
        values[rows] = 0
        if self.indices is None:
            values[rows, labels] = 1
            return ProbTable(self.num_classes, values, support=self.support)
        values[rows, 0] = 1
        # The label first, then any other classes, as none may occur twice.
        indices, step = self.indices.clone(), torch.arange(values.shape[1])
        indices[rows] = ((labels[:, None] + step) % self.num_classes).to(torch.int32)
        rest = _required(self.rest).clone()
        rest[rows] = 0
        return ProbTable(self.num_classes, values, indices, rest, self.support)

    def with_abstentions(self, count: int) -> "ProbTable":
        """Return the table with so many more rows, of zeros."""

        def padded(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            return torch.cat([tensor, tensor.new_zeros(count, *tensor.shape[1:])])

        values = _required(padded(self.values))
        indices, rest = padded(self.indices), padded(self.rest)
        return ProbTable(self.num_classes, values, indices, rest, self.support)

    def dense(self, rows: Tensor | slice | None = None) -> Tensor:
        """Return rows [n, C] float32 that sum to 1 (to 0 for an abstention)."""
        part = self if rows is None else self.take(rows)
        probs = part._expand() if part.indices is not None else part.values.to(torch.float32)
        total = probs.sum(1, keepdim=True)
        return probs / torch.where(total > 0, total, torch.ones_like(total))

    def _expand(self) -> Tensor:
        assert self.indices is not None
        assert self.rest is not None
        index = self.indices.to(torch.int64)
        open_classes = (
            torch.ones(1, self.num_classes) if self.support is None else self.support[None]
        )
        probs = open_classes.to(torch.float32).repeat(len(self), 1).scatter_(1, index, 0.0)
        share = self.rest.to(torch.float32) / probs.sum(1).clamp_min(1)
        return probs.mul_(share[:, None]).scatter_(1, index, self.values.to(torch.float32))

    def take(self, rows: Tensor | slice) -> "ProbTable":
        """Return the table of these rows."""
        return ProbTable(
            self.num_classes,
            self.values[rows],
            None if self.indices is None else self.indices[rows],
            None if self.rest is None else self.rest[rows],
            self.support,
        )

    def top(self) -> tuple[Tensor, Tensor]:
        """Return the most probable class [N] int64 of each row, and its probability [N] float32."""
        values, position = self.values.to(torch.float32).max(1)
        if self.indices is None:
            return position, values
        return self.indices.gather(1, position[:, None])[:, 0].to(torch.int64), values

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the table by name, for `from_tensors`."""
        named = {
            "values": self.values,
            "indices": self.indices,
            "rest": self.rest,
            "support": self.support,
        }
        return {name: tensor.contiguous() for name, tensor in named.items() if tensor is not None}

    @staticmethod
    def from_tensors(num_classes: int, tensors: dict[str, Tensor]) -> "ProbTable":
        """Return the table of these `tensors`."""
        return ProbTable(
            num_classes,
            tensors["values"],
            tensors.get("indices"),
            tensors.get("rest"),
            tensors.get("support"),
        )

    @staticmethod
    def concat(tables: Iterable["ProbTable"]) -> "ProbTable":
        """Return the rows of several tables of the same form, one after another."""
        parts = list(tables)
        first = parts[0]
        return ProbTable(
            first.num_classes,
            torch.cat([part.values for part in parts]),
            None
            if first.indices is None
            else torch.cat([_required(part.indices) for part in parts]),
            None if first.rest is None else _concat(part.rest for part in parts),
            first.support,
        )


def _concat(tensors: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([_required(tensor) for tensor in tensors])


def _required(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def rank_in_group(values: Tensor, groups: Tensor) -> Tensor:
    """Return the rank [N] of each value in its group, from 0 for the smallest; ties in order.

    groups: [N] int64, -1 or more.
    """
    order = values.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    sizes = torch.bincount(groups + 1)
    starts = (sizes.cumsum(0) - sizes)[groups[order] + 1]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts
    return rank
