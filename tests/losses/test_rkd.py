"""RKD equals its formula, computed by loops over pairs and triples."""

import math
from dataclasses import replace

import pytest
import torch
from feature_samples import STUDENT, TEACHER, connected, seen

from cosup.losses import RelationalDistillation


def distance(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def cosine(at: list[float], j: list[float], k: list[float]) -> float:
    lengths = distance(at, j) * distance(at, k)
    if lengths == 0:
        return 0.0
    return sum((x - o) * (y - o) for o, x, y in zip(at, j, k, strict=True)) / lengths


def huber(x: float, y: float) -> float:
    gap = abs(x - y)
    return 0.5 * gap**2 if gap < 1 else gap - 0.5


def relations(points: list[list[float]]) -> tuple[list[list[float]], list[list[list[float]]]]:
    apart = [[distance(a, b) for b in points] for a in points]
    positive = [value for row in apart for value in row if value > 0]
    mean = sum(positive) / len(positive)
    angles = [[[cosine(i, j, k) for k in points] for j in points] for i in points]
    return [[value / mean for value in row] for row in apart], angles


def test_rkd_is_its_formula_pair_by_pair_and_triple_by_triple() -> None:
    student, teacher = seen(STUDENT, 5), seen(TEACHER, 5, seed=1)
    assert student.embedding is not None
    assert teacher.embedding is not None
    student.embedding[4] = student.embedding[0]  # the student sees two images as one
    ours, our_angles = relations(student.embedding.tolist())
    theirs, their_angles = relations(teacher.embedding.tolist())
    worked = []
    for i in range(5):
        pairs = [huber(ours[i][j], theirs[i][j]) for j in range(5)]
        triples = [
            huber(our_angles[i][j][k], their_angles[i][j][k]) for j in range(5) for k in range(5)
        ]
        worked.append(2 * (25 * sum(pairs) / 5 + 50 * sum(triples) / 25))
    losses = connected(RelationalDistillation(weight=2.0))(student, teacher, 0.0)
    torch.testing.assert_close(losses, torch.tensor(worked, dtype=torch.float64))


def test_rkd_ignores_rotation_translation_and_scale() -> None:
    """Rotated, moved and scaled embeddings have the same relations."""
    teacher = seen(TEACHER, 6)
    assert teacher.embedding is not None
    turn, _ = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))
    student = replace(teacher, embedding=3 * teacher.embedding @ turn + 5)
    losses = connected(RelationalDistillation(), TEACHER)(student, teacher, 0.0)
    torch.testing.assert_close(losses, torch.zeros_like(losses))


@pytest.mark.parametrize("same", [False, True])
def test_rkd_of_one_image_or_of_one_point_is_finite(same: bool) -> None:
    """One image has no relations: 0. Equal embeddings of all images have a finite gradient."""
    student, teacher = seen(STUDENT, 4 if same else 1), seen(TEACHER, 4 if same else 1, seed=1)
    assert student.embedding is not None
    embedding = student.embedding[:1].expand_as(student.embedding).clone().requires_grad_()
    losses = connected(RelationalDistillation())(replace(student, embedding=embedding), teacher, 0)
    torch.autograd.backward(losses.sum())
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()
    assert embedding.grad.abs().max() < 1e4
    if not same:
        assert losses.tolist() == [0.0]


def test_rkd_without_angles_is_its_distances_alone() -> None:
    student, teacher = seen(STUDENT), seen(TEACHER, seed=1)
    whole = connected(RelationalDistillation())(student, teacher, 0)
    distances = connected(RelationalDistillation(angle=0))(student, teacher, 0)
    angles = connected(RelationalDistillation(distance=0))(student, teacher, 0)
    torch.testing.assert_close(whole, distances + angles)
