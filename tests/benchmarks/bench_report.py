"""Measure the time and the size of the report of a large run.

    python tests/benchmarks/bench_report.py [--samples 100000] [--test 20000] [--classes 100]

The run has 15 teachers in four levels, four rounds, seven controls, random annotations
(`tests/helpers/synthetic_run.py`) and thumbnails cut from photographs. In a process of its own it
is loaded, its tables are computed, and its page and tables are written. Seconds are of processor
time, which other work on the machine changes little. Target: at most 30 seconds, 2 GiB and 1 MB for
a million samples (`--samples 1000000`).
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
from helpers.synthetic_run import Shape, make_run
from PIL import Image
from sklearn.datasets import load_sample_images

from cosup.analysis import TABLES, load_run, tables
from cosup.analysis.figure import Unavailable
from cosup.report.page import write_report

CONTROLS = (
    "best_teacher",
    "mean_ensemble",
    "equal_budget_generalist",
    "self_training",
    "random_assignment",
    "oracle_assignment",
    "ceiling",
)


def main() -> None:
    """Write a synthetic run and its report, and print time and size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=100_000, help="of student_train")
    parser.add_argument("--test", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--each", action="store_true", help="print the time of each table")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.report:
        _report(options.report)
        return
    shape = Shape(
        classes=[f"class {number}" for number in range(options.classes)],
        levels=options.levels,
        train=options.samples,
        test=options.test,
        controls=CONTROLS,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = make_run(Path(folder) / "run", shape)
        _thumbnails(path)
        if options.each:
            _each(path)
        print(
            f"{options.samples:,} samples x {sum(options.levels)} teachers x {options.classes} "
            f"classes, {options.test:,} test samples"
        )
        done = subprocess.run(
            [sys.executable, __file__, "--report", str(path)], check=True, stdout=subprocess.PIPE
        )
        print(done.stdout.decode(), end="")


def _report(path: Path) -> None:
    """Write the report of a run, and print time and sizes."""
    start = time.process_time()
    page = write_report(load_run(path))
    print(
        f"read, tables, page: {time.process_time() - start:.1f} s (allowed: 30); the page has "
        f"{page.stat().st_size / 1e6:.2f} MB (allowed: 1); peak memory "
        f"{_peak():,.0f} MiB (allowed: 2,048)"
    )


def _peak() -> float:
    """Return the peak memory in MiB; the one of `resource` would be that of the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _thumbnails(path: Path) -> None:
    """Write pictures cut from two photographs."""
    draw, photos = np.random.default_rng(0), load_sample_images().images
    rows = []
    for name in tables(load_run(path))["examples"]["sample_id"].unique():
        content = io.BytesIO()
        top, left = draw.integers(photos[0].shape[0] - 192), draw.integers(448)
        part = photos[len(rows) % 2][top : top + 192, left : left + 192]
        Image.fromarray(part).resize((64, 64)).save(content, format="png")
        rows.append({"sample_id": name, "png": content.getvalue()})
    (path / "report").mkdir()
    pd.DataFrame(rows).to_parquet(path / "report" / "thumbnails.parquet", index=False)


def _each(path: Path) -> None:
    run = load_run(path)
    for name, make in TABLES.items():
        start = time.process_time()
        try:
            rows = len(make(run))
        except Unavailable:
            rows = 0
        print(f"{name:<20} {time.process_time() - start:6.2f} s  {rows:,} rows")


if __name__ == "__main__":
    main()
