"""Measure how long commands take to answer, against importing pydantic, YAML and typer alone.

    python tests/benchmarks/bench_startup.py [--repeats 5] [--rest]

Each command runs in a process of its own, in turn with the floor, what a command line that reads a
config cannot do without: `python -c "import pydantic, yaml, typer"`. Counted are seconds of the
processor (user and system), which other work on the machine disturbs less than seconds of the
clock; of several repeats the least counts. Beside them: the seconds of the clock, the modules that
are imported, and the peak memory. Target: at most 1 s of the clock on a quiet machine, and 4 s for
`plan`, which is measured with the backbone known from an earlier plan, and without.

`--rest` adds the commands that use torch.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FLOOR = "import pydantic, yaml, typer"
LIGHT = [
    "--version",
    "init --help",
    "cat quickstart",
    "cp quickstart {new}",
    "validate quickstart",
    "validate domainnet_cpl",
    "ls",
    "ls keys",
    "schema",
    "run quickstart --print-config",
]
PLAN, FIRST = "plan quickstart", ", the first with this backbone"
REST = ["env", "report {none}", "predict {none} {none}"]
COMMAND = "from cosup.cli import main; import sys; main(sys.argv[1:])"
COUNT = "import sys, atexit; atexit.register(lambda: print(len(sys.modules), file=sys.stderr)); "


@dataclass(frozen=True)
class Cost:
    """What a process used: seconds of the processor and of the clock, MiB, imported modules."""

    processor: float
    clock: float
    memory: float
    modules: int


def measure(script: str, arguments: Sequence[str], folder: Path, cache: str = "known") -> Cost:
    """Run Python code in a new process and return what it used.

    cache: the folder, within `folder`, of what cosup keeps for its user.
    """
    environment = {**os.environ, "COSUP_CACHE": str(folder / cache)}
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", COUNT + script, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        told = process.stderr.read()
        used = os.wait4(process.pid, 0)[2]
    clock = time.monotonic() - started
    modules = int(told.split()[-1])
    return Cost(used.ru_utime + used.ru_stime, clock, used.ru_maxrss / 1024, modules)


def least(costs: Sequence[Cost]) -> Cost:
    """Return the least of each number."""
    return Cost(
        min(cost.processor for cost in costs),
        min(cost.clock for cost in costs),
        min(cost.memory for cost in costs),
        min(cost.modules for cost in costs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rest", action="store_true", help="also commands that use torch")
    options = parser.parse_args()
    print(f"| command | processor s | of the floor | clock s | modules | MiB |\n|{' --- |' * 6}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for line, note in [
            *((light, "") for light in LIGHT),
            (PLAN, FIRST),
            (PLAN, ""),
            *((rest, "") for rest in REST if options.rest),
        ]:
            floors, costs = [], []
            for repeat in range(options.repeats):
                floors.append(measure(FLOOR, [], folder))
                words = line.format(new=f"{repeat}.yaml", none="nosuch").split()
                cache = f"new{repeat}" if note else "known"
                costs.append(measure(COMMAND, words, folder, cache))
            floor, cost = least(floors), least(costs)
            print(
                f"| `{line}`{note} | {cost.processor:.2f} | {cost.processor / floor.processor:.1f} "
                f"| {cost.clock:.2f} | {cost.modules} | {cost.memory:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
