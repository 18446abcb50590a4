"""What all feature losses keep: right gradients, none to the teacher, finite numbers; they teach on
real images, and name what can't be paired."""

from dataclasses import replace

import pytest
import torch
from feature_samples import STUDENT, TEACHER, connected, seen
from sklearn.datasets import load_digits
from torch import Tensor, nn

from cosup.errors import UserError
from cosup.losses import FeatureLoss, FitNet, KnowledgeReview, RelationalDistillation
from cosup.protocols import FeatureShapes, NetworkOutput

LOSSES: list[FeatureLoss] = [FitNet(), RelationalDistillation(), KnowledgeReview(ramp=0.0)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_gradients_are_those_of_the_features_part(loss: FeatureLoss) -> None:
    small = FeatureShapes(((2, 4, 4), (3, 2, 2)), embedding=3)
    connector, teacher = connected(loss, small, small), seen(small, seed=1)
    student = seen(small)
    assert student.embedding is not None
    inputs = [tensor.requires_grad_() for tensor in (*student.maps, student.embedding)]

    def part(first: Tensor, second: Tensor, embedding: Tensor) -> Tensor:
        result: Tensor = connector(
            NetworkOutput(student.logits, (first, second), embedding), teacher, 0.5
        )
        return result

    assert torch.autograd.gradcheck(part, inputs)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_nothing_flows_to_the_teacher(loss: FeatureLoss) -> None:
    student, teacher = seen(STUDENT), seen(TEACHER, seed=1)
    assert teacher.embedding is not None
    assert student.embedding is not None
    student.embedding.requires_grad_()
    student.maps[1].requires_grad_()
    tensors = [*teacher.maps, teacher.embedding]
    for tensor in tensors:
        tensor.requires_grad_()
    connected(loss)(student, teacher, 1.0).sum().backward()
    assert all(tensor.grad is None for tensor in tensors)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_features_in_half_precision_stay_finite(
    loss: FeatureLoss, dtype: torch.dtype
) -> None:
    """1e4 squared is beyond float16."""

    def half(values: NetworkOutput) -> NetworkOutput:
        assert values.embedding is not None
        maps = tuple(each.to(dtype) for each in values.maps)
        return NetworkOutput(values.logits, maps, values.embedding.to(dtype))

    connector = connected(loss).float()
    student, teacher = seen(STUDENT, 4, scale=1e4), seen(TEACHER, 4, seed=1, scale=1e4)
    with torch.autocast("cpu", dtype):
        losses = connector(half(student), half(teacher), 1.0)
    assert losses.dtype == torch.float32
    assert losses.isfinite().all()
    assert (losses > 0).all()


class Tiny(nn.Module):
    """Two stages on 8x8 digits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.shapes = FeatureShapes(((width, 8, 8), (2 * width, 4, 4)), embedding=2 * width)

    def forward(self, images: Tensor) -> NetworkOutput:
        first = self.first(images).relu()
        second = self.second(first).relu()
        return NetworkOutput(second, (first, second), second.mean((2, 3)))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_student_comes_to_see_digits_as_its_teacher_does(loss: FeatureLoss) -> None:
    """After some steps on real images the features' part has fallen on images not trained on."""
    torch.manual_seed(0)
    images = torch.from_numpy(load_digits().images).float()[:160, None] / 16
    student, teacher = Tiny(6), Tiny(8).requires_grad_(False)
    connector = loss.connect(student.shapes, teacher.shapes)
    optimizer = torch.optim.Adam([*student.parameters(), *connector.parameters()], 1e-2)

    def part(batch: Tensor) -> Tensor:
        return connector(student(batch), teacher(batch), 1.0).mean()  # type: ignore[no-any-return]

    before = float(part(images[128:]).detach())
    for step in range(40):
        optimizer.zero_grad()
        torch.autograd.backward(part(images[step % 4 * 32 :][:32]))
        optimizer.step()
    assert float(part(images[128:]).detach()) < 0.5 * before


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "named"),
    [
        (FitNet(), FeatureShapes(), TEACHER, "null.*student.*none.*5x8x8, 7x4x4"),
        (FitNet(hint_stage=2), STUDENT, TEACHER, "hint_stage: 2.*4x8x8, 6x4x4.*5x8x8, 7x4x4"),
        (FitNet(hint_stage=-3), STUDENT, TEACHER, "hint_stage: -3.*4x8x8"),
        (
            RelationalDistillation(),
            replace(STUDENT, embedding=0),
            TEACHER,
            "none.*4x8x8, 6x4x4.*7.*5x8x8, 7x4x4",
        ),
        (
            KnowledgeReview(),
            FeatureShapes(((4, 8, 8),) * 3),
            TEACHER,
            "stages: null.*student's 3.*4x8x8, 4x8x8.*teacher's 2.*5x8x8, 7x4x4.*1 to 2",
        ),
        (KnowledgeReview(stages=3), STUDENT, TEACHER, "stages: 3.*4x8x8, 6x4x4.*5x8x8, 7x4x4"),
        (KnowledgeReview(), FeatureShapes(), FeatureShapes(), "none.*none.*both networks need"),
    ],
)
def test_networks_that_cannot_be_paired_are_named_with_both_shapes(
    loss: FeatureLoss, student: FeatureShapes, teacher: FeatureShapes, named: str
) -> None:
    with pytest.raises(UserError, match=named) as caught:
        loss.connect(student, teacher)
    assert "\n" not in str(caught.value)
