"""Data-parallel training: the ranks of a process group, and batch norm over all of them.

Each rank computes on its slice of every batch. Batch norm uses the statistics of the whole batch:
by torch's SyncBatchNorm where each rank has a GPU of its own, which replaces the modules during the
training. It needs NCCL; elsewhere the networks stay unchanged, and `SyncedNorms` intercepts the
calls of `torch.batch_norm`.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
    "BATCH_NORMS",
    "Ranks",
    "SyncedNorms",
    "check_slices",
    "joined",
    "with_sync_norms",
]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Layers that need at least two samples per batch in training."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among `size` processes that train one model together.

    wrapped: opens a context with the module, its gradients averaged over the ranks. norms: opens
    one in which batch norms use the statistics of the whole batch, for a pass of that module. With
    one process all methods are no-ops.
    """

    rank: int = 0
    size: int = 1
    wrapped: Callable[[nn.Module], AbstractContextManager[nn.Module]] = nullcontext
    norms: Callable[[], AbstractContextManager[object]] = nullcontext

    def own(self, count: int) -> slice:
        """Return this rank's slice of a batch of `count` samples; the slices are disjoint."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the ranks, without gradient. Every rank has to call it."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def means(self, loss: Tensor, metrics: Metrics) -> tuple[Tensor, Metrics]:
        """Return the means of a loss and of metrics over the ranks, in one message."""
        if self.size == 1:
            return loss, metrics
        values = [loss.detach(), *(value.detach() for value in metrics.values())]
        means = self._mean_of(values)
        return means[0], dict(zip(metrics, means[1:], strict=True))

    def gathered(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first(self, value: Any) -> Any:
        """Return the value of the first rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def _mean_of(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the means of several tensors over the ranks, in one message from the device of
        the first."""
        device = tensors[0].device
        flat = self.mean(
            torch.cat([tensor.flatten().to(device, torch.float32) for tensor in tensors])
        )
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [p.view_as(t).to(t.dtype) for p, t in zip(parts, tensors, strict=True)]


ALONE = Ranks()


def joined(device: torch.device) -> Ranks:
    """Return the rank of this process in torch's process group."""
    rank, size = dist.get_rank(), dist.get_world_size()
    if size == 1:
        return ALONE
    if device.type == "cuda" and "nccl" in dist.get_backend_config():
        return Ranks(rank, size, partial(_distributed, device, with_sync_norms))
    return Ranks(rank, size, partial(_distributed, device, nullcontext), SyncedNorms)


@contextmanager
def _distributed(
    device: torch.device,
    prepared: Callable[[nn.Module], AbstractContextManager[nn.Module]],
    module: nn.Module,
) -> Iterator[nn.Module]:
    with prepared(module):
        yield _averaging(device, module)


def _averaging(device: torch.device, module: nn.Module) -> DistributedDataParallel:
    with warnings.catch_warnings():
        # The new name of the argument does not exist in all supported versions of torch.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        return DistributedDataParallel(
            module,
            device_ids=None if device.type == "cpu" else [device],
            broadcast_buffers=False,  # they are equal on all ranks already
            gradient_as_bucket_view=True,
            # Some networks have weights that get no gradient (another head, the norm of an
            # embedding). They are the same in all steps, so that one search finds them.
            static_graph=True,
        )


@contextmanager
def with_sync_norms(module: nn.Module) -> Iterator[nn.Module]:
    """Replace the batch norms in a module by torch's SyncBatchNorm, and put them back at the end.

    Both share their tensors, under the same names.
    """
    # torch's function drops the activation of timm's norms.
    from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]

    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, BATCH_NORMS)
    ]
    convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    try:
        yield module
    finally:
        for parent, name, child in found:
            setattr(parent, name, child)


def check_slices(batch_size: int, size: int, parts: int = 1, pairs: bool = False) -> None:
    """Raise `UserError` (key `batch_size`) for a batch that cannot be split over `size` ranks.

    parts: number of parts in which each rank processes its slice. pairs: whether images are mixed
    in pairs.
    """
    if size == 1:
        return
    if batch_size // size < parts:
        each = f"1 sample in each of {parts} parts" if parts > 1 else "1 sample"
        raise UserError(
            f"too small for {size} workers, which take at least {each} each",
            key="batch_size",
            value=batch_size,
            allowed=f"execution.student.workers up to {max(1, batch_size // parts)}",
        )
    if pairs and batch_size % (2 * parts * size):
        raise UserError(
            f"images are mixed in pairs on each of {size} workers (execution.student.workers)",
            key="batch_size",
            value=batch_size,
            allowed=f"a multiple of {2 * parts * size}",
        )


class SyncedNorms(TorchFunctionMode):
    """Context in which batch norms in training use mean and variance over the slices of all ranks.

    All ranks have to run the same batch norms in the same order.
    """

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
    """Sum over the ranks. The gradient is summed too, because every rank's loss uses the sum."""

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
