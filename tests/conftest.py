"""Run the suite in parallel: one worker per core, whole files per worker, slow files first."""

import gc
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import helpers.forks as forking
import pytest
from hypothesis import HealthCheck, settings

# Idle threads sleep instead of spinning: on a busy machine, spinning threads slow each other down
# tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:  # set before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.fsync = lambda handle: None  # no test cuts the power, and it takes a second per run

# What the command line prints depends on them.
for name in ("COLUMNS", "COSUP_LOG_LEVEL"):
    os.environ.pop(name, None)

# On a busy machine any example may take seconds.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

MOST_WORKERS = 8


def pytest_xdist_auto_num_workers() -> int | None:
    """Return the number of cores available to this process; xdist counts all physical cores."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(found or 1, MOST_WORKERS)


LONG = {
    "test_ablation.py",
    "test_choose.py",
    "test_choose_loss.py",
    "test_clip_students.py",
    "test_front.py",
    "test_review_command.py",
    "test_sharded_run.py",
    "test_side_by_side.py",
    "test_team_runs.py",
    "test_truthless.py",
}
"""Files of few tests that take long together. They start early, so that none is left at the end."""
RAY_BESIDE = {
    "test_cluster_run.py",
    "test_local_cluster.py",
    "test_room.py",
    "test_seeds.py",
    "test_submit.py",
    "test_trainer.py",
}
"""Files that need Ray and together take as long as the other files that do."""


@cache
def needs_ray(path: Path) -> bool:
    return "mark.ray" in path.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Schedule tests by file (fixtures of modules are slow), and files that need Ray in two groups.

    Each of the two groups has its own cluster.

    (`--dist loadgroup` does not see groups under pytest 9.2: pytest-xdist's issue 1386.)
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            if not needs_ray(config.rootpath / file):
                return file
            return "ray beside" if Path(file).name in RAY_BESIDE else "ray"

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Search for no garbage while modules are imported, and later not among what they hold.

    They hold a million objects, and none of them is garbage.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long searches unless they are asked for, and order the files of a worker: those
    with Ray first, then long ones, then those of many tests."""
    if "fuzz" not in config.getoption("markexpr"):
        items[:] = [item for item in items if not item.get_closest_marker("fuzz")]
    if not hasattr(config, "workerinput"):
        return
    slow = {i.path for i in items if i.get_closest_marker("slow") or i.path.name in LONG}
    count = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[bool, bool, bool, int]:
        # Those that share the cluster come one after the other: after the last one it ends.
        shares = item.path.parent.name == "cluster"
        return not needs_ray(item.path), not shares, item.path not in slow, -count[item.path]

    items.sort(key=place)


@pytest.fixture(scope="module", autouse=True)
def no_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Skip the report page of runs, which takes a second, except in the tests of reports."""
    pipeline = sys.modules.get("cosup.runs.pipeline")
    with pytest.MonkeyPatch.context() as patch:
        if pipeline is not None and request.path.parent.name != "report":
            patch.setattr(pipeline, "write_report", lambda run, **_: run.path)
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Keep what cosup keeps for its user in a folder of these tests, and start the fork server.

    There is one of each for all workers. The server imports modules at the first call.
    """
    if hasattr(config, "workerinput"):
        return
    folder = tempfile.TemporaryDirectory(prefix="cosup-cache-", ignore_cleanup_errors=True)
    os.environ["COSUP_CACHE"] = folder.name
    config.add_cleanup(folder.cleanup)
    if not hasattr(os, "fork"):
        return
    path = os.path.join(tempfile.mkdtemp(prefix="cosup-forks-"), "socket")
    os.environ[forking.SERVER] = path
    server = subprocess.Popen(
        [sys.executable, forking.__file__, "--serve", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # the callers receive Ctrl-C and pass it on
    )
    config.add_cleanup(server.communicate)  # closing its input ends the server
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"


@pytest.fixture(scope="session")
def forks() -> list[str]:
    """Return a command prefix like `sys.executable` that starts at once (see `forks.py`)."""
    return [sys.executable, forking.__file__]


@pytest.fixture(scope="module", autouse=True)
def seeds_in_turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run seeds in turn, unless a test asks for more: a process of its own starts in seconds.

    This is a fixture of modules, so that it comes before theirs.
    """
    side_by_side = sys.modules.get("cosup.runs.side_by_side")
    with pytest.MonkeyPatch.context() as patch:
        if side_by_side is not None and request.path.name != "test_side_by_side.py":
            patch.setattr(side_by_side, "_cores", lambda: 1)
        yield
