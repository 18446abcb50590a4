"""Compact class probabilities, as stored on disk and kept in memory by the rounds.

A row is stored as logarithms of its probabilities over the largest one, in float16: small
probabilities do not become 0, so that a temperature of a loss finds them. With at most
`DENSE_LIMIT` classes there is one for each class. With more, there are those of the `TOP_K` most
probable classes, the mean of the others that have any probability, and a bit for each class that
says whether it has. 1.3 million rows of 1,000 classes take about 330 MB.

The most probable class of a row, the first one of equal ones, stays so by at least `GAP`: `top` and
the largest value of `dense` are the class that was largest before it was stored.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

DENSE_LIMIT = 512
TOP_K = 32
GAP = 2.0**-20
"""The least difference of the logarithms of the most probable class and any other: a multiple of
the smallest number in float16, and more than the rounding of float32 can undo."""
AT_ONCE = 2**24
"""Probabilities that are in float32 at a time where a table is read row by row: 64 MiB."""


@dataclass(frozen=True)
class ProbTable:
    """Compact probabilities of N samples over C classes.

    logs: [N, K] float16, logarithms of probabilities over the row's largest; -inf for 0, and in all
    of an abstention's row. K = C when dense, else `TOP_K`, or 1 for labels. indices: [N, K] classes
    of `logs`, int16 (int32 from 32,768 classes), or None when dense. rest: [N] float32, the same
    logarithm for the mean probability of the other named classes, or None when dense. named: [N,
    ceil(C / 8)] uint8, bit c % 8 of byte c // 8 tells whether class c has any probability; None
    when dense, and where `indices` names them all.
    """

    num_classes: int
    logs: Tensor
    indices: Tensor | None = None
    rest: Tensor | None = None
    named: Tensor | None = None

    def __len__(self) -> int:
        return self.logs.shape[0]

    @staticmethod
    def compress(probs: Tensor, labels: Tensor | None = None) -> "ProbTable":
        """Return the table of `probs` [N, C] (rows sum to 1, or to 0 for an abstention).

        labels: [N] int64, the class of each row that is to count as the most probable one, of those
        that are equal; None is the first.
        """
        classes = probs.shape[1]
        labels = probs.argmax(1) if labels is None else labels
        largest = probs.gather(1, labels[:, None])
        if classes <= DENSE_LIMIT:
            return ProbTable(classes, _log_ratios(probs, largest, labels[:, None]))
        # The label is the first of what is kept, whatever is equal to it.
        first = probs.scatter(1, labels[:, None], torch.inf)
        indices = first.topk(TOP_K, dim=1).indices
        logs = _log_ratios(probs.gather(1, indices), largest, torch.zeros_like(labels)[:, None])
        others = probs.scatter(1, indices, 0.0)
        mean = others.sum(1) / (others > 0).sum(1).clamp_min(1)
        rest = _log_ratios(mean[:, None], largest)[:, 0].to(torch.float32)
        # Rounding must not lift the others above what is kept.
        rest = torch.minimum(rest, logs[:, -1].to(torch.float32))
        return ProbTable(classes, logs, indices.to(_index_type(classes)), rest, _packed(probs > 0))

    @staticmethod
    def empty(samples: int, num_classes: int) -> "ProbTable":
        """Return a table of abstentions, to be filled by `put`."""
        width = num_classes if num_classes <= DENSE_LIMIT else TOP_K
        logs = torch.full((samples, width), -torch.inf, dtype=torch.float16)
        if num_classes <= DENSE_LIMIT:
            return ProbTable(num_classes, logs)
        return ProbTable(
            num_classes,
            logs,
            torch.arange(width).repeat(samples, 1).to(_index_type(num_classes)),
            torch.full((samples,), -torch.inf),
            torch.zeros(samples, -(-num_classes // 8), dtype=torch.uint8),
        )

    def put(self, rows: slice | Tensor, part: "ProbTable") -> None:
        """Overwrite these rows with those of a table of the same form."""
        mine, theirs = self.tensors(), part.tensors()
        assert mine.keys() == theirs.keys(), "tables of different forms"
        for name, tensor in theirs.items():
            mine[name][rows] = tensor

    @staticmethod
    def one_hot(labels: Tensor, num_classes: int) -> "ProbTable":
        """Return the table of labels [N] (-1: an abstention): one class per row, for any number of
        classes."""
        answered = (labels >= 0)[:, None]
        return ProbTable(
            num_classes,
            torch.where(answered, 0.0, -torch.inf).to(torch.float16),
            labels.clamp_min(0)[:, None].to(_index_type(num_classes)),
            torch.full((len(labels),), -torch.inf, device=labels.device),
        )

    def with_labels(self, rows: Tensor, labels: Tensor) -> "ProbTable":
        """Return the table with probability 1 for one class [n] in each of the rows [n]."""
        logs = self.logs.clone()
        logs[rows] = -torch.inf
        if self.indices is None:
            logs[rows, labels] = 0.0
            return ProbTable(self.num_classes, logs)
        logs[rows, 0] = 0.0
        # The label first, then any other classes, as none may occur twice.
        indices, step = self.indices.clone(), torch.arange(logs.shape[1])
        indices[rows] = ((labels[:, None] + step) % self.num_classes).to(indices.dtype)
        rest = _required(self.rest).clone()
        rest[rows] = -torch.inf
        named = self.named
        if named is not None:
            named = named.clone()
            named[rows] = _packed(torch.nn.functional.one_hot(labels, self.num_classes) > 0)
        return ProbTable(self.num_classes, logs, indices, rest, named)

    def with_abstentions(self, count: int) -> "ProbTable":
        """Return the table with so many more rows, of abstentions."""
        more = ProbTable.one_hot(torch.full((count,), -1), self.num_classes)
        if self.indices is None or self.logs.shape[1] > 1:
            more = ProbTable.empty(count, self.num_classes)
        return ProbTable.concat([self, more])

    def dense(self, rows: Tensor | slice | None = None) -> Tensor:
        """Return rows [n, C] float32 that sum to 1 (to 0 for an abstention)."""
        part = self if rows is None else self.take(rows)
        ratios = part.logs.to(torch.float32).exp()
        if part.indices is not None:
            ratios = part._spread().scatter_(1, part.indices.to(torch.int64), ratios)
        total = ratios.sum(1, keepdim=True)
        return ratios / torch.where(total > 0, total, torch.ones_like(total))

    def _spread(self) -> Tensor:
        """Return ratios [N, C]: the mean of the others for all that is named, 0 elsewhere."""
        if self.named is None:
            return torch.zeros(len(self), self.num_classes, device=self.logs.device)
        bits = self.named[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=self.logs.device)
        named = (bits & 1).flatten(1)[:, : self.num_classes].to(torch.float32)
        return named.mul_(_required(self.rest).exp()[:, None])

    def take(self, rows: Tensor | slice) -> "ProbTable":
        """Return the table of these rows."""
        return self._with({name: tensor[rows] for name, tensor in self._tensors().items()})

    def top(self) -> tuple[Tensor, Tensor]:
        """Return the most probable class [N] int64 of each row, and its probability [N] float32.

        An abstention has class 0 and probability 0.
        """
        found = [table.dense().max(1) for table in self._blocks()]
        confidence = torch.cat([part.values for part in found])
        return torch.cat([part.indices for part in found]), confidence

    def _blocks(self) -> Iterator["ProbTable"]:
        """Yield the rows in parts that are in float32 one after another; at least one."""
        step = max(1, AT_ONCE // self.num_classes)
        for start in range(0, max(len(self), 1), step):
            yield self.take(slice(start, start + step))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the table by name, for `from_tensors`."""
        return {name: tensor.contiguous() for name, tensor in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        found = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {name: value for name, value in found if isinstance(value, Tensor)}

    def _with(self, tensors: Mapping[str, Tensor]) -> "ProbTable":
        return ProbTable(self.num_classes, **tensors)

    @staticmethod
    def from_tensors(num_classes: int, tensors: Mapping[str, Tensor]) -> "ProbTable":
        """Return the table of these `tensors`. Raises `KeyError` and `ValueError` for others."""
        if "values" in tensors:
            return _first_format(num_classes, tensors)
        parts = ("indices", "rest", "named")
        return ProbTable(num_classes, tensors["logs"], *(tensors.get(name) for name in parts))

    @staticmethod
    def concat(tables: Iterable["ProbTable"]) -> "ProbTable":
        """Return the rows of several tables of the same form, one after another."""
        parts = list(tables)
        each = [part._tensors() for part in parts]
        assert all(tensors.keys() == each[0].keys() for tensors in each), "different forms"
        names = each[0]
        return parts[0]._with({name: torch.cat([one[name] for one in each]) for name in names})


def row_bytes(num_classes: int) -> int:
    """Return the bytes of a row of a table."""
    return sum(tensor.nbytes for tensor in ProbTable.empty(1, num_classes).tensors().values())


def _log_ratios(probs: Tensor, largest: Tensor, label: Tensor | None = None) -> Tensor:
    """Return log(probs / largest) [N, K] float16, -inf for 0, and for all if the largest is 0.

    label: [N, 1] the column of the largest; all others stay below it.
    """
    logs = (probs.log() - torch.where(largest > 0, largest, torch.ones_like(largest)).log()).to(
        torch.float16
    )
    if label is None:
        return logs
    logs.clamp_max_(-GAP)
    top = torch.where(largest > 0, 0.0, -torch.inf).to(logs.dtype)
    return logs.scatter_(1, label, top)


def _index_type(classes: int) -> torch.dtype:
    return torch.int16 if classes <= torch.iinfo(torch.int16).max + 1 else torch.int32


def _packed(flags: Tensor) -> Tensor:
    """Return flags [N, C] bool as bits [N, ceil(C / 8)] uint8."""
    count, classes = flags.shape
    padded = torch.nn.functional.pad(flags.to(torch.uint8), (0, -classes % 8))
    places = torch.arange(8, dtype=torch.uint8, device=flags.device)
    bits = padded.view(count, padded.shape[1] // 8, 8) << places
    return bits.sum(2, dtype=torch.uint8)


def _first_format(num_classes: int, tensors: Mapping[str, Tensor]) -> ProbTable:
    """Return the table of tensors of the first format, of runs before this one.

    values: [N, K] float16 probabilities, K = C when dense. indices: [N, K] int32, rest: [N] float16
    mass outside `values`, spread evenly over the other classes of the support [C] bool, or absent.
    The most probable class is the first of the largest `values`, as it was then.
    """
    values, indices = tensors["values"], tensors.get("indices")
    if values.ndim != 2 or (indices is None and values.shape[1] != num_classes):
        raise ValueError(f"shape {list(values.shape)}, not of {num_classes} classes")
    if indices is not None and values.shape[1] == 1:
        return ProbTable.one_hot(
            torch.where(values > 0, indices, -1)[:, 0].to(torch.int64), num_classes
        )
    support = tensors.get("support", torch.ones(num_classes, dtype=torch.bool))
    parts = []
    step = max(1, AT_ONCE // num_classes)
    for start in range(0, max(len(values), 1), step):
        rows = slice(start, start + step)
        probs = values[rows].to(torch.float32)
        labels = probs.argmax(1)
        if indices is not None:
            index = indices[rows].to(torch.int64)
            labels = index.gather(1, labels[:, None])[:, 0]
            others = support.float().repeat(len(index), 1).scatter_(1, index, 0.0)
            share = tensors["rest"][rows].to(torch.float32) / others.sum(1).clamp_min(1)
            # The mean of the others may have been rounded above the most probable class.
            share = torch.minimum(share, probs.amax(1))
            probs = others.mul_(share[:, None]).scatter_(1, index, probs)
        parts.append(ProbTable.compress(probs, labels))
    return ProbTable.concat(parts)


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
