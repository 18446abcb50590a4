"""Image inputs of networks: size and normalisation, training transforms, mixup and cutmix.

Transforms are composed of timm's and torchvision's. Mixup (Zhang et al., arXiv 1710.09412) and
cutmix (Yun et al., arXiv 1905.04899) are timm's, with the matrix of mixing shares, so that weights
and labels are mixed like the targets. Both libraries are imported when they are used, which takes
seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from cosup.errors import UserError, in_short
from cosup.models.training_section import AugmentSection, MixupSection

if TYPE_CHECKING:
    from torchvision import transforms

__all__ = [
    "InputSpec",
    "Mixing",
    "Pixels",
    "TrainingTransform",
    "TwoViews",
    "draws",
    "training_transform",
]


@dataclass(frozen=True)
class InputSpec:
    """The input of a network: square RGB images, and their preprocessing in timm's terms.

    size: side in pixels. mean, std: per channel, of values in [0, 1]. crop_pct: share of the
    resized image's shorter side that the centre crop keeps. interpolation: mode of resizing
    (`bicubic`, `bilinear`, ...). squash: resize both sides to the same length, without keeping the
    aspect ratio.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str
    squash: bool = False


class Pixels(nn.Module):
    """Normalise uint8 images [B, 3, H, W] to float32 on the device of the buffers."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
        std = torch.tensor(spec.std).view(1, -1, 1, 1)
        # Not saved: a checkpoint holds only the tensors of the network, under its names.
        self.gain: Tensor
        self.shift: Tensor
        self.register_buffer("gain", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised images in channels-last order, the fastest one for convolutions."""
        moved = images.to(self.gain.device, non_blocking=True)
        floats = moved.to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(self.shift, floats, self.gain)


@dataclass(frozen=True)
class TrainingTransform:
    """Transform an RGB image to uint8 [3, S, S], with the global generators of all libraries.

    key: identifies a transform without random steps (equal keys give equal tensors); None for a
    random one.
    """

    parts: Callable[[Image.Image], Tensor]
    key: str | None

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 [3, S, S]."""
        return self.parts(image)


@dataclass(frozen=True)
class TwoViews:
    """Transform an RGB image to uint8 [6, S, S]: augmented, and as for prediction.

    key: None if the first is random, as of `TrainingTransform`.
    """

    augmented: TrainingTransform
    plain: Callable[[Image.Image], Tensor]

    @property
    def key(self) -> str | None:
        """Identifier of both."""
        return None if self.augmented.key is None else f"two-{self.augmented.key}"

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 [6, S, S]."""
        return torch.cat([self.augmented(image), self.plain(image)])


def draws(section: AugmentSection) -> bool:
    """Return whether the transform of single images is random (erasing is applied to batches)."""
    return (
        section.crop != "none"
        or section.flip > 0
        or section.color_jitter > 0
        or section.auto_augment is not None
    )


def training_transform(section: AugmentSection, spec: InputSpec) -> TrainingTransform:
    """Return the training transform for a network's input; without augmentation, prediction's.

    The order is timm's: crop, flip, then policy or colour jitter. Erasing is applied to batches,
    because it needs normalised pixels. Raises `UserError` for an invalid policy, and for colour
    jitter together with a policy (timm would ignore it).
    """
    from timm.data.transforms import str_to_interp_mode
    from torchvision import transforms

    if section.auto_augment is not None and section.color_jitter > 0:
        raise UserError(
            f"has no effect together with auto_augment '{section.auto_augment}'",
            key="augment.color_jitter",
            value=section.color_jitter,
            allowed="0",
        )
    primary, secondary, final = _timm_parts(section, spec)
    if section.crop != "resized":
        # Resize and crop as the transform of prediction does.
        shorter = int(spec.size / spec.crop_pct)
        to = (shorter, shorter) if spec.squash else shorter
        scaling = transforms.Resize(to, str_to_interp_mode(spec.interpolation))  # type: ignore[no-untyped-call]
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
) -> "tuple[transforms.Compose, transforms.Compose, transforms.Compose]":
    """Return timm's training transform in three parts: crop and flip, colours, to a tensor."""
    import timm.data

    library: Any = timm.data  # its type hints are incomplete
    try:
        primary, secondary, final = library.create_transform(
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
            f"not a policy of timm ({in_short(error)})",
            key="augment.auto_augment",
            value=section.auto_augment,
            allowed="such as 'rand-m9-mstd0.5-inc1', 'augmix-m5-w4-d2' or 'original'",
        ) from None
    return primary, secondary, final


class Mixing:
    """Mix pairs of images by timm's Mixup, which draws from NumPy's global generator."""

    def __init__(self, section: MixupSection) -> None:
        self.section = section

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix pixels [B, 3, H, W] in place; return them and the shares [B, B].

        Row i of the shares sums to 1 and holds the share of every original image in the mixed image
        i, so that `shares @ targets` are the mixed targets. Raises `UserError` if B is odd.
        """
        from timm.data.mixup import Mixup

        count = len(pixels)
        if count % 2:
            raise UserError(
                f"mixing pairs of images needs an even number of them, not {count}",
                key="batch_size",
                allowed="an even multiple of accumulate",
            )
        # Each image gets a class of its own, so that the targets mixed by timm are the shares.
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
