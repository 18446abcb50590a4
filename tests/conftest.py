"""How the suite runs: side by side on the cores there are, a file's tests together, the dear files
first; and threads that leave each other alone."""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import helpers.forks as forking
import pytest

# Threads of small networks wait asleep: spinning ones slow each other down tenfold on a machine
# that does other things too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:  # set before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

MOST_WORKERS = 8


def pytest_xdist_auto_num_workers() -> int | None:
    """One per core that this process may use; xdist itself counts real cores, of the machine."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(found or 1, MOST_WORKERS)


RAY_BESIDE = {"test_submit.py", "test_trainer.py"}
"""Of the files that need Ray, those that take as long as the others together."""


@cache
def needs_ray(path: Path) -> bool:
    return "mark.ray" in path.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """By file, as what a module's fixtures make is dear; and the files that need Ray are like two
    files, each with a cluster of its own.

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker, the order in which xdist hands files out: Ray, slow tests, many tests."""
    if not hasattr(config, "workerinput"):
        return
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    count = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (not needs_ray(item.path), item.path not in slow, -count[item.path])
    )


@pytest.fixture(scope="module", autouse=True)
def no_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where pages aren't looked at, runs end without theirs: each takes a second."""
    pipeline = sys.modules.get("cosup.runs.pipeline")
    with pytest.MonkeyPatch.context() as patch:
        if pipeline is not None and request.path.parent.name != "report":
            patch.setattr(pipeline, "write_report", lambda run: run.path)
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Start the server of forks, one for all workers; it imports nothing before it is called."""
    if hasattr(config, "workerinput") or not hasattr(os, "fork"):
        return
    path = os.path.join(tempfile.mkdtemp(prefix="cosup-forks-"), "socket")
    os.environ[forking.SERVER] = path
    server = subprocess.Popen(
        [sys.executable, forking.__file__, "--serve", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C goes to the callers, which pass it on
    )
    config.add_cleanup(server.communicate)  # its input ends, and so does it
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"


@pytest.fixture(scope="session")
def forks() -> list[str]:
    """What to write in a command for `sys.executable`: it is up at once (`forks.py`)."""
    return [sys.executable, forking.__file__]
