"""Compare images per second of the training loop with a bare torch loop of the same model.

    python tests/benchmarks/bench_train_step.py [--model cifar_resnet20] [--size 32] [--batch 64]
        [--steps 20] [--repeats 5] [--device cpu] [--precision float32] [--peak TFLOPS]

cosup's side is all of `train_network`: the loop, per-sample weights, schedule and checks. The bare
loop has only forward, cross-entropy, backward and the same optimizer, on the same decoded uint8
batches of real Fashion-MNIST images (scaled to the input, not augmented). Both alternate in one
process; the ratio is that of median times. Target: at least 0.95. With `--peak`, the GPU's peak
dense TFLOP/s, the share of it that cosup reaches is printed.

On a GPU: `--device cuda --precision bfloat16 --model vit_base_patch16_224 --size 224 --batch 128
--peak 989` (an H100's limit in bf16).
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cosup.data.sources.idx import read_idx
from cosup.losses import CrossEntropy, Objective
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.compute import Compute
from cosup.models.optimize import build_network_optimizer
from cosup.models.train import Batch, TrainContext, TrainModule, train_network
from cosup.models.training_section import TrainingSection

FASHION = Path("/usr/share/datasets/fashion-mnist")


def images(count: int, size: int) -> tuple[str, Tensor, Tensor]:
    """Return the data set's name, `count` uint8 images [count, 3, size, size], and labels."""
    if FASHION.exists():
        name = "Fashion-MNIST"
        grey = read_idx(FASHION / "train-images-idx3-ubyte.gz", 3)
        labels = read_idx(FASHION / "train-labels-idx1-ubyte.gz", 1)
    else:
        name, digits = "digits", load_digits()
        grey, labels = (digits.images * 15).astype(np.uint8), digits.target
    rows = np.arange(count) % len(labels)
    parts = []
    for chunk in torch.split(torch.from_numpy(grey[rows]), 256):
        large = functional.interpolate(chunk[:, None].float(), size=size, mode="bilinear")
        parts.append(large.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous())
    return name, torch.cat(parts), torch.from_numpy(labels[rows].astype(np.int64))


class Bench:
    """The same batches for both loops; each loop continues to train its own model."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.name, pixels, labels = images(options.batch * 4, options.size)
        targets = functional.one_hot(labels, 10).float()
        self.batches = list(
            zip(torch.split(pixels, options.batch), torch.split(targets, options.batch),
                strict=True)
        )  # fmt: skip
        self.setting = TrainingSection(
            steps=options.steps, batch_size=options.batch, optimizer=options.optimizer, lr=1e-3
        )

    def model(self) -> Classifier:
        """Return a new network on the device, in cosup's memory format."""
        model = build_classifier(self.options.model, 10, None, self.options.size)
        return model.to(self.device).to(memory_format=torch.channels_last)

    def ours(self, classifier: Classifier) -> None:
        """Take `steps` steps with `train_network`."""

        def batches(start: int) -> Iterator[Batch]:
            for step in range(start, self.options.steps):
                yield Batch(*self.batches[step % len(self.batches)])

        context = TrainContext(compute=Compute(self.device, self.options.precision))
        train_network(
            TrainModule(classifier.requires_grad_(True)),
            batches,
            Objective(CrossEntropy()),
            self.setting,
            self.options.steps,
            context,
            classifier.pixels,
        )

    def bare(self, classifier: Classifier) -> None:
        """Take `steps` steps with the bare loop."""
        optimizer = build_network_optimizer(classifier.train(), self.setting)
        compute = Compute(self.device, self.options.precision)
        for step in range(self.options.steps):
            pixels, targets = self.batches[step % len(self.batches)]
            pixels = pixels.to(self.device, non_blocking=True)
            targets = targets.to(self.device, non_blocking=True)
            with compute.autocast():
                logits = classifier(pixels)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(functional.cross_entropy(logits.float(), targets))
            optimizer.step()

    def timed(self, loop: Callable[[Classifier], None], classifier: Classifier) -> float:
        """Time a loop in seconds, including the device's work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        loop(classifier)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def flops(self) -> int:
        """Return the FLOPs of forward and backward of one image (a multiply-add counts two)."""
        classifier = build_classifier(self.options.model, 10, None, self.options.size)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.backward(classifier(self.batches[0][0][:1]).sum())
        return int(counter.get_total_flops())


def main() -> None:
    """Print images per second of both loops and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="cifar_resnet20")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--peak", type=float, default=None)
    options = parser.parse_args()
    bench = Bench(options)
    mine, other = bench.model(), bench.model()
    bench.timed(bench.bare, other)  # warm-up
    bench.timed(bench.ours, mine)
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(options.repeats):
        times["bare"].append(bench.timed(bench.bare, other))
        times["ours"].append(bench.timed(bench.ours, mine))
    count = options.steps * options.batch
    bare, ours = (count / statistics.median(times[name]) for name in ("bare", "ours"))
    print(
        f"{options.model} at {options.size}, batch {options.batch}, {options.optimizer}, "
        f"{options.precision} on {options.device}, {bench.name}, {torch.get_num_threads()} "
        f"threads: bare loop {bare:,.1f} images/s, train_network {ours:,.1f} images/s; ratio "
        f"{ours / bare:.3f} (target: at least 0.95)"
    )
    if options.peak is not None:
        reached = bench.flops() * ours / 1e12
        print(
            f"{reached:,.1f} TFLOP/s of {options.peak:,.0f}: {reached / options.peak:.0%} of the "
            "arithmetic limit"
        )


if __name__ == "__main__":
    main()
