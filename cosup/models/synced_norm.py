"""Batch norm over the whole batch where several processes have a slice of it each.

torch's SyncBatchNorm does this on GPUs alone, and is another module. Here the networks stay as they
are: while a training is open, `torch.batch_norm` itself is answered differently.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["SyncedNorms"]


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
            return _as_functional(*args, **kwargs)
        if func is torch.batch_norm:
            x, weight, bias, mean, variance, training, momentum, eps, _ = args
            return _as_functional(x, mean, variance, weight, bias, training, momentum, eps)
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


def _as_functional(
    input: Tensor,  # noqa: A002 - torch's name
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of x [b, C, ...]; in training over all ranks' samples."""
    if not training:
        return functional.batch_norm(
            input, running_mean, running_var, weight, bias, False, momentum, eps
        )
    x: Tensor = input.float()
    others = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    own = x.new_tensor([x.numel() // x.shape[1]])
    sums = _sum(torch.cat([x.sum(others), own]))
    count = sums[-1]
    mean = sums[:-1] / count
    centred = x - mean.view(shape)
    variance = _sum(centred.square().sum(others)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = variance * count / (count - 1).clamp_min(1)
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_(unbiased.to(running_var), momentum)
    out: Tensor = centred * torch.rsqrt(variance + eps).view(shape)
    if weight is not None:
        out = out * weight.view(shape)
    if bias is not None:
        out = out + bias.view(shape)
    return out.to(input.dtype)
