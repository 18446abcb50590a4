"""Compare the peak memory of training, per sample of a batch, with a bare torch loop.

    python tests/benchmarks/bench_train_memory.py [--model cifar_resnet56] [--size 32]
        [--batches 32 64 128] [--device cpu]

Each batch size of each loop runs three steps in its own process. On a CPU the figure is the peak
resident memory (VmHWM) beyond that before the first step; on a GPU it is torch's own count. The
slope between the smallest and the largest batch is the memory per sample; the rest is weights,
gradients and the optimizer's state. Images are real (Fashion-MNIST).
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from bench_train_step import Bench

STEPS = 3


def main() -> None:
    """Print each peak, the memory per sample of both loops, and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="cifar_resnet56")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--child", choices=["bare", "ours"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(measure(options))
        return
    slopes = {}
    for loop in ("bare", "ours"):
        peaks = [child(options, loop, batch) for batch in options.batches]
        for batch, peak in zip(options.batches, peaks, strict=True):
            print(f"{options.model} at {options.size}, {loop}, batch {batch}: {peak:,.0f} MiB")
        slopes[loop] = (peaks[-1] - peaks[0]) / (options.batches[-1] - options.batches[0])
        print(f"{loop}: {slopes[loop]:.2f} MiB per sample", flush=True)
    print(f"ratio, train_network to the bare loop: {slopes['ours'] / slopes['bare']:.3f}")


def child(options: argparse.Namespace, loop: str, batch: int) -> float:
    """Return the peak in MiB, measured in a new process."""
    command = [sys.executable, __file__, "--child", loop, "--batches", str(batch)]
    for name in ("model", "size", "optimizer", "device", "precision"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def measure(options: argparse.Namespace) -> float:
    """Return the peak MiB of three steps, beyond the memory used before."""
    options.batch, options.steps = options.batches[0], STEPS
    bench = Bench(options)
    model = bench.model()
    loop = bench.ours if options.child == "ours" else bench.bare
    if bench.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        loop(model)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = status("VmRSS")
    loop(model)
    return (status("VmHWM") - before) / 1024


def status(name: str) -> int:
    """Return a field of this process's status in KiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
