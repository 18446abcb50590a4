"""Measure the memory of sharded runs over the number of images, and kill and resume one.

    python tests/benchmarks/bench_sharded.py FOLDER [--rows 100000 300000 1000000] [--kill SECONDS]

Writes manifests whose rows name the 1,797 digits of scikit-learn many times, 1,200 of them with a
label, and runs `cosup run` on each in a process of its own: features of a small network, heads on
them as teachers, Dawid-Skene, two rounds. Prints the peak memory and the seconds of each. --kill:
kill the run of the first manifest after so many seconds, resume it, and compare the summaries.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.digits_manifest import write_digits, write_manifest
from sklearn.datasets import load_digits

LABELLED = 1200
BACKBONE = {"name": "test_resnet", "weights": None, "image_size": 32}


def config_of(folder: Path, rows: int, name: str) -> dict[str, Any]:
    training = {"steps": 60, "batch_size": 64}
    return {
        "run": {"name": name, "output": str(folder / "runs"), "loggers": []},
        "data": {
            "source": "manifest",
            "path": str(folder / f"rows-{rows}"),
            "sharded": True,
            "check": "none",
        },
        "teachers": {
            "hierarchy": {"by": "class", "levels": [1, 2]},
            "model": {"name": "linear_features", "backbone": BACKBONE},
            "training": training,
        },
        "student": {"backbone": BACKBONE, "training": {**training, "lr": 0.01}},
        "rounds": {"assignment": "dawid_skene"},
        "execution": {
            "shard_size": 20_000,
            "batch_size": 256,
            "device": "cpu",
            "threads": 1,
            "workers": 1,
        },
        "controls": [],
    }


def start(folder: Path, rows: int, name: str, *flags: str) -> "subprocess.Popen[bytes]":
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config_of(folder, rows, name)))  # JSON is YAML
    command = [sys.executable, "-m", "cosup", "run", str(path), *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def summary_of(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / name / "summary.json").read_text())
    return found


def numbers_of(summary: dict[str, Any]) -> dict[str, Any]:
    left_out = ("run", "config_hash", "seconds", "peak_rss_mb")
    return {key: value for key, value in summary.items() if key not in left_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--kill", type=float)
    given = parser.parse_args()
    folder = given.folder.resolve()
    if not (folder / "images").exists():
        write_digits(folder / "images")
    labels = load_digits().target
    for rows in given.rows:
        write_manifest(folder / f"rows-{rows}", labels, rows, LABELLED, files=2)
        started, name = time.monotonic(), f"whole-{rows}"
        assert start(folder, rows, name, "--overwrite").wait() == 0
        seconds, summary = time.monotonic() - started, summary_of(folder, name)
        shards = summary["data"]["shards"]
        peak = summary["peak_rss_mb"]
        print(f"{rows:>9,} rows, {shards:>3} shards: peak {peak:,.0f} MiB, {seconds:.0f} s")
    if given.kill is not None:
        rows = given.rows[0]
        process = start(folder, rows, "cut", "--overwrite")
        time.sleep(given.kill)
        process.kill()
        print(f"killed after {given.kill:g} s: exit status {process.wait()}")
        assert start(folder, rows, "cut", "--resume").wait() == 0
        whole, cut = (summary_of(folder, name) for name in (f"whole-{rows}", "cut"))
        print("resumed with equal numbers:", numbers_of(whole) == numbers_of(cut))


if __name__ == "__main__":
    main()
