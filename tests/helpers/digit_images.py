"""A few digits as images of different shapes."""

from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIZES = ((8, 8), (40, 40), (30, 52), (90, 61), (200, 224))


@cache
def digit_images(count: int = 12) -> list[Image.Image]:
    """Return grey images of digits, wide, tall and square ones, and one in colours."""
    found = []
    for number, grey in enumerate(load_digits().images[:count]):
        size = SIZES[number % len(SIZES)]
        image = Image.fromarray((grey * 15.9).astype(np.uint8)).resize(size)
        found.append(image)
    found[1] = Image.merge("RGB", (found[1], found[1].rotate(90), found[1].rotate(180)))
    return found
