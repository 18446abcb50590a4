"""Teachers that are asked while a student trains: what they make of the very images it sees."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosup.errors import UserError
from cosup.models.compute import Compute, autocast
from cosup.protocols import FeatureShapes, NetworkOutput
from cosup.teachers.base import Teacher

__all__ = ["LiveTeachers"]

TINIEST = torch.finfo(torch.float32).tiny
"""Stands for probability 0 under a logarithm (log: -87.3)."""


class LiveTeachers(nn.Module):
    """(pixels, who is asked about each) -> what the teachers see; frozen, in eval mode.

    teachers: of one level; the numbers in a call are places in this list. features: whether maps
    and embeddings are wanted too, by losses that read them; their shapes must then be alike.
    Raises `UserError` for shapes that differ, naming both.
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
        self.to(compute.device).eval().requires_grad_(False)
        self.shapes = _common(teachers) if features else FeatureShapes()

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.supports.device

    def train(self, mode: bool = True) -> "LiveTeachers":
        """Stays in eval mode, whatever it is a part of."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor, teacher: Tensor) -> NetworkOutput:
        """What teacher[b] sees in pixels[b], on the device.

        pixels: [B, 3, H, W] in 0 .. 255 (float, not normalised); resized (bilinear, antialiased)
        for networks that read another size. teacher: [B] int64; negative for images nobody is
        asked about, of which all is 0. Logits [B, C] float32 are log-probabilities within each
        teacher's scope; probability 0 becomes `TINIEST`, so that all are finite. Every teacher
        runs once, on its own images; maps and embeddings come in the precision that it runs in.
        """
        pixels, asked = pixels.to(self.device), teacher.cpu()
        assert len(asked) == len(pixels)
        assert int(asked.max()) < len(self.networks), "there is no teacher of this number"
        present = [number for number in sorted(set(asked.tolist())) if number >= 0]
        if present and bool((asked == present[0]).all()):
            return self._ask(present[0], pixels)
        parts = []
        for number in present:
            rows = (asked == number).nonzero()[:, 0].to(self.device)
            parts.append((rows, self._ask(number, pixels[rows])))
        return self._scattered(parts, len(pixels))

    def _ask(self, number: int, pixels: Tensor) -> NetworkOutput:
        network = self.networks[number]
        size = network.input.size
        if pixels.shape[-2:] != (size, size):
            pixels = functional.interpolate(
                pixels.float(), size=(size, size), mode="bilinear", antialias=True
            )
        with autocast(self.device, self.precision):
            inputs = network.pixels(pixels)
            seen = network.see(inputs) if self.features else NetworkOutput(network.model(inputs))
        return NetworkOutput(self._annotations(seen.logits, number), seen.maps, seen.embedding)

    def _annotations(self, logits: Tensor, number: int) -> Tensor:
        """Log-probabilities within the teacher's scope."""
        inside = logits.float().masked_fill(~self.supports[number], -torch.inf)
        return inside.softmax(-1).clamp_min(TINIEST).log()

    def _scattered(self, parts: Sequence[tuple[Tensor, NetworkOutput]], size: int) -> NetworkOutput:
        """What each part saw, at its rows."""
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

        seen = [part for _, part in parts]
        embeddings = [one.embedding for one in seen if one.embedding is not None]
        return NetworkOutput(
            whole([one.logits for one in seen]),
            tuple(whole(stage) for stage in zip(*(one.maps for one in seen), strict=True)),
            whole(embeddings) if embeddings else None,
        )


def _common(teachers: Sequence[Teacher]) -> FeatureShapes:
    """The shapes of what all of them see."""
    found = [(teacher.name, teacher.network().shapes()) for teacher in teachers]
    for (name, shapes), (other, others) in pairwise(found):
        if shapes != others:
            raise UserError(
                f"feature maps of teachers must be alike: those of '{name}' are "
                f"{_words(shapes)}, those of '{other}' {_words(others)}"
            )
    return found[0][1]


def _words(shapes: FeatureShapes) -> str:
    return f"{shapes.text} and {shapes.embedding} features"
