"""Measure the memory of sharded runs over the number of images, and kill and resume one.

    python tests/benchmarks/bench_sharded.py FOLDER [--rows 100000 300000 1000000]
        [--kill SECONDS ...] [--nodes 2 [--decode actors apart]] [--assigner fused] [--rank]

Writes manifests whose rows name the 1,797 digits of scikit-learn many times, 1,200 of them with a
label, and runs `cosup run` on each in a process of its own: features of a small network, heads on
them as teachers, Dawid-Skene, two rounds. Prints the peak memory and the seconds of each. --kill:
kill the run of the first manifest after so many seconds, resume it (and kill it again for each
further number), and compare the summaries.
--nodes: run on a Ray cluster of so many nodes of one CPU each on this machine, for each way of
decoding, and print the most bytes that its object stores held (`ray memory`, every ten seconds).
--assigner: instead of Dawid-Skene. --rank: with a filter that ranks all samples.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))

from helpers.digits_manifest import write_digits, write_manifest
from sklearn.datasets import load_digits

LABELLED = 1200
BACKBONE = {"name": "test_resnet", "weights": None, "image_size": 32}
LOOK_SECONDS = 10.0


RANKED = {"name": "teacher_student", "mode": "rank", "k": 1}


def rounds_of(assigner: str, rank: bool) -> dict[str, Any]:
    """Return the settings of two rounds: one per level, or two of all levels at once."""
    repeat = 2 if assigner == "fused" else 1
    return {"assignment": assigner, "repeat": repeat, "consistency": [RANKED] if rank else []}


def config_of(
    folder: Path, rows: int, name: str, rounds: dict[str, Any], execution: dict[str, Any]
) -> dict[str, Any]:
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
        "rounds": rounds,
        "execution": {
            "shard_size": 20_000,
            "batch_size": 256,
            "device": "cpu",
            "threads": 1,
            "workers": 1,
            **execution,
        },
        "controls": [],
    }


def start(
    folder: Path,
    rows: int,
    name: str,
    rounds: dict[str, Any],
    execution: dict[str, Any],
    *flags: str,
) -> "subprocess.Popen[bytes]":
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config_of(folder, rows, name, rounds, execution)))  # JSON is YAML
    command = [sys.executable, "-m", "cosup", "run", str(path), *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def summary_of(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / name / "summary.json").read_text())
    return found


def numbers_of(summary: dict[str, Any]) -> dict[str, Any]:
    left_out = ("run", "config_hash", "seconds", "peak_rss_mb")
    return {key: value for key, value in summary.items() if key not in left_out}


@contextmanager
def cluster_of(count: int) -> Iterator[dict[str, Any]]:
    """Yield the settings that run on a cluster of so many nodes; of none for 0."""
    if not count:
        yield {}
        return
    from cluster_helpers import free_port, node_settings
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="cosup-ray-"))
    os.environ |= {"RAY_TMPDIR": str(folder), "HOME": str(folder), "RAY_AUTH_MODE": "disabled"}
    cluster = Cluster(shutdown_at_exit=True)
    try:
        for number in range(count):
            settings = node_settings()
            del settings["setup_worker_path"]  # the tests' own
            head = {} if number else {"gcs_server_port": free_port(), "include_dashboard": False}
            cluster.add_node(num_cpus=1, **settings, **head)
        each = {"actors": count}
        yield {
            "backend": "ray",
            "address": cluster.address,
            "teachers": each,
            "features": each,
            "shards": each,
        }
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


class StoreWatch(threading.Thread):
    """Remembers the most that the object stores of a cluster held, in MiB; None: not said yet."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        ray = Path(sys.executable).with_name("ray")
        self.command = [str(ray), "memory", "--stats-only", f"--address={address}"]
        self.most: int | None = None
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(LOOK_SECONDS):
            said = subprocess.run(self.command, capture_output=True, text=True, check=False)
            found = re.search(r"Plasma memory usage (\d+) MiB", said.stdout)
            if found:
                self.most = max(self.most or 0, int(found[1]))


def measure(
    folder: Path, rows: int, name: str, rounds: dict[str, Any], execution: dict[str, Any]
) -> None:
    """Run on a manifest, and print what it took."""
    watch = StoreWatch(execution["address"]) if "address" in execution else None
    if watch is not None:
        watch.start()
    started = time.monotonic()
    assert start(folder, rows, name, rounds, execution, "--overwrite").wait() == 0
    seconds, summary = time.monotonic() - started, summary_of(folder, name)
    shards, peak = summary["data"]["shards"], summary["peak_rss_mb"]
    told = f"{name}: {rows:,} rows, {shards} shards: peak {peak:,.0f} MiB, {seconds:.0f} s"
    kept = [round(one["kept"], 3) for one in summary["rounds"]]
    if rounds["consistency"]:
        told += f", kept {kept}"
    if watch is not None:
        watch.over.set()
        assert watch.most is not None, "`ray memory` said nothing of the object stores"
        told += f", at most {watch.most} MiB in the object stores"
    print(told, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--kill", type=float, nargs="+")
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--decode", nargs="+", default=["actors"], choices=["actors", "apart"])
    parser.add_argument("--assigner", default="dawid_skene")
    parser.add_argument("--rank", action="store_true")
    given = parser.parse_args()
    folder, rounds = given.folder.resolve(), rounds_of(given.assigner, given.rank)
    if not (folder / "images").exists():
        write_digits(folder / "images")
    labels = load_digits().target
    with cluster_of(given.nodes) as execution:
        for rows in given.rows:
            write_manifest(folder / f"rows-{rows}", labels, rows, LABELLED, files=2)
            if not execution:
                measure(folder, rows, f"local-{rows}", rounds, {})
                continue
            for decode in given.decode:
                settings = {**execution, "decode": decode}
                measure(folder, rows, f"{decode}-{rows}", rounds, settings)
        if given.kill is not None:
            one = {**execution, "decode": given.decode[0]} if execution else {}
            kill_and_resume(folder, given.rows[0], given.kill, rounds, one)


def kill_and_resume(
    folder: Path,
    rows: int,
    kills: list[float],
    rounds: dict[str, Any],
    execution: dict[str, Any],
) -> None:
    """Kill a run each time after so many seconds, resume it, and compare it with the whole run."""
    whole = f"{execution.get('decode', 'local')}-{rows}"
    flag = "--overwrite"
    for seconds in kills:
        process = start(folder, rows, "cut", rounds, execution, flag)
        time.sleep(seconds)
        assert process.poll() is None, f"the run ended within {seconds:g} s: kill it earlier"
        process.kill()
        process.wait()
        print(f"{rows:,} rows: killed after {seconds:g} s", flush=True)
        flag = "--resume"
    assert start(folder, rows, "cut", rounds, execution, flag).wait() == 0
    found, expected = (numbers_of(summary_of(folder, name)) for name in ("cut", whole))
    print("resumed with equal numbers:", found == expected)


if __name__ == "__main__":
    main()
