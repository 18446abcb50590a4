"""Devices and precisions by name."""

import pytest
import torch

from cosup.errors import UserError
from cosup.models.compute import resolve_device, resolve_precision

CPU = torch.device("cpu")


def test_a_cpu_is_always_there_and_auto_is_something_that_computes() -> None:
    assert resolve_device("cpu") == CPU
    assert torch.ones(2, device=resolve_device("auto")).sum() == 2


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu", "", "cpu:3", "meta"])
def test_a_device_that_is_not_here_is_a_mistake(name: str) -> None:
    with pytest.raises(UserError, match=r"execution\.device.*allowed: auto, cpu"):
        resolve_device(name)


def test_precision() -> None:
    assert resolve_precision("auto", CPU) == "float32"
    assert resolve_precision("bfloat16", CPU) == "bfloat16"
    with pytest.raises(UserError, match=r"execution\.precision: 'half'"):
        resolve_precision("half", CPU)
