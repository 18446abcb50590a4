"""Mixup and cutmix by timm, with the matrix of what was mixed, for whatever belongs to the images.

Zhang et al., "mixup", arXiv 1710.09412; Yun et al., "CutMix", arXiv 1905.04899.
"""

import torch
from timm.data.mixup import Mixup
from torch import Tensor

from cosup.errors import UserError
from cosup.models.section import MixupSection

__all__ = ["Mixing"]


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
