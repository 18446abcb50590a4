"""Live teachers: networks that run on the augmented images of a student's training."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosup.errors import UserError
from cosup.models.compute import Compute, autocast
from cosup.protocols import TINIEST, FeatureShapes, NetworkOutput
from cosup.teachers.base import Teacher

__all__ = ["LiveTeachers"]


class LiveTeachers(nn.Module):
    """(pixels, teacher of each image) -> outputs of the teachers; frozen, in eval mode.

    teachers: teachers of one level, in the order of their numbers. features: also return feature
    maps and embeddings, which then must have equal shapes. Raises `UserError` for teachers that are
    not networks and for different shapes.
    """

    supports: Tensor

    def __init__(
        self,
        teachers: Sequence[Teacher],
        compute: Compute,
        features: bool = True,
    ) -> None:
        super().__init__()
        assert teachers, "there are no teachers"
        self.precision = compute.precision
        self.features = features
        self.networks = [teacher.network() for teacher in teachers]
        self.frozen = nn.ModuleList(self.networks)
        supports = torch.stack([teacher.support for teacher in teachers])
        self.register_buffer("supports", supports, persistent=False)
        self.temperatures = [teacher.temperature for teacher in teachers]
        self.to(compute.device).eval().requires_grad_(False)
        self.shapes = _common_shapes(teachers) if features else FeatureShapes()

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.supports.device

    def train(self, mode: bool = True) -> "LiveTeachers":
        """Stay in eval mode, also as part of another module."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor, teacher: Tensor) -> NetworkOutput:
        """Run teacher[b] on pixels[b]; return its outputs, on the device.

        pixels: [B, 3, H, W] in 0 .. 255 (float, not normalised), resized (bilinear, antialiased)
        for networks of another input size. teacher: [B] int64; the outputs of images with a
        negative number are 0. Logits [B, C] float32 are log-probabilities within each teacher's
        scope, with probability 0 replaced by `TINIEST`, so that all are finite. Each teacher runs
        once, on its own images; maps and embeddings have the precision that it runs in.
        """
        pixels, numbers = pixels.to(self.device), teacher.cpu()
        assert len(numbers) == len(pixels)
        assert int(numbers.max()) < len(self.networks), "there is no teacher of this number"
        present = [number for number in sorted(set(numbers.tolist())) if number >= 0]
        if present and bool((numbers == present[0]).all()):
            return self._run(present[0], pixels)
        parts = []
        for number in present:
            rows = (numbers == number).nonzero()[:, 0].to(self.device)
            parts.append((rows, self._run(number, pixels[rows])))
        return self._scattered(parts, len(pixels))

    def _run(self, number: int, pixels: Tensor) -> NetworkOutput:
        network = self.networks[number]
        size = network.input.size
        if pixels.shape[-2:] != (size, size):
            pixels = functional.interpolate(
                pixels.float(), size=(size, size), mode="bilinear", antialias=True
            )
        with autocast(self.device, self.precision):
            inputs = network.pixels(pixels)
            output = (
                network.outputs(inputs) if self.features else NetworkOutput(network.logits(inputs))
            )
        annotations = self._annotations(output.logits, number)
        return NetworkOutput(annotations, output.maps, output.embedding)

    def _annotations(self, logits: Tensor, number: int) -> Tensor:
        """Return log-probabilities within the teacher's scope, at its temperature."""
        logits = logits.float() / self.temperatures[number]
        inside = logits.masked_fill(~self.supports[number], -torch.inf)
        return inside.softmax(-1).clamp_min(TINIEST).log()

    def _scattered(self, parts: Sequence[tuple[Tensor, NetworkOutput]], size: int) -> NetworkOutput:
        """Put the outputs of each part at its rows."""
        if not parts:
            classes = len(self.supports[0])
            maps = tuple(torch.zeros(size, *m, device=self.device) for m in self.shapes.maps)
            embedding = torch.zeros(size, self.shapes.embedding, device=self.device)
            logits = torch.zeros(size, classes, device=self.device)
            return NetworkOutput(logits, maps, embedding if self.features else None)

        def whole(tensors: Sequence[Tensor]) -> Tensor:
            out = tensors[0].new_zeros(size, *tensors[0].shape[1:])
            for (rows, _), tensor in zip(parts, tensors, strict=True):
                out[rows] = tensor
            return out

        outputs = [output for _, output in parts]
        embeddings = [output.embedding for output in outputs if output.embedding is not None]
        return NetworkOutput(
            whole([output.logits for output in outputs]),
            tuple(whole(stage) for stage in zip(*(output.maps for output in outputs), strict=True)),
            whole(embeddings) if embeddings else None,
        )


def _common_shapes(teachers: Sequence[Teacher]) -> FeatureShapes:
    """Return the shapes of the teachers' features. Raises `UserError` if they differ."""
    found = [(teacher.name, teacher.network().shapes()) for teacher in teachers]
    for (name, shapes), (other, others) in pairwise(found):
        if shapes != others:
            raise UserError(
                f"teachers '{name}' and '{other}' have different feature maps: "
                f"{_describe_shapes(shapes)}, and {_describe_shapes(others)}",
                key="teachers.hierarchy",
                allowed="networks with equal feature maps in a level",
            )
    return found[0][1]


def _describe_shapes(shapes: FeatureShapes) -> str:
    return f"{shapes.text} and {shapes.embedding} features"
