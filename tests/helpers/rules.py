"""The rules of the worked story (`tests/helpers/story.py`): a function that is a teacher."""

import torch
from torch import Tensor


def annotate(images: Tensor) -> Tensor:
    """Return probabilities [B, 10] of images uint8 [B, 3, 32, 32]; a row of zeros is no answer."""
    ink = images.float().mean(1) / 255
    middle, width = ink[:, 13:19, 13:19].mean((1, 2)), (ink.amax(1) > 0.5).sum(1)
    probs = torch.zeros(len(images), 10)
    probs[middle < 0.1, 0] = 1  # a hole in the middle: 0
    probs[(middle > 0.5) & (width < 16), 1] = 1  # narrow: 1
    return probs
