"""Compare annotating by Ray actors with the local backend, on the same cores.

    apt-get install dataset-fashion-mnist
    python tests/benchmarks/bench_cluster.py [--images 20000] [--teachers 4] [--actors 2]
        [--model cifar_resnet8] [--size 32] [--threads 1] [--repeats 3]

Images are real (Fashion-MNIST); the teachers are specialists of one level, trained for a few
steps. Both sides fill a new annotation store, alternating in one process; the ratio is that of
median times. Target: at most 1.15 after the actors have started; their start is timed separately.
Then the peak use of the object store is measured with a tenth of the images and with all of them.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import ray
import torch
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from cosup.cluster.actor import Setup
from cosup.cluster.pool import Limits, Pool
from cosup.cluster.room import Allocation
from cosup.cluster.session import connected
from cosup.cluster.teachers import annotate_with_pool
from cosup.config.schema import Config, ExecutionSection
from cosup.data.load import load_data
from cosup.runs.prepare import make_compute
from cosup.teachers.annotate import annotate, open_store
from cosup.teachers.base import Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import plan_hierarchy
from cosup.teachers.train import train_level

SHARD = 1024
MIB = 2**20


def config_of(options: argparse.Namespace, folder: str, images: int) -> Config:
    """Return a config in which nearly all images belong to splits that teachers annotate."""
    return Config.model_validate(
        {
            "run": {"output": folder},
            "data": {
                "source": "idx",
                "root": "/usr/share/datasets/fashion-mnist",
                "splits": {"teacher_train": 0.02, "student_train": 0.78, "test": 0.2},
                "limit": round(images / 0.98),
            },
            "teachers": {
                "hierarchy": {"by": "class", "levels": [options.teachers]},
                "model": {"name": options.model, "image_size": options.size},
                "training": {"steps": 5, "batch_size": 32},
            },
            "student": {"backbone": {"name": "test_resnet", "weights": None}},
            "execution": {"threads": options.threads, "shard_size": SHARD, "device": "cpu"},
        }
    )


class Bench:
    """Data and teachers for a number of images, and both ways to annotate them."""

    def __init__(self, options: argparse.Namespace, folder: str, images: int) -> None:
        self.folder = Path(folder)
        self.config = config_of(options, folder, images)
        self.compute = make_compute(self.config.run, self.config.execution)
        self.data = load_data(self.config.data, 0, self.compute.workers, None)
        (specs,) = plan_hierarchy(
            self.config.teachers, self.data.classes, self.data.domains, self.config.run.seed
        )
        features = FeatureCache(self.compute)
        self.teachers = train_level(specs, Training(self.config.teachers, self.data, 0, features))
        self.stores = 0

    def setup(self) -> Setup:
        """Return what the actors are started with."""
        known, cwd, threads = self.data.known(), os.getcwd(), torch.get_num_threads()
        return Setup(self.config, known, cwd, "cpu", self.compute.precision, threads)

    def seconds(self, pool: Pool | None) -> float:
        """Time filling a new store, by this process (pool is None) or by actors."""
        self.stores += 1
        store = open_store(self.folder / f"store-{self.stores}", self.data, SHARD)
        start = time.perf_counter()
        if pool is None:
            annotate(self.teachers, self.data, store, self.compute)
        else:
            given = (self.teachers, self.data, store, self.compute)
            annotate_with_pool(lambda: pool, *given)
        return time.perf_counter() - start


def pool_of(bench: Bench, actors: int) -> Pool:
    """Return a pool of actors with one CPU each."""
    limits = Limits(tries=1, timeout=600, wait=60)
    return Pool(bench.setup(), Allocation(actors, 1, 0), limits, "teachers")


@contextmanager
def peak_store() -> Iterator[list[int]]:
    """Yield a list whose only entry is the peak number of bytes in the object store."""
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            stats = get_memory_info_reply(state).store_stats
            peak[0] = max(peak[0], stats.object_store_bytes_used)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def main() -> None:
    """Print the ratio of times, the start-up time, and the peaks of the object store."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--teachers", type=int, default=4)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--model", default="cifar_resnet8")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, connected(ExecutionSection()):
        bench = Bench(options, folder, options.images)
        with pool_of(bench, options.actors) as pool:
            first = bench.seconds(pool)  # includes starting the actors
            pairs = [(bench.seconds(None), bench.seconds(pool)) for _ in range(options.repeats)]
        local, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        images = options.images
        print(
            f"{images} images, {options.teachers} teachers ({options.model}, {options.size} px), "
            f"{options.actors} actors, {options.threads} torch threads each: local "
            f"{images / local:.0f} images/s, actors {images / ours:.0f} images/s, time ratio "
            f"{ours / local:.3f} (target: at most 1.15); start-up {first - ours:.1f} s"
        )
        for count in (images // 10, images):
            small = Bench(options, folder, count)
            with pool_of(small, options.actors) as pool, peak_store() as peak:
                small.seconds(pool)
            print(f"{count} images: object store at most {peak[0] / MIB:.2f} MiB")


if __name__ == "__main__":
    main()
