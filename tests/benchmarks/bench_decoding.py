"""Compare ways to do the image work of a sharded run on one node: annotations and features.

    python tests/benchmarks/bench_decoding.py FOLDER [--rows 5000 20000] [--pixels 8 224]
        [--repeats 2]

Writes manifests whose rows name the digits of scikit-learn many times, as PNG files enlarged to
`--pixels`. Two small networks annotate, and a third gives features: by this process (local), by a
pool of actors that decode (`execution.decode: actors`) and by Ray Data (`apart`), in turn in one
process, on the same cores. Prints seconds, and seconds of processors, per 1,000 images in the
steady state (from the difference between the two numbers of rows), and for the start (what is left
of the time of the fewer rows), with the actors of the pool cold and warm; Ray Data always starts
its own. Processor time, that of all processes of Ray included, is the one to read where other work
is on the machine. Then each runs once more, untimed, while `ray memory` is asked for the bytes in
the object store, every few seconds.
"""

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_worker_niceness", "0")  # as this process has
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import psutil
import torch
from helpers.digits_manifest import write_digits, write_manifest
from PIL import Image

from cosup.cluster.session import connected
from cosup.config.schema import Config, ExecutionSection
from cosup.runs.prepare import make_compute
from cosup.sharded.image_work import Restoring, annotation_works, extract_work
from cosup.sharded.opening import open_shards
from cosup.sharded.store import ShardStore
from cosup.sharded.work import Executor, LocalExecutor, Samples, Work
from cosup.teachers.base import Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import plan_hierarchy
from cosup.teachers.train import train_level

LABELLED, SHARD = 400, 500
NETWORK = {"name": "cifar_resnet8", "image_size": 32}
BACKBONE = {"name": "cifar_resnet8", "weights": None, "image_size": 32}


def config_of(folder: Path, decode: str) -> Config:
    return Config.model_validate(
        {
            "data": {"source": "manifest", "path": str(folder), "sharded": True, "check": "none"},
            "teachers": {
                "hierarchy": {"by": "class", "levels": [2]},
                "model": NETWORK,
                "training": {"steps": 5, "batch_size": 32},
            },
            "student": {"backbone": BACKBONE},
            "rounds": {"assignment": "dawid_skene"},
            "execution": {
                "backend": "local" if decode == "local" else "ray",
                "decode": "auto" if decode == "local" else decode,
                "device": "cpu",
                "shard_size": SHARD,
            },
        }
    )


class Bench:
    """The image work of a manifest, done in one of the ways."""

    def __init__(self, folder: Path, manifest: Path, way: str) -> None:
        from cosup.cluster.backend import RayBackend
        from cosup.cluster.storage import RunStorage

        self.folder, self.stores = folder / "stores", 0
        self.config = config = config_of(manifest, way)
        self.compute = make_compute(config.run, config.execution)
        self.data, self.shards = open_shards(config.data, 0, SHARD)
        self.features = FeatureCache(self.compute)
        self.backend = None
        if way != "local":
            self.backend = RayBackend(config.execution, RunStorage.of(str(folder)), sharded=True)
            self.features = self.backend.begin(config, self.data, self.features)
        teachers = config.teachers
        (specs,) = plan_hierarchy(teachers, self.data.classes, self.data.domains, 0)
        self.teachers = train_level(specs, Training(teachers, self.data, 0, self.features))

    def seconds(self, repeats: int = 1) -> "Times":
        """Return the seconds, and those of processors, of each repeat [repeats, 2], annotations and
        features together.

        A kind of work is repeated before the next one is done, as the pool keeps one kind of
        actors: from the second repeat on they are warm.
        """
        taken, executor = np.zeros((repeats, 2)), self._executor()
        for kind in range(2):
            for repeat in range(repeats):
                work, watch = self._works()[kind], ProcessorWatch()
                started = time.perf_counter()
                done = list(executor.run(work, self.shards.shards))
                taken[repeat] += time.perf_counter() - started, watch.seconds()
                assert len(done) == len(self.shards)
        self.close()
        return taken

    def close(self) -> None:
        if self.backend is not None:
            self.backend.close()

    def _executor(self) -> Executor:
        if self.backend is None:
            return LocalExecutor(self.compute)
        return self.backend.executor(self.shards.reader, self.compute)

    def _works(self) -> Sequence[Work[Any]]:
        """Return the two works, which write to a new store."""
        self.stores += 1
        reader, device = self.shards.reader, torch.device("cpu")
        samples = Samples(reader, ShardStore(str(self.folder / f"{id(self)}-{self.stores}")))
        restoring = Restoring(self.config.teachers, 0, reader.blank())
        (annotate,) = annotation_works(self.teachers, samples, restoring, self.compute)
        return annotate, extract_work(self.config.student.backbone, samples, self.features, device)


Times = np.ndarray[Any, np.dtype[np.float64]]


class ProcessorWatch(threading.Thread):
    """Adds up the processor time of this process and all below it, also of those that end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over, self.latest = threading.Event(), dict[int, float]()
        self._look()
        self.first = dict(self.latest)
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.2):
            self._look()

    def seconds(self) -> float:
        self.over.set()
        self.join()
        self._look()
        return sum(self.latest.values()) - sum(self.first.values())

    def _look(self) -> None:
        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:  # it has ended
                continue
            self.latest[process.pid] = times.user + times.system


class StoreWatch(threading.Thread):
    """Remembers the most that the object store held, in MiB."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.command = ["ray", "memory", "--stats-only", f"--address={address}"]
        self.most, self.looks, self.over = 0, 0, threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            said = subprocess.run(self.command, capture_output=True, text=True, check=False)
            found = re.search(r"Plasma memory usage (\d+) MiB", said.stdout)
            self.looks += found is not None
            self.most = max(self.most, int(found[1]) if found else 0)


def manifests(folder: Path, pixels: int, rows: Sequence[int]) -> list[Path]:
    """Write the images enlarged to so many pixels, and a manifest for each number of rows."""
    place = folder / f"{pixels}-px"
    labels = write_digits(place / "images")
    for path in (place / "images").iterdir():
        with Image.open(path) as image:
            enlarged = image.resize((pixels, pixels), Image.Resampling.BICUBIC)
        enlarged.save(path)
    unlabelled = [count + LABELLED for count in rows]
    return [write_manifest(place / f"rows-{n}", labels, n, LABELLED, files=2) for n in unlabelled]


def report(pixels: int, rows: Sequence[int], times: dict[str, Times]) -> None:
    """Print the steady state and the start of each way.

    times: by way, [numbers of rows, cold and warm, seconds and those of processors].
    """
    few, many = rows
    steady = {way: (found[1, -1] - found[0, -1]) / (many - few) for way, found in times.items()}
    for way, found in times.items():
        for place, unit in enumerate(("s", "s of processors")):
            cold, warm = found[:, 0, place], found[:, -1, place]
            each, local = steady[way][place], steady["local"][place]
            print(
                f"{pixels} px, {way}: {few:,} images {cold[0]:.1f} {unit}, warm {warm[0]:.1f}; "
                f"{many:,} images {cold[1]:.1f}, warm {warm[1]:.1f}; per 1,000 images in the "
                f"steady state {1000 * each:.2f}, {each / local:.2f} of local; start "
                f"{cold[0] - each * few:.1f}, warm {warm[0] - each * few:.1f}",
                flush=True,
            )


def measure(folder: Path, pixels: int, rows: Sequence[int], repeats: int) -> None:
    """Time each way on the same images, and look into the object store meanwhile."""
    import ray

    ways, paths = ("local", "actors", "apart"), manifests(folder, pixels, rows)
    found: dict[str, list[list[Times]]] = {way: [[], []] for way in ways}
    for _ in range(repeats):
        for size, path in enumerate(paths):
            for way in ways:
                found[way][size].append(Bench(folder, path, way).seconds(2))
    report(pixels, rows, {way: np.median(sizes, axis=1) for way, sizes in found.items()})
    for way in ways[1:]:
        watch = StoreWatch(ray.get_runtime_context().gcs_address)
        watch.start()
        Bench(folder, paths[-1], way).seconds()
        watch.over.set()
        watch.join()
        print(f"{pixels} px, {way}: at most {watch.most} MiB in the object store ", end="")
        print(f"({watch.looks} looks)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs=2, default=[5_000, 20_000])
    parser.add_argument("--pixels", type=int, nargs="+", default=[8, 224])
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    with connected(ExecutionSection(backend="ray")):
        for pixels in given.pixels:
            measure(given.folder.resolve(), pixels, given.rows, given.repeats)


if __name__ == "__main__":
    main()
