"""Knowledge review equals its formulas: fusion from deep to shallow, and the context loss."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from feature_samples import STUDENT, TEACHER, connected, normed, seen
from torch import Tensor

from cosup.losses import Connector, KnowledgeReview
from cosup.losses.reviewkd import context_loss
from cosup.protocols import FeatureShapes


def pooled(values: Tensor, grid: int) -> Tensor:
    """Averages over a grid of equal cells, by hand."""
    b, c, h, w = values.shape
    return values.reshape(b, c, grid, h // grid, grid, w // grid).mean((3, 5))


def hierarchical(x: Tensor, y: Tensor) -> Tensor:
    """HCL: the maps, then the grids smaller than them, each half as heavy as the one before."""
    parts = [x - y] + [pooled(x - y, grid) for grid in (4, 2, 1) if grid < x.shape[-1]]
    weights = [0.5**i for i in range(len(parts))]
    errors = [w * (part**2).mean((1, 2, 3)) for w, part in zip(weights, parts, strict=True)]
    return torch.stack(errors).sum(0) / sum(weights)


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_context_loss_is_its_formula(side: int) -> None:
    x, y = (torch.randn(3, 2, side, side, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(context_loss(x, y), hierarchical(x, y))


def test_context_loss_is_the_published_weights_worked_by_hand() -> None:
    """A gap of 1 everywhere is 1 at every level; a checkerboard averages out but at full size."""
    ones = torch.ones(1, 1, 8, 8)
    assert float(context_loss(ones, 0 * ones)) == pytest.approx(1)
    board = (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8))
    loss = context_loss(board[None, None], 0 * ones)
    assert float(loss) == pytest.approx(1 / (1 + 1 / 2 + 1 / 4 + 1 / 8))


def fused(connector: Connector, stage: int, x: Tensor, below: Tensor | None) -> Tensor:
    weights = dict(connector.named_parameters())
    fused = normed(F.conv2d(x, weights[f"fusions.{stage}.enter.0.weight"]))
    if below is None:
        return fused
    grown = below.repeat_interleave(x.shape[-2] // below.shape[-2], 2)
    grown = grown.repeat_interleave(x.shape[-1] // below.shape[-1], 3)
    mask = F.conv2d(
        torch.cat([fused, grown], 1),
        weights[f"fusions.{stage}.attention.weight"],
        weights[f"fusions.{stage}.attention.bias"],
    )
    return (fused * mask[:, 0:1].sigmoid()) + (grown * mask[:, 1:2].sigmoid())


@pytest.mark.parametrize(("progress", "ramp"), [(1.0, 1.0), (0.05, 0.2), (0.0, 0.0)])
def test_reviewkd_is_its_formula(progress: float, ramp: float) -> None:
    """From the embeddings (1x1) up to the shallowest stage; the teacher's maps are larger there."""
    teacher_shapes = replace(TEACHER, maps=((5, 16, 16), (7, 4, 4)))
    connector = connected(KnowledgeReview(weight=3.0, ramp=ramp), STUDENT, teacher_shapes)
    student, teacher = seen(STUDENT), seen(teacher_shapes, seed=1)
    assert student.embedding is not None
    assert teacher.embedding is not None
    weights = dict(connector.named_parameters())

    deepest = fused(connector, 2, student.embedding[:, :, None, None], None)
    middle = fused(connector, 1, student.maps[1], deepest)
    shallow = fused(connector, 0, student.maps[0], middle)
    shallow = shallow.repeat_interleave(2, 2).repeat_interleave(2, 3)
    hints = [*teacher.maps, teacher.embedding[:, :, None, None]]
    worked = torch.zeros(3, dtype=torch.float64)
    for stage, x in enumerate((shallow, middle, deepest)):
        guess = normed(F.conv2d(x, weights[f"fusions.{stage}.leave.0.weight"], padding=1))
        worked = worked + hierarchical(guess, hints[stage])
    share = 1.0 if ramp == 0 else min(1.0, progress / ramp)
    losses = connector(student, teacher, progress)
    torch.testing.assert_close(losses, 3 * share * worked)


def test_reviewkd_pairs_the_given_number_of_last_stages() -> None:
    deep = FeatureShapes((*((3, 4, 4),) * 4, (9, 2, 2)), embedding=9)
    connector = connected(KnowledgeReview(stages=2, ramp=0.0), deep, TEACHER)
    assert connector(seen(deep), seen(TEACHER), 0.5).shape == (3,)
    bare = replace(deep, embedding=0)
    connector = connected(KnowledgeReview(stages=1, channels=8, ramp=0.0), bare, TEACHER)
    assert connector(seen(bare), seen(TEACHER), 0.5).shape == (3,)
    assert connector.state_dict()["fusions.0.enter.0.weight"].shape == (8, 9, 1, 1)
