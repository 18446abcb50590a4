"""Autocast, as the `execution.precision` setting asks for it."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch

from cosup.models.device import Precision

log = logging.getLogger(__name__)

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
