"""Compare images per second on a GPU with bare torch loops on the same card.

    python tests/benchmarks/bench_gpu.py [--device cuda] [--images 4096] [--size 224] [--batch 128]
        [--steps 20] [--repeats 5] [--precision bfloat16] [--tiny]

Annotation (ResNet-18, ViT-B/16) is `annotate_batches`: normalised, masked, and compressed to the
tables that are stored. Features (ViT-B/16) are `feature_blocks`, checked and in float16, in batches
of 64. A training step (ViT-B/16) is `train_network` with everything that it checks and reports. The
bare loops call the same networks, in the same precision and order of memory, and only copy the
images to the card, normalise them and discard what they compute; the bare step also has
cross-entropy, backward and the same optimizer. All read the same decoded images in memory (digits,
scaled), and alternate in one process; a ratio is that of median times. Ray is not needed.

`--device cpu --tiny` runs everything with small networks and images.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from cosup.losses import CrossEntropy, Objective
from cosup.models.backbone import load_backbone
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.compute import Compute, device_name
from cosup.models.extraction import BATCH, feature_blocks
from cosup.models.optimize import build_network_optimizer
from cosup.models.section import BackboneSection
from cosup.models.train import Batch, TrainContext, TrainModule, train_network
from cosup.models.training_section import TrainingSection
from cosup.teachers.annotate import annotate_batches
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.network import NetworkTeacher

CLASSES = 10
LARGE, TINY = ("resnet18", "vit_base_patch16_224"), ("test_resnet", "test_vit")
Loop = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """Two loops over the same images. bare: the baseline."""

    name: str
    images: int
    ours: Loop
    bare: Loop


def pinned(images: Tensor, compute: Compute) -> Tensor:
    """Return images in page-locked memory if the device reads them from there, as cosup does."""
    return images.pin_memory() if compute.pins else images


def digits(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return uint8 images [count, 3, size, size] and their labels."""
    found = load_digits()
    rows = np.arange(count) % len(found.target)
    scans = torch.from_numpy(found.images[rows]).float()[:, None] * (255 / 16)
    parts = [
        functional.interpolate(part, size=(size, size), mode="bilinear").to(torch.uint8)
        for part in scans.split(256)
    ]
    labels = torch.from_numpy(found.target[rows].astype(np.int64))
    return torch.cat(parts).expand(-1, 3, -1, -1).contiguous(), labels


class Bench:
    """Decoded images, and the cases that read them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.compute = Compute(torch.device(options.device), options.precision)
        self.images, self.labels = digits(options.images, options.size)

    def batches(self, size: int) -> list[Tensor]:
        """Return all images in batches."""
        return [pinned(part, self.compute) for part in self.images.split(size)]

    def network(self, name: str) -> Classifier:
        """Return a network on the device, in channels_last."""
        network = build_classifier(name, CLASSES, None, self.options.size)
        return network.to(self.compute.device).to(memory_format=torch.channels_last)

    def forward(self, call: Callable[[Tensor], Tensor], batches: list[Tensor]) -> None:
        """The bare loop: copy, normalise and call."""
        with torch.inference_mode(), self.compute.autocast():
            for batch in batches:
                call(batch.to(self.compute.device, non_blocking=True))

    def annotation(self, name: str) -> Case:
        """Return the case of annotation by one teacher."""
        network, batches = self.network(name), self.batches(self.options.batch)
        teacher = NetworkTeacher(TeacherSpec("all", 0), network, self.compute, 0)

        def ours() -> None:
            (table,) = annotate_batches([teacher], batches)
            assert len(table) == len(self.images)

        bare = self.network(name)
        return Case(
            f"annotation, {name}", len(self.images), ours, lambda: self.forward(bare, batches)
        )

    def features(self, name: str) -> Case:
        """Return the case of features."""
        section = BackboneSection(name=name, weights=None, image_size=self.options.size)
        backbone, batches = load_backbone(section, self.compute), self.batches(BATCH)
        bare = self.network(name)

        def ours() -> None:
            assert sum(map(len, feature_blocks(backbone, batches))) == len(self.images)

        return Case(
            f"features, {name}", len(self.images), ours, lambda: self.forward(bare.embed, batches)
        )

    def training(self, name: str) -> Case:
        """Return the case of a training step."""
        size, steps = self.options.batch, self.options.steps
        targets = functional.one_hot(self.labels, CLASSES).float().split(size)
        pairs = [
            (images, pinned(target, self.compute))
            for images, target in zip(self.batches(size), targets, strict=True)
            if len(images) == size
        ]
        setting = TrainingSection(steps=steps, batch_size=size, optimizer="adamw", lr=1e-4)
        mine, other = self.network(name), self.network(name)

        def batches(start: int) -> Iterator[Batch]:
            for step in range(start, steps):
                yield Batch(*pairs[step % len(pairs)])

        def ours() -> None:
            module, objective = TrainModule(mine.requires_grad_(True)), Objective(CrossEntropy())
            context = TrainContext(compute=self.compute)
            train_network(module, batches, objective, setting, steps, context, mine.pixels)

        def bare() -> None:
            optimizer = build_network_optimizer(other.train(), setting)
            for step in range(steps):
                images, wanted = (
                    tensor.to(self.compute.device, non_blocking=True)
                    for tensor in pairs[step % len(pairs)]
                )
                with self.compute.autocast():
                    logits = other(images)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(functional.cross_entropy(logits.float(), wanted))
                optimizer.step()

        return Case(f"training step, {name}", steps * size, ours, bare)

    def seconds(self, loop: Loop) -> float:
        """Time a loop, including the device's work."""
        wait = torch.cuda.synchronize if self.compute.device.type == "cuda" else lambda: None
        wait()
        start = time.perf_counter()
        loop()
        wait()
        return time.perf_counter() - start

    def compare(self, case: Case) -> None:
        """Print images per second of both loops, and their ratio."""
        self.seconds(case.bare)  # warm-up
        self.seconds(case.ours)
        times = [
            (self.seconds(case.bare), self.seconds(case.ours)) for _ in range(self.options.repeats)
        ]
        bare, ours = (
            case.images / statistics.median(column) for column in zip(*times, strict=True)
        )
        print(f"{case.name:40} {bare:12,.0f} {ours:12,.0f} {ours / bare:8.2f}", flush=True)


def main() -> None:
    """Print a line per case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default=None)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("there is no GPU here; --device cpu --tiny runs everything small")
    if options.tiny:
        small = {"images": 512, "size": 32, "batch": 64, "steps": 8, "repeats": 3}
        for name, value in small.items():
            setattr(options, name, min(value, getattr(options, name)))
    if options.precision is None:
        options.precision = "float32" if options.device == "cpu" else "bfloat16"
    bench = Bench(options)
    convolutional, transformer = TINY if options.tiny else LARGE
    print(
        f"{device_name(bench.compute.device)}, {options.precision}, {options.images} images of "
        f"{options.size} px, batch {options.batch}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'images per second':40} {'bare loop':>12} {'cosup':>12} {'ratio':>8}")
    bench.compare(bench.annotation(convolutional))
    bench.compare(bench.annotation(transformer))
    bench.compare(bench.features(transformer))
    bench.compare(bench.training(transformer))


if __name__ == "__main__":
    main()
