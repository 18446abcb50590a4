"""Where models run, and in what precision: the `execution` section's `auto` made definite.

Autocast, as the `execution.precision` setting asks for it.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from cosup.errors import UserError

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]


def resolve_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `UserError` if it isn't there."""
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
    raise UserError(f"execution.device: '{name}' is not here (allowed: {', '.join(_present())})")


def resolve_precision(name: str, device: torch.device) -> Precision:
    """The precision of backbones' forward passes: `auto` is bfloat16 on GPUs that have it."""
    if name == "float32":
        return "float32"
    if name == "bfloat16":
        return "bfloat16"
    if name != "auto":
        raise UserError(
            f"execution.precision: '{name}' is unknown (allowed: auto, bfloat16, float32)"
        )
    # Emulated bfloat16 (before Ampere) is slower than float32.
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _present() -> list[str]:
    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["auto", "cpu", *cards, *(["mps"] if torch.backends.mps.is_available() else [])]


CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86, and ("bf16") of ARM
CPUINFO = Path("/proc/cpuinfo")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Matrix products and convolutions in bfloat16 where asked for, else as they are."""
    if precision == "float32":
        return nullcontext()
    if device.type == "cpu":
        _warn_if_slow()
    return torch.autocast(device.type, torch.bfloat16)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU says that it computes in bfloat16; True where it can't be asked."""
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
            "and float32 is quicker"
        )
