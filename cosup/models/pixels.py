"""What a network reads, from the image file on: its size, its scaling, its normalisation."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["InputSpec", "Pixels"]


@dataclass(frozen=True)
class InputSpec:
    """What a network reads: square RGB images of `size` pixels, and how timm prepares them.

    mean, std: per channel, of values in [0, 1]. crop_pct: the share of the resized image's shorter
    side that the centre crop keeps. interpolation: of the resizing (`bicubic`, `bilinear`, ...).
    squash: both sides are resized alike, whatever the image's proportions.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str
    squash: bool = False


class Pixels(nn.Module):
    """uint8 images [B, 3, H, W] -> normalised float32 on the buffers' device."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
        std = torch.tensor(spec.std).view(1, -1, 1, 1)
        # Not saved: a checkpoint holds the network's own tensors, under its own names.
        self.gain: Tensor
        self.shift: Tensor
        self.register_buffer("gain", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, in the memory order (channels last) that convolutions like best."""
        moved = images.to(self.gain.device, non_blocking=True)
        floats = moved.to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(self.shift, floats, self.gain)
