"""Kill one run at random moments, damage a file each time, and compare its end with an undisturbed
run.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/bench_soak.py [--kills 50] [--seed 0]

The run is `configs/quickstart.yaml`, made smaller. It is killed by SIGKILL (most often), SIGTERM or
SIGUSR1. After that one file of the run or of its feature cache is damaged: bytes are changed, it is
cut, emptied or removed. Then the run is resumed. A run that has finished is damaged and resumed as
well. At the end the summary (without times and memory), the tables, and all tensors of annotations
and weights are compared. Exit status 1 if anything differs.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.numpy import load_file

import cosup.runs.pipeline
from cosup.config import load_config
from cosup.stopping import stopped_by_signals

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SMALL = [
    "data.limit=400",
    "data.rotations=[0, 90]",
    "teachers.hierarchy.levels=[1, 2]",
    "student.backbone.image_size=32",
    "student.training.steps=60",
    "teachers.training.steps=60",
    "execution.shard_size=64",
    "controls=[best_teacher, mean_ensemble, ceiling]",
]
SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGUSR1]
WAYS = ("changed bytes", "cut", "emptied", "removed")


def start(folder: Path, overrides: list[str]) -> int:
    """Start or resume the run in a fork of this process, whose imports are done."""
    child = os.fork()
    if child:
        return child
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    status = 1
    try:
        with stopped_by_signals():
            cosup.runs.pipeline.run_one(load_config(CONFIG, *overrides), folder, resume=True)
        status = 0
    except KeyboardInterrupt:
        status = 130
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def attempt(folder: Path, overrides: list[str], moment: float, kind: int) -> int:
    """Resume the run and send a signal after `moment` seconds; return its exit status, negative
    for a signal that ended it."""
    child, deadline = start(folder, overrides), time.monotonic() + moment
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(child, kind)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.002)


def files(*folders: Path) -> list[Path]:
    """Return the files that can be damaged; not locks and temporary files."""
    found = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if not path.name.endswith(("lock", "tmp"))]


def damage(path: Path, way: str, chance: random.Random) -> None:
    """Damage a file in one of the `WAYS`."""
    content = bytearray(path.read_bytes())
    if way == "removed":
        path.unlink()
        return
    if way == "changed bytes" and content:
        for _ in range(8):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        del content[0 if way == "emptied" else len(content) // 2 :]
    path.write_bytes(content)


def kind_of(path: Path, root: Path) -> str:
    """Return what a file is, for the counts: its folder and its ending."""
    parts = path.relative_to(root).parts
    return parts[1] if len(parts) == 2 else f"{parts[1]}/*{path.suffix}"


def numbers(folder: Path) -> dict[str, Any]:
    """Return everything of a run that must be equal, by name."""
    summary = json.loads((folder / "summary.json").read_text())
    found: dict[str, Any] = {
        f"summary: {key}": value
        for key, value in summary.items()
        if key not in ("seconds", "peak_rss_mb")
    }
    for path in sorted(folder.glob("decisions/*.parquet")):
        found[f"decisions/{path.name}"] = pd.read_parquet(path).to_csv()
    for path in sorted(folder.rglob("*.safetensors")):
        found[path.relative_to(folder).as_posix()] = tensors(path)
    return found


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    """Return the type and the bytes of each tensor (safetensors orders its header at random)."""
    return {name: (str(found.dtype), found.tobytes()) for name, found in load_file(path).items()}


def soak(root: Path, kills: int, seed: int, overrides: list[str]) -> Iterator[str]:
    """Yield the lines to print; the last begins with "equal" or "DIFFERENT"."""
    chance, cut, caches = random.Random(seed), root / "cut", root / "cut-cache"
    begun = time.monotonic()
    whole = [*overrides, f"execution.cache={root / 'whole-cache'}"]
    assert attempt(root / "whole", whole, 3600, 0) == 0, (root / "whole.log").read_text()
    usual = time.monotonic() - begun
    expected = numbers(root / "whole")
    yield f"undisturbed: {usual:.1f} s"
    ended, harmed, ways = Counter[str](), Counter[str](), Counter[str]()
    last, settings = usual, [*overrides, f"execution.cache={caches}"]
    while sum(ended.values()) - ended["finished"] < kills:
        kind, before = chance.choice(SIGNALS), time.monotonic()
        status = attempt(cut, settings, chance.uniform(0, 1.1 * last), kind)
        assert status in (0, 130, -kind), (
            f"exit {status}:\n{(root / 'cut.log').read_text()[-3000:]}"
        )
        ended["finished" if status == 0 else signal.Signals(kind).name] += 1
        last = time.monotonic() - before if status == 0 else max(last, 0.3 * usual)
        if there := files(cut, caches):
            path, way = chance.choice(there), chance.choice(WAYS)
            harmed[kind_of(path, root)] += 1
            ways[way] += 1
            damage(path, way, chance)
    status = attempt(cut, settings, 3600, 0)
    assert status == 0, failure(status, root)
    yield f"ended: {counts(ended)}"
    yield f"damaged: {counts(ways)}"
    yield f"of: {counts(harmed)}"
    found = numbers(cut)
    names = sorted({*found, *expected})
    different = [name for name in names if found.get(name) != expected.get(name)]
    word = f"DIFFERENT: {', '.join(different)}" if different else f"equal: {len(names)} of"
    yield f"{word} {len(names)} (summary, tables, weights, annotations)"


def failure(status: int, root: Path) -> str:
    """Return the end of the log of a run that failed."""
    return f"exit {status}:\n{root.joinpath('cut.log').read_text()[-3000:]}"


def counts(counter: Counter[str]) -> str:
    """Return counts as text, the largest first."""
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


def main() -> None:
    """Print what was done to the run, and whether its end is the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        for line in soak(Path(root), options.kills, options.seed, [*SMALL, *options.overrides]):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    sys.exit(line.startswith("DIFFERENT"))


if __name__ == "__main__":
    main()
