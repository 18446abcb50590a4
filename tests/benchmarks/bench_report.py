"""Measure the time and the size of the report of a large run.

    python tests/benchmarks/bench_report.py [--samples 100000] [--test 20000] [--classes 100]

The run has 15 teachers in four levels, four rounds, seven controls, random annotations
(`tests/helpers/synthetic_run.py`) and thumbnails of noise. It is loaded, its tables are computed,
and its page and tables are written. Target: at most 20 seconds and 5 MB.
"""

import argparse
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
from helpers.synthetic_run import Shape, make_run
from PIL import Image

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
    options = parser.parse_args()
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
        start = time.perf_counter()
        run = load_run(path)
        opened = time.perf_counter() - start
        found = tables(run)
        computed = time.perf_counter() - start
        page = write_report(load_run(path))
        total = time.perf_counter() - start - computed
        rows = sum(len(table) for table in found.values())
        print(
            f"{options.samples:,} samples x {sum(options.levels)} teachers x {options.classes} "
            f"classes, {options.test:,} test samples: opened in {1000 * opened:.1f} ms; "
            f"{len(found)} tables of {rows:,} rows in {computed:.1f} s"
        )
        print(
            f"read, tables, page: {total:.1f} s (allowed: 20); the page has "
            f"{page.stat().st_size / 1e6:.2f} MB (allowed: 5); peak memory "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB"
        )


def _thumbnails(path: Path) -> None:
    """Write pictures of noise, which cannot be compressed."""
    draw = np.random.default_rng(0)
    rows = []
    for name in tables(load_run(path))["examples"]["sample_id"].unique():
        content = io.BytesIO()
        pixels = draw.integers(256, size=(64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(content, format="png")
        rows.append({"sample_id": name, "png": content.getvalue()})
    (path / "report").mkdir()
    pd.DataFrame(rows).to_parquet(path / "report" / "thumbnails.parquet", index=False)


def _each(path: Path) -> None:
    run = load_run(path)
    for name, make in TABLES.items():
        start = time.perf_counter()
        try:
            rows = len(make(run))
        except Unavailable:
            rows = 0
        print(f"{name:<20} {time.perf_counter() - start:6.2f} s  {rows:,} rows")


if __name__ == "__main__":
    main()
