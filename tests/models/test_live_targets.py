"""Live teachers' annotations: mixed by the weights of the teachers, hardened, within scopes."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cosup.models.live_targets import live_targets
from cosup.protocols import TINIEST, NetworkOutput

PROBS = torch.tensor(
    [
        [[0.7, 0.3, 0.0], [0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.6, 0.4, 0.0]],
        [[0.0, 0.1, 0.9], [0.0, 0.5, 0.5], [0.0, 0.2, 0.8], [0.0, 0.9, 0.1]],
        [[0.2, 0.2, 0.6], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3]],
    ]
)
"""Of three teachers for four images; the first two lack a class."""
STORED = torch.tensor([[0.5, 0.25, 0.25]]).repeat(4, 1)


class Teachers:
    """Answers by `PROBS`, and counts what each is asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, teacher: Tensor) -> NetworkOutput:
        self.asked.append(teacher.tolist())
        said = PROBS[teacher.clamp_min(0), torch.arange(4)].clamp_min(TINIEST).log()
        return NetworkOutput(said.masked_fill((teacher < 0)[:, None], 0.0))


def targets(mixture: Tensor | None, hard: bool = False) -> tuple[Tensor, Teachers]:
    teachers = Teachers()
    teacher = torch.tensor([0, 1, 2, 0]) if mixture is None else mixture.argmax(1)
    first = teacher, teachers(teacher)
    return live_targets(teachers, first, mixture, STORED, hard=hard), teachers


def test_soft_weights_mix_the_teachers() -> None:
    """`mean` gives all teachers the same weight: not the first alone."""
    found, _ = targets(torch.full((4, 3), 1 / 3))
    torch.testing.assert_close(found, PROBS.mean(0))
    weights = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    weights /= weights.sum(1, keepdim=True)
    found, _ = targets(weights)
    torch.testing.assert_close(found, torch.einsum("nt,tnc->nc", weights, PROBS))


def test_teachers_without_weight_are_not_asked() -> None:
    found, teachers = targets(torch.eye(3)[[0, 1, 2, 0]])
    torch.testing.assert_close(found, PROBS[[0, 1, 2, 0], torch.arange(4)])
    assert teachers.asked == [[0, 1, 2, 0]]
    weights = torch.tensor([[0.5, 0.5, 0.0]] + [[1.0, 0.0, 0.0]] * 3)
    _, teachers = targets(weights)
    assert teachers.asked == [[0, 0, 0, 0], [1, -1, -1, -1]]


def test_hard_targets_are_the_class_of_the_mixture() -> None:
    found, _ = targets(torch.full((4, 3), 1 / 3), hard=True)
    assert torch.equal(found, functional.one_hot(PROBS.mean(0).argmax(1), 3).float())
    found, _ = targets(None, hard=True)
    assert found.sum(1).tolist() == [1.0] * 4
    assert found.argmax(1).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("hard", [False, True])
def test_a_sample_whose_teachers_have_no_weight_keeps_its_target(hard: bool) -> None:
    """Such as one with a class that a person gave."""
    weights = torch.full((4, 3), 1 / 3)
    weights[2] = 0
    found, _ = targets(weights, hard)
    assert torch.equal(found[2], STORED[2])
    assert not torch.equal(found[1], STORED[1])


def test_classes_outside_the_scope_have_no_probability() -> None:
    found, _ = targets(None)
    assert (found == 0).tolist() == (PROBS[[0, 1, 2, 0], torch.arange(4)] == 0).tolist()
    assert math.log(TINIEST) > -88
