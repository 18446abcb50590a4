"""Random outputs of two small networks, for the tests of feature losses."""

import torch
from torch import Tensor

from cosup.losses import Connector, FeatureLoss
from cosup.protocols import FeatureShapes, NetworkOutput

STUDENT = FeatureShapes(((4, 8, 8), (6, 4, 4)), embedding=6)
TEACHER = FeatureShapes(((5, 8, 8), (7, 4, 4)), embedding=7)


def seen(shapes: FeatureShapes, batch: int = 3, seed: int = 0, scale: float = 1.0) -> NetworkOutput:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    return NetworkOutput(
        draw(3), tuple(draw(*shape) for shape in shapes.maps), draw(shapes.embedding)
    )


def connected(
    loss: FeatureLoss, student: FeatureShapes = STUDENT, teacher: FeatureShapes = TEACHER
) -> Connector:
    torch.manual_seed(0)
    return loss.connect(student, teacher).double()


def normed(values: Tensor) -> Tensor:
    """Batch norm as it starts, by hand: each channel to mean 0 and (biased) variance 1."""
    mean = values.mean((0, 2, 3), keepdim=True)
    variance = (values - mean).square().mean((0, 2, 3), keepdim=True)
    return (values - mean) / (variance + 1e-5).sqrt()
