"""Damage every file of a finished and of a half-finished run, then resume, and compare.

    python tests/benchmarks/damage_every_file.py [PATTERN] [--workers 2] [--keep FOLDER]

Every file is cut in half, has bits flipped, and is removed, one at a time. `cosup report` must then
either work as before, or end in one line that names the file. `cosup run --resume` must end with
the numbers, tables and weights of the undisturbed run, after a warning that names the file. The
script prints a line per case that is otherwise, and the counts. Cases are forks of this process, so
that each costs a resumed run but no imports. PATTERN: of the paths of the files to damage.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.pool import ThreadPool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import cosup.report.page
import cosup.runs.pipeline  # noqa: F401
from cosup.cli import call
from tests.helpers.damage import HOWS, damage, differences, files_of

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SMALL = [
    "data.limit=200",
    "data.rotations=[0, 90]",
    "teachers.hierarchy.levels=[1, 2]",
    "student.backbone.image_size=32",
    "student.training.steps=10",
    "teachers.training.steps=10",
    "execution.shard_size=64",
    "controls=[best_teacher, ceiling]",
]
LARGE = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default=".*")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=None)
    options = parser.parse_args()
    root = options.keep or Path(tempfile.mkdtemp())
    root.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    whole, half = root / "whole", root / "half"
    if not (whole / "summary.json").exists():
        assert run(root, whole, "run.log") == 0
        stop_after(root, half, "stages/round-1.json")
    cases = [
        (state, name, how)
        for state in (whole, half)
        for name in files_of(state)
        if re.fullmatch(options.pattern, name)
        for how in HOWS
    ]
    with ThreadPool(options.workers) as pool:
        wrong = [
            line
            for lines in pool.imap_unordered(lambda case: list(check(root, whole, *case)), cases)
            for line in shown(lines)
        ]
    minutes = (time.monotonic() - started) / 60
    print(f"{len(cases)} cases in {minutes:.0f} minutes, {len(wrong)} are wrong")
    sys.exit(bool(wrong))


def shown(lines: list[str]) -> list[str]:
    for line in lines:
        print(line, flush=True)
    return lines


def check(root: Path, whole: Path, state: Path, name: str, how: str) -> Iterator[str]:
    """Yield what is wrong after this damage of a copy of the run `state`."""
    case = f"{state.name}: {name} {how}"
    place = Path(tempfile.mkdtemp(dir=root))
    run_, log = place / "run", place / "log"
    copy(state, run_)
    damage(run_ / name, how)
    page = str(place / "report" / "index.html")
    code = forked(lambda: call(["report", str(run_), "-o", page]), log)
    told = log.read_text()
    if code not in (0, 1, 2) or "Traceback" in told or (code and Path(name).name not in told):
        yield f"{case}: report ends with {code}: {told[-300:]}"
    if not code and state == whole:
        tables = place / "report" / "tables"
        for table in sorted(tables.glob("*.csv")):
            other = whole / "report" / "tables" / table.name
            if table.read_bytes() != other.read_bytes() and table.name != "cost.csv":
                yield f"{case}: the report differs in {table.name}"
    code = run(root, run_, str(log), "--resume")
    told = log.read_text()
    if code:
        yield f"{case}: resuming ends with {code}: {told[-300:]}"
        return
    found = list(differences(run_, whole))
    if found:
        yield f"{case}: other than undisturbed: {found}"
    if state == whole and Path(name).name not in told:
        yield f"{case}: nothing is said"
    code = forked(lambda: call(["verify", str(run_)]), log)
    if code:
        yield f"{case}: verify ends with {code}: {log.read_text()[-300:]}"
    shutil.rmtree(place)


def run(root: Path, place: Path, log: str, *flags: str) -> int:
    """Run the experiment in a fork; return its exit status."""
    arguments = ["run", str(CONFIG), *SMALL, f"execution.cache={root}/cache"]
    return forked(lambda: call([*arguments, "--output", str(place), *flags]), root / log)


def stop_after(root: Path, place: Path, name: str) -> None:
    """Run the experiment, and kill it when a file of it is there."""
    child = os.fork()
    if not child:
        run(root, place, "half.log")
        os._exit(0)
    while not (place / name).exists():
        time.sleep(0.001)
    group = int((place / ".lock").read_text())
    os.kill(group, signal.SIGKILL)
    os.waitpid(child, 0)


def forked(work: Callable[[], int], log: Path) -> int:
    """Do the work in a fork of this process, with its output in a file; return its status."""
    child = os.fork()
    if not child:
        code = 70
        try:
            with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
                code = work()
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def copy(source: Path, target: Path) -> None:
    """Copy a run; large files, which no run changes in place, are linked."""

    def one(path: str, to: str) -> None:
        if os.path.getsize(path) > LARGE:
            os.link(path, to)
        else:
            shutil.copy2(path, to)

    shutil.copytree(source, target, copy_function=one)


if __name__ == "__main__":
    main()
