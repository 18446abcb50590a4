"""The compute context: device, precision and resources of models.

`Compute` is handed down whole. `resolve_device` and `resolve_precision` turn the `execution`
section's `auto` into definite values.
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from cosup.errors import UserError, unknown_name
from cosup.models.ranks import ALONE, Ranks
from cosup.words import plural

__all__ = [
    "Compute",
    "ComputedOn",
    "Precision",
    "autocast",
    "device_name",
    "repeatable",
    "resolve_device",
    "resolve_precision",
]

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Compute:
    """Device, precision and resources that models are trained and run with.

    device: device of weights and forward passes. precision: precision of forward passes. workers:
    number of threads that decode images for prediction, and of processes that decode files for
    training. batch_size: images per forward pass. cache: folder of cached features; None disables
    the cache. scratch: folder for the state of unfinished trainings; None saves no state. ranks:
    processes that train the same model together.
    """

    device: torch.device = CPU
    precision: Precision = "float32"
    workers: int = 1
    batch_size: int = 64
    cache: Path | None = None
    scratch: Path | None = None
    ranks: Ranks = ALONE

    @property
    def pins(self) -> bool:
        """Whether batches are copied to the device from page-locked memory."""
        return self.device.type == "cuda"

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context manager that runs matrix products and convolutions in `precision`."""
        return autocast(self.device, self.precision)


@dataclass(frozen=True)
class ComputedOn:
    """What a process computed with: the name of its device, precision, and threads of torch."""

    device: str
    precision: Precision
    threads: int

    def __str__(self) -> str:
        return f"{self.device} in {self.precision}, {plural(self.threads, 'thread')}"


def device_name(device: torch.device) -> str:
    """Return the model of a GPU, or the type of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


DEFAULT_COMPUTE = Compute()
"""The CPU in float32, without a cache."""


def resolve_device(name: str) -> torch.device:
    """Return the device named `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises `UserError` if this machine does not have it.
    """
    if name == "auto":
        return torch.device(_best())
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "cpu" and device.index is None:
        return device
    if device.type == "cuda" and (device.index or 0) < torch.cuda.device_count():
        return device
    if device.type == "mps" and torch.backends.mps.is_available():
        return device
    allowed = ", ".join(_available())
    raise UserError(
        "not available on this machine", key="execution.device", value=name, allowed=allowed
    )


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Return the precision of forward passes; `auto` is bfloat16 on GPUs that support it.

    Raises `UserError` for an unknown name.
    """
    if name == "float32":
        return "float32"
    if name == "bfloat16":
        return "bfloat16"
    if name != "auto":
        allowed = ("auto", "bfloat16", "float32")
        raise unknown_name("precision", name, allowed, key="execution.precision")
    # Emulated bfloat16 (before Ampere) is slower than float32.
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _available() -> list[str]:
    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["auto", "cpu", *cards, *(["mps"] if torch.backends.mps.is_available() else [])]


CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is ARM's
CPUINFO = Path("/proc/cpuinfo")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return a context manager that runs matrix products and convolutions in `precision`."""
    if precision == "float32":
        return nullcontext()
    if device.type == "cpu":
        _warn_if_slow()
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Return a context manager in which convolutions on a GPU have the same numbers every time:
    the fastest gradients of cuDNN are summed in any order."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU computes in bfloat16; True where the system does not report it."""
    try:
        words = set(CPUINFO.read_text().lower().split())
    except OSError:
        return True
    return bool(words & CPU_FLAGS)


@cache
def _warn_if_slow() -> None:
    if not cpu_has_bfloat16():
        log.warning(
            "execution.precision: this CPU has neither avx512_bf16 nor AMX; bfloat16 is emulated, "
            "and float32 is faster"
        )
