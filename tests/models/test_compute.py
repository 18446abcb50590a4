"""Devices and precisions by name."""

import pytest
import torch

from cosup.errors import UserError
from cosup.models.compute import repeatable, resolve_device, resolve_precision

CPU = torch.device("cpu")


def test_a_cpu_is_always_there_and_auto_is_something_that_computes() -> None:
    assert resolve_device("cpu") == CPU
    assert torch.ones(2, device=resolve_device("auto")).sum() == 2


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu", "", "cpu:3", "meta"])
def test_an_unavailable_device_is_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_device(name)
    assert (caught.value.key, caught.value.value) == (("execution", "device"), name)
    assert str(caught.value.allowed).startswith("auto, cpu")


def test_precision() -> None:
    assert resolve_precision("auto", CPU) == "float32"
    assert resolve_precision("bfloat16", CPU) == "bfloat16"
    with pytest.raises(UserError) as caught:
        resolve_precision("half", CPU)
    assert (caught.value.key, caught.value.value) == (("execution", "precision"), "half")
    assert caught.value.allowed == "auto, bfloat16, float32"


@pytest.mark.parametrize("before", [False, True])
def test_cudnn_repeats_its_numbers_on_a_gpu_alone(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", before)
    with repeatable(CPU):
        assert torch.backends.cudnn.deterministic is before
    with repeatable(torch.device("cuda:1")):
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.deterministic is before
