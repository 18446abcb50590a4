"""Measure the peak memory of storing, assigning and filtering annotations.

    python tests/benchmarks/bench_memory.py [--samples 100000 200000] [--assigner agreement]

There are 15 teachers and 1,000 classes. Each size runs in its own process; its peak resident
memory is compared with that of the same process right after importing torch and cosup. The
annotations are random, and all shards of a teacher are equal: memory does not depend on their
values.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cosup.assigning import assign
from cosup.config.schema import RoundsSection
from cosup.evidence import Truth
from cosup.levels import Level, Stream
from cosup.losses import Objective
from cosup.probabilities import ProbTable
from cosup.protocols import Student
from cosup.runs.stages import round_recipe
from cosup.teachers.hierarchy import TeacherSpec, scopes
from cosup.teachers.store import AnnotationStore

TEACHERS, CLASSES, SHARD = 15, 1000, 4096
FILTERS = [{"name": "teacher_student"}, {"name": "confidence", "threshold": 0.001}]


@dataclass(frozen=True)
class Teacher:
    """The attributes of a teacher that the store needs."""

    name: str
    identity: str = "random"
    reads: str = "nothing"

    @property
    def support(self) -> Tensor:
        """Return all classes."""
        return torch.ones(CLASSES, dtype=torch.bool)


def main() -> None:
    """Run every size and print peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[100_000, 200_000])
    parser.add_argument("--assigner", default="agreement")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(measure(options.samples[0], options.assigner))
        return
    peaks = []
    for samples in options.samples:
        command = [
            sys.executable,
            __file__,
            "--child",
            "--samples",
            str(samples),
            "--assigner",
            options.assigner,
        ]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks.append(float(done.stdout.split()[-1]))
        print(
            f"{samples:>8,} samples x {TEACHERS} teachers x {CLASSES:,} classes, "
            f"{options.assigner}: peak {peaks[-1]:,.0f} MiB beyond the imports "
            f"({time.perf_counter() - start:.0f} s)"
        )
    if len(peaks) > 1:
        print(f"ratio of the peaks: {peaks[-1] / peaks[0]:.2f} (allowed: at most 1.2)")
    print(f"largest: {max(peaks) / 1024:.2f} GiB (allowed: under 2)")


def measure(samples: int, assigner: str) -> float:
    """Return the peak MiB, beyond the imports, of storing, assigning and filtering once."""
    before = _peak()
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        store = AnnotationStore(Path(folder), "random", CLASSES, {"student_train": samples}, SHARD)
        names = [f"teacher_{t}" for t in range(TEACHERS)]
        for name in names:
            whole = _random(SHARD, generator)
            for shard in range(store.shards("student_train")):
                rows = store.rows("student_train", shard)
                table = whole.take(slice(rows.stop - rows.start))
                store.write("student_train", Teacher(name), shard, table)
        whole = _random(SHARD, generator)
        sizes = [min(SHARD, samples - start) for start in range(0, samples, SHARD)]
        student = ProbTable.concat(whole.take(slice(size)) for size in sizes)
        level_scopes = scopes([TeacherSpec(name, 0) for name in names], CLASSES, 1)
        level = Level(0, level_scopes, store.level("student_train", names))
        truth = Truth(student.top()[0], torch.zeros(samples, dtype=torch.int64))
        section = RoundsSection.model_validate(
            {"assignment": assigner, "consistency": FILTERS, "min_kept": 0.0}
        )
        recipe = round_recipe(section, _no_student)
        stream = Stream(level, student, None, truth)
        assigned = assign(recipe.assigner, stream, seed=0)
        recipe.filters.run(stream.restricted(recipe.filters.needs), assigned)
    return _peak() - before


def _no_student(objective: Objective, seed: int) -> Student:
    raise AssertionError("neither filter trains a student")


def _random(count: int, generator: torch.Generator) -> ProbTable:
    logits = torch.randn(count, CLASSES, generator=generator) * 3
    return ProbTable.compress(logits.softmax(1))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
