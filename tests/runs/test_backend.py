"""The local backend bounds what lies on a GPU, and computes there what the CPU would."""

import math

import pytest
import torch

from cosup.config.schema import ExecutionSection
from cosup.runs.backend import teacher_memory


@pytest.mark.parametrize(("device", "expected"), [("cpu", math.inf), ("cuda", 3e9), ("mps", 3e9)])
def test_the_memory_of_teachers_bounds_what_a_gpu_holds(device: str, expected: float) -> None:
    execution = ExecutionSection.model_validate({"teachers": {"memory_gb": 3}})
    assert teacher_memory(execution, torch.device(device)) == expected
