"""FitNets' hint loss equals its formula for every way in which two sizes can differ."""

import pytest
import torch
import torch.nn.functional as F
from feature_samples import connected, normed, seen

from cosup.losses import FitNet
from cosup.protocols import FeatureShapes, MapShape, NetworkOutput


@pytest.mark.parametrize(
    ("student", "teacher", "way"),
    [
        ((4, 6, 6), (5, 6, 6), "same"),
        ((4, 8, 8), (5, 4, 4), "halved"),
        ((4, 5, 3), (5, 10, 6), "doubled"),
        ((4, 9, 9), (5, 3, 3), "pooled"),
        ((4, 4, 4), (5, 7, 7), "enlarged"),
    ],
)
def test_fitnet_is_its_formula(student: MapShape, teacher: MapShape, way: str) -> None:
    ours, theirs = FeatureShapes((student,)), FeatureShapes((teacher,))
    connector = connected(FitNet(weight=100.0), ours, theirs)
    (name, weight), (_, bias) = list(connector.named_parameters())[:2]
    assert name == "regressor.0.weight"
    x, hint = seen(ours).maps[0], seen(theirs, seed=1).maps[0]
    if way == "halved":
        guess = normed(F.conv2d(x, weight, bias, stride=2, padding=1))
    elif way == "doubled":
        guess = normed(F.conv_transpose2d(x, weight, bias, stride=2, padding=1))
    else:
        linear = torch.einsum("bchw,dc->bdhw", x, weight[:, :, 0, 0]) + bias[:, None, None]
        guess = normed(linear)
    if way == "pooled":
        guess = guess.reshape(3, 5, 3, 3, 3, 3).mean((3, 5))
    if way == "enlarged":
        guess = F.interpolate(guess, size=(7, 7), mode="bilinear")
    worked = 100 * ((guess - hint) ** 2).mean((1, 2, 3))
    losses = connector(NetworkOutput(x, (x,)), NetworkOutput(x, (hint,)), 0.0)
    torch.testing.assert_close(losses, worked)


@pytest.mark.parametrize(
    ("hint_stage", "ours", "theirs"), [(None, 1, 2), (0, 0, 0), (-1, 2, 4), (2, 2, 2)]
)
def test_fitnet_takes_the_middle_map_or_the_one_asked_for(
    hint_stage: int | None, ours: int, theirs: int
) -> None:
    """Of three maps the middle is number 1, of five number 2; each network counts its own."""
    student = FeatureShapes(tuple((2 + i, 4, 4) for i in range(3)))
    teacher = FeatureShapes(tuple((9 + i, 4, 4) for i in range(5)))
    connector = connected(FitNet(hint_stage=hint_stage), student, teacher)
    assert next(connector.parameters()).shape == (9 + theirs, 2 + ours, 1, 1)
    assert connector(seen(student), seen(teacher), 0.0).shape == (3,)
