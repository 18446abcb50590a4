"""Measure the memory of dividing annotation tables among shards, over the number of answers.

    python tests/benchmarks/bench_tables.py FOLDER [--answers 100000 1000000 3000000 10000000]
        [--form csv parquet] [--per-image 5] [--group-rows N]

Writes a manifest and a table in which so many annotators answer each image, in a random order;
--group-rows: rows of a row group of both, by default all in one. The ids are paths; the images are
not read. Each table is divided in a process of its own, as a run with `data.sharded` does it: it
prints the peak memory (`VmHWM`), that before and after the manifest was opened, the most that
Arrow had allocated at one of many looks, and the seconds.
"""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

LABELLED, CLASSES, SHARD = 1200, 10, 20_000
LOOK_SECONDS = 0.05


def write(folder: Path, images: int, form: str, per_image: int, group_rows: int) -> None:
    """Write the manifest and the table."""
    numbers = np.arange(images)
    ids = pa.array([f"images/{n // 1000:05d}/sample-{n:09d}.png" for n in numbers])
    listed, splits = numbers < LABELLED, np.array(["validation", "test"])[numbers % 2]
    labels = np.where(listed, (numbers % CLASSES).astype(str), None)
    manifest = {
        "id": ids,
        "uri": ids,
        "label": pa.array(labels, pa.string()),
        "split": np.where(listed, splits, "student_train").astype(str),
    }
    parquet.write_table(pa.table(manifest), folder / "rows.parquet", row_group_size=group_rows)
    count, generator = per_image * images, np.random.default_rng(0)
    order = generator.permutation(count)
    answers = {
        "task": ids.take(pa.array(order % images)),
        "worker": pa.array(order // images),
        "label": pa.array(generator.integers(0, CLASSES, count)),
    }
    if form == "csv":
        csv.write_csv(pa.table(answers), folder / "answers.csv")
    else:
        table = pa.table(answers)
        parquet.write_table(table, folder / "answers.parquet", row_group_size=group_rows)


def divide(folder: Path, form: str) -> None:
    """Divide the table, and print what it took."""
    import torch

    from cosup.config.schema import Config
    from cosup.models.compute import Compute
    from cosup.runs.sharded_samples import plan_teachers
    from cosup.sharded.image_work import annotation_product
    from cosup.sharded.opening import open_shards
    from cosup.sharded.store import ShardStore
    from cosup.sharded.work import Samples
    from cosup.teachers.base import Training
    from cosup.teachers.features import FeatureCache
    from cosup.teachers.table import TableTeacher

    torch.set_num_threads(1)
    settings = {
        "data": {"source": "manifest", "path": str(folder / "rows.parquet"), "sharded": True},
        "teachers": {
            "hierarchy": None,
            "external": [{"annotations": str(folder / f"answers.{form}")}],
        },
        "student": {"backbone": {"name": "test_resnet", "weights": None, "image_size": 32}},
    }
    config = Config.model_validate(settings)
    watch, before, start = ArrowWatch(), peak(), time.monotonic()
    watch.start()
    unread = config.data.model_copy(update={"check": "none"})
    data, shards = open_shards(unread, 0, SHARD, teacher_train=False)
    opened = peak()
    hierarchy, tables = plan_teachers(config, data, shards)
    tables.read_all()
    training = Training(config.teachers, data, 0, FeatureCache(Compute()), tables=tables.read)
    teachers = [TableTeacher.of(spec, training) for spec in hierarchy[0]]
    samples = Samples(shards.reader, ShardStore(str(folder / "store")))
    products = {one.name: annotation_product(one, samples) for one in teachers}
    tables.write(teachers, products, samples)
    tables.close()
    counts = teachers[0].counts
    assert counts is not None
    assert counts.matched == counts.rows == len(data) + shards.samples
    seconds = time.monotonic() - start
    print(
        f"peak {peak():,.0f} MiB ({opened:,.0f} once the manifest was open, {before:,.0f} before), "
        f"at most {watch.most / 2**20:,.0f} MiB of Arrow's, {seconds:.0f} s"
    )


class ArrowWatch(threading.Thread):
    """Remembers the most bytes that Arrow had allocated."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        while True:
            self.most = max(self.most, pa.total_allocated_bytes())
            time.sleep(LOOK_SECONDS)


def peak() -> float:
    """Return the peak memory of this program in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    sizes = [100_000, 1_000_000, 3_000_000, 10_000_000]
    parser.add_argument("--answers", type=int, nargs="+", default=sizes)
    parser.add_argument("--form", nargs="+", default=["csv"], choices=["csv", "parquet"])
    parser.add_argument("--per-image", type=int, default=5)
    parser.add_argument("--group-rows", type=int)
    parser.add_argument("--step", choices=["write", "divide"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        (answers,), (form,) = given.answers, given.form
        images = answers // given.per_image
        if given.step == "write":
            whole = given.group_rows or answers
            write(given.folder, images, form, given.per_image, whole)
        else:
            divide(given.folder, form)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    options = sys.argv[sys.argv.index(str(given.folder)) + 1 :]
    for form in given.form:
        for answers in given.answers:
            with TemporaryDirectory(dir=given.folder) as folder:
                own = [*options, "--answers", str(answers), "--form", form]
                images = answers // given.per_image
                print(f"{form}, {answers:,} answers, {images:,} images: ", end="", flush=True)
                for step in ("write", "divide"):
                    command = [sys.executable, __file__, folder, *own, "--step", step]
                    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
