"""Processes that train one model together: each computes on its slice of every batch.

Batch norm over the whole batch where several processes have a slice of it each.

torch's SyncBatchNorm does this on GPUs alone, and is another module. Here the networks stay as they
are: while a training is open, `torch.batch_norm` itself is answered differently.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from cosup.errors import UserError
from cosup.losses.base import Metrics

__all__ = [
    "ALONE",
    "Ranks",
    "SyncedNorms",
    "check_slices",
    "joined",
]


@dataclass(frozen=True)
class Ranks:
    """This process's place among `size` that train together. wrap: makes a module average its
    gradients over them. Alone it does nothing at all."""

    rank: int = 0
    size: int = 1
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module

    def own(self, count: int) -> slice:
        """This rank's slice of a batch of so many; together they are the batch."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks, as gradients have it; every rank has to ask."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def means(self, loss: Tensor, metrics: Metrics) -> tuple[Tensor, Metrics]:
        """As `mean`, of a loss and metrics at once."""
        if self.size == 1:
            return loss, metrics
        values = [loss.detach(), *(value.detach() for value in metrics.values())]
        means = self._mean_of(values)
        return means[0], dict(zip(metrics, means[1:], strict=True))

    def norms(self) -> AbstractContextManager[object]:
        """While it is open, batch norms look at the whole batch, not at this rank's slice."""
        return contextlib.nullcontext() if self.size == 1 else SyncedNorms()

    def gathered(self, value: Any) -> list[Any]:
        """Everybody's value, in the ranks' order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first(self, value: Any) -> Any:
        """The first rank's value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def _mean_of(self, tensors: list[Tensor]) -> list[Tensor]:
        """In one message."""
        flat = self.mean(torch.cat([tensor.flatten().float() for tensor in tensors]))
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [p.view_as(t).to(t.dtype) for p, t in zip(parts, tensors, strict=True)]


ALONE = Ranks()


def joined(device: torch.device) -> Ranks:
    """This process's place in torch's process group."""
    size = dist.get_world_size()
    return ALONE if size == 1 else Ranks(dist.get_rank(), size, partial(_distributed, device))


def _distributed(device: torch.device, module: nn.Module) -> nn.Module:
    # Statistics are the whole batch's on every rank already. Some networks have weights that a
    # loss does not reach (another head, an embedding's norm), which fails without the search.
    with warnings.catch_warnings():
        # Its new name is not yet in every torch that will do.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        return DistributedDataParallel(
            module,
            device_ids=None if device.type == "cpu" else [device],
            broadcast_buffers=False,
            find_unused_parameters=True,
        )


def check_slices(batch_size: int, size: int, parts: int = 1, pairs: bool = False) -> None:
    """Raise `UserError`, beginning with `batch_size`, for a batch that `size` ranks can't share.

    parts: that each rank works its slice through in; pairs: whether images are mixed in pairs.
    """
    if size == 1:
        return
    if batch_size // size < parts:
        each = f"1 sample in each of {parts} parts" if parts > 1 else "1 sample"
        raise UserError(
            f"batch_size: {batch_size}: too small for {size} workers, each takes at least {each} "
            f"(execution.student.workers: at most {max(1, batch_size // parts)} here)"
        )
    if pairs and batch_size % (2 * parts * size):
        raise UserError(
            f"batch_size: {batch_size}: images are mixed in pairs, so with {size} workers "
            f"(execution.student.workers) it must be a multiple of {2 * parts * size}"
        )


class SyncedNorms(TorchFunctionMode):
    """While it is open, batch norms in training normalise by the mean and variance over the slices
    of all ranks, each of which has to run the same ones in the same order."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            return _BatchNorm(*args, **kwargs).output()
        if func is torch.batch_norm:
            x, weight, bias, mean, variance, training, momentum, eps, _ = args
            return _BatchNorm(x, mean, variance, weight, bias, training, momentum, eps).output()
        return func(*args, **kwargs)


def _sum(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)
    return total


class _Sum(torch.autograd.Function):
    """Over the ranks; the gradient is summed over them too, as every rank's loss reads the sum."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


@dataclass(frozen=True)
class _BatchNorm:
    """The arguments of a call of `torch.nn.functional.batch_norm`, under torch's names."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5

    def output(self) -> Tensor:
        """Return the normalised input [b, C, ...]; in training over the samples of all ranks."""
        if not self.training:
            return functional.batch_norm(**vars(self))
        x: Tensor = self.input.float()
        others = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        own = x.new_tensor([x.numel() // x.shape[1]])
        sums = _sum(torch.cat([x.sum(others), own]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = _sum(centred.square().sum(others)) / count
        self._update_running(mean, variance * count / (count - 1).clamp_min(1))
        out: Tensor = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape)
        if self.bias is not None:
            out = out + self.bias.view(shape)
        return out.to(self.input.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, unbiased: Tensor) -> None:
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
