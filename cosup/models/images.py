"""What a network reads, from the image file on: its size, its scaling, its normalisation.

What is done to training images, built of timm's and torchvision's transforms.

Mixup and cutmix by timm, with the matrix of what was mixed, for whatever belongs to the images.

Zhang et al., "mixup", arXiv 1710.09412; Yun et al., "CutMix", arXiv 1905.04899.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm.data
import torch
from PIL import Image
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torchvision import transforms

from cosup.errors import UserError, in_short
from cosup.models.section import AugmentSection, MixupSection

__all__ = [
    "InputSpec",
    "Mixing",
    "Pixels",
    "TrainingTransform",
    "draws",
    "training_transform",
]


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


_TIMM: Any = timm.data  # its hints leave out what it exports


@dataclass(frozen=True)
class TrainingTransform:
    """RGB image -> uint8 [3, S, S], by the global generators of Python, NumPy and torch.

    key: what it does, as text, where it draws nothing (equal keys give equal tensors); else None.
    """

    parts: Callable[[Image.Image], Tensor]
    key: str | None

    def __call__(self, image: Image.Image) -> Tensor:
        """uint8 [3, S, S]."""
        return self.parts(image)


def draws(section: AugmentSection) -> bool:
    """Whether images come out differently each time (erasing is done on batches)."""
    return (
        section.crop != "none"
        or section.flip > 0
        or section.color_jitter > 0
        or section.auto_augment is not None
    )


def training_transform(section: AugmentSection, spec: InputSpec) -> TrainingTransform:
    """The transform for a network's input; what is off leaves the one of prediction.

    Order: crop, flip, the policy or the colour changes, as timm's. Erasing needs normalised pixels
    and is done on batches. Raises `UserError` for a policy that timm can't read, and for colour
    changes beside one (timm leaves them out).
    """
    if section.auto_augment is not None and section.color_jitter > 0:
        raise UserError(
            f"augment.color_jitter: {section.color_jitter:g} has no effect beside auto_augment "
            f"'{section.auto_augment}' (allowed with it: 0)"
        )
    primary, secondary, final = _timm_parts(section, spec)
    if section.crop != "resized":
        # As the transform of prediction scales and cuts.
        shorter = int(spec.size / spec.crop_pct)
        to = (shorter, shorter) if spec.squash else shorter
        scaling = transforms.Resize(to, _TIMM.str_to_interp_mode(spec.interpolation))
        parts = [scaling, transforms.CenterCrop(spec.size)]
        if section.crop == "padded":
            parts.append(transforms.RandomCrop(spec.size, padding=section.padding))
        if section.flip:
            parts.append(transforms.RandomHorizontalFlip(section.flip))
        primary = transforms.Compose(parts)
    whole = transforms.Compose([primary, secondary, final])
    return TrainingTransform(whole, None if draws(section) else f"train-{spec}")


def _timm_parts(
    section: AugmentSection, spec: InputSpec
) -> tuple[transforms.Compose, transforms.Compose, transforms.Compose]:
    """timm's training transform in its three stages: crop and flip, colours, to a tensor."""
    try:
        primary, secondary, final = _TIMM.create_transform(
            spec.size,
            is_training=True,
            scale=section.scale,
            hflip=section.flip,
            color_jitter=section.color_jitter or None,
            auto_augment=section.auto_augment,
            interpolation=spec.interpolation,
            mean=spec.mean,
            std=spec.std,
            use_prefetcher=True,
            separate=True,
        )
    except (AssertionError, ValueError, KeyError, NotImplementedError, IndexError) as error:
        if section.auto_augment is None:
            raise
        raise UserError(
            f"augment.auto_augment: timm can't read '{section.auto_augment}' ({in_short(error)}); "
            "allowed: its policies, such as 'rand-m9-mstd0.5-inc1', 'augmix-m5-w4-d2', 'original'"
        ) from None
    return primary, secondary, final


class Mixing:
    """Mixes pairs of images; draws from NumPy's global generator, as timm does."""

    def __init__(self, section: MixupSection) -> None:
        self.section = section

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed pixels [B, 3, H, W] (in place) and shares [B, B], whose rows sum to 1.

        Row i says of which images, in what shares, the mixed image i is made: `shares @ targets`
        are its targets. Raises `UserError` if B is odd.
        """
        count = len(pixels)
        if count % 2:
            raise UserError(
                f"batch_size: {count} images at a time: mixing pairs them; batch_size / accumulate "
                "must be even"
            )
        # Each image is a class of its own, so timm's mixed targets are the shares.
        mixup = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=self.section.mixup,
            cutmix_alpha=self.section.cutmix,
            prob=self.section.prob,
            switch_prob=self.section.switch_prob,
            label_smoothing=0.0,
            num_classes=count,
        )
        mixed, shares = mixup(pixels, torch.arange(count, device=pixels.device))
        return mixed, shares
