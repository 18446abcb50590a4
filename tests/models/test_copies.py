"""Results are read on the CPU while the device computes the next ones."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cosup.models.copies import on_cpu


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_result_is_read_after_the_next_one_was_launched(count: int) -> None:
    events: list[str] = []

    def launched() -> Iterator[Tensor]:
        for number in range(count):
            events.append(f"launch {number}")
            yield torch.full((2,), number)

    for number, found in enumerate(on_cpu(launched())):
        events.append(f"read {number}")
        assert found.tolist() == [number] * 2
    launches = [events.index(f"launch {number}") for number in range(count)]
    reads = [events.index(f"read {number}") for number in range(count)]
    assert launches == sorted(launches)
    assert all(launch < read for launch, read in zip(launches[1:], reads, strict=False))
    assert all(read < launch for read, launch in zip(reads, launches[2:], strict=False))
    assert len(reads) == count


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_numbers_are_those_of_the_gpu_however_long_it_computes() -> None:
    matrix = torch.randn(2048, 2048, device="cuda")

    def launched() -> Iterator[Tensor]:
        for number in range(5):
            found = matrix
            for _ in range(50):
                found = (found @ matrix).softmax(1)
            yield found[:4] + number

    expected = [found.cpu() for found in launched()]
    for found, wanted in zip(on_cpu(launched()), expected, strict=True):
        assert found.device.type == "cpu"
        assert torch.equal(found, wanted)
