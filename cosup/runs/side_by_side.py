"""Run seeds, the cells of a bench, or trainings side by side, each in a process of its own.

Where features are read, the first seed runs alone until they are cached; the others then find them.
A process logs through its parent, whose lines tell the seed, and ends with it: it notices when its
standard input is closed. Numbers do not depend on how many run at once, as each computes as it
would alone.
"""

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from cosup.config.needs import assigner_needs
from cosup.config.schema import Config, ExecutionSection
from cosup.errors import RunError
from cosup.layout import SHARDS, Layout
from cosup.progress import working_on
from cosup.runs.machine import usable_memory
from cosup.stopping import Stopped

__all__ = [
    "SeedRun",
    "Task",
    "after_first",
    "cards_of",
    "places_for",
    "processes_for",
    "run_side_by_side",
    "usable_cards",
]

MEMORY = 3 * 2**30
"""Memory for each process with `side_by_side: auto`: a run of some 100,000 samples."""
POLL_SECONDS = 0.1
END_SECONDS = 120.0
"""Time for a process to save its work and end."""
PYTHON = (sys.executable, "-P")
MODULE = "cosup.runs.seed_process"
THREADS = "OMP_NUM_THREADS"
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Task(Protocol):
    """What a process of its own computes; it is pickled."""

    @property
    def stop_signal(self) -> str | None:
        """The signal of `execution.stop_signal`."""
        ...

    def compute(self) -> None:
        """Compute it in this process."""
        ...


@dataclass(frozen=True)
class SeedRun:
    """The run of one seed, with the arguments of `run_single`. check: check it first (`check_run`),
    as nobody has. others: directories of the runs with other seeds."""

    config: Config
    directory: Path
    resume: bool
    shared: Path | None
    overwrite: bool = False
    check: bool = False
    others: tuple[Path, ...] = ()

    @property
    def stop_signal(self) -> str | None:
        """The signal of the config."""
        return self.config.execution.stop_signal

    def compute(self) -> None:
        """Run it in this process. Raises as `run_one` and `check_run`."""
        from cosup.runs import check_run
        from cosup.runs.single import run_single  # imports torch and timm

        config, directory, overwrite = self.config, self.directory, self.overwrite
        resume = self.resume
        if self.check:
            there = Layout(directory).is_run()
            check_run(config, directory, resume and there, overwrite)
        run_single(
            config,
            directory,
            resume=resume,
            overwrite=overwrite,
            shared=self.shared,
            others=self.others,
        )


Ready = Callable[[str, Collection[str], Collection[str]], bool]
"""Whether a run may start: (its name, those that are running, those that wait)."""


def places_for(config: Config, count: int) -> list[dict[str, str]]:
    """Return the environment of each process that may run at once: at most `count`.

    With several GPUs each gets a card of its own. One place means: in turn, in this process.
    """
    execution = config.execution
    if execution.backend != "local" or count < 2 or not sys.executable:
        return [{}]
    cards = usable_cards(execution.device)
    most = len(cards) if execution.side_by_side == "auto" and cards else processes_for(execution)
    places: list[dict[str, str]] = [{} for _ in range(max(1, min(most, count)))]
    if len(cards) > 1:
        for number, place in enumerate(places):
            place[VISIBLE] = cards[number % len(cards)]
    return places


def processes_for(execution: ExecutionSection) -> int:
    """Return how many processes may run at once on this machine, without its GPUs."""
    if execution.side_by_side != "auto":
        return execution.side_by_side
    most = _cores() // (1 if execution.threads == "auto" else execution.threads)
    memory = usable_memory()
    return most if memory is None else min(most, memory // MEMORY)


def run_side_by_side(
    runs: Mapping[str, Task],
    places: Sequence[Mapping[str, str]],
    *,
    ready: Ready = lambda *_: True,
    failed: Callable[[str, Exception], None] | None = None,
    noun: str = "seeds",
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Run these runs, as many at once as there are places.

    runs: by the name that lines of the log begin with, such as `seed 0`. ready: which may start.
    failed: called with the name and the error of a run that fails, and the others go on; None: the
    error is raised, after the others have been stopped where they can be resumed. A signal that
    stops this process stops them too. noun: of what runs, for the progress. meanwhile: called from
    time to time, and at the end.
    """
    waiting, free = list(runs), list(places)
    running: dict[str, _Process] = {}
    with working_on(noun, len(runs)) as advance:
        try:
            while waiting or running:
                can = (one for one in waiting if ready(one, running, waiting))
                name = next(can, None) if free else None
                if name is not None:
                    waiting.remove(name)
                    running[name] = _Process(name, runs[name], free.pop(0))
                for name, process in list(running.items()):
                    if process.ended:
                        free.append(running.pop(name).environment)
                        _check(process, failed)
                        advance(1)
                meanwhile()
                time.sleep(POLL_SECONDS)
        except BaseException as error:
            _stop(running.values(), error)
            raise


def after_first(runs: Mapping[str, SeedRun]) -> Ready:
    """Return the rule that the first run goes alone until its features, if any, are cached; of
    shards, written."""
    from cosup.sharded.opening import is_sharded  # imports torch

    first = next(iter(runs))
    config, files = runs[first].config, Layout(runs[first].directory)
    sharded = is_sharded(config.data)
    features = files.stage(SHARDS if sharded else "features")
    none = not sharded and not _reads_features(config)

    def ready(name: str, running: Collection[str], waiting: Collection[str]) -> bool:
        return none or name == first or first not in (*running, *waiting) or features.exists()

    return ready


def _reads_features(config: Config) -> bool:
    """Return whether a run may cache features that runs with other seeds find."""
    needs = assigner_needs(config.teachers, config.rounds)
    return config.student.mode == "head" or bool(needs & {"features", "provenance"})


def _check(process: "_Process", failed: Callable[[str, Exception], None] | None) -> None:
    """Raise the error that a process ended with, or tell it."""
    try:
        process.check()
    except Exception as error:
        if failed is None:
            raise
        failed(process.name, error)


def _stop(processes: "Iterable[_Process]", error: BaseException) -> None:
    """Stop processes where they can be resumed, and wait until they have ended."""
    name = str(error).removeprefix("stopped by ") if isinstance(error, Stopped) else "SIGTERM"
    for process in processes:
        process.send(getattr(signal, name, signal.SIGTERM))
    end = time.monotonic() + END_SECONDS
    for process in processes:
        process.wait(max(0.0, end - time.monotonic()))


@dataclass
class _Process:
    """The process of a run. environment: what its place adds to this process's."""

    name: str
    run: Task
    environment: Mapping[str, str]
    error: BaseException | None = field(default=None, init=False)
    finished: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        import torch

        path = os.pathsep.join(part for part in sys.path if part)
        threads = {} if THREADS in os.environ else {THREADS: str(torch.get_num_threads())}
        passive = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
        self.child = subprocess.Popen(
            [*PYTHON, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **threads, **passive, **self.environment},
            start_new_session=True,  # Ctrl-C is for this process, which passes it on
        )
        assert self.child.stdin is not None
        pickle.dump(self.run, self.child.stdin)
        self.child.stdin.flush()  # it stays open: its end is the end of this process
        self.reader = threading.Thread(target=self._read, args=(self.child.stdout,), daemon=True)
        self.reader.start()

    @property
    def ended(self) -> bool:
        """Whether the process is gone, and all that it said is read."""
        return self.child.poll() is not None and not self.reader.is_alive()

    def check(self) -> None:
        """Raise the error that the process ended with."""
        if self.error is not None:
            raise self.error
        if not self.finished:
            status = self.child.returncode
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise RunError(f"{self.name}: its process ended with {how} (killed, or a crash)")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is there."""
        if self.child.poll() is None:
            self.child.send_signal(number)

    def wait(self, seconds: float) -> None:
        """Wait for the end of the process, and kill it if it takes longer."""
        try:
            self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def _read(self, lines: IO[bytes]) -> None:
        """Log what the process logs, and keep how it ends."""
        for line in lines:
            told: dict[str, Any] = json.loads(line)
            if "error" in told:
                self.error = pickle.loads(b64decode(told["error"]))
            elif "finished" in told:
                self.finished = True
            else:
                text = f"{self.name}: {told['text']}"
                logging.getLogger(told["name"]).log(told["level"], "%s", text, extra=told["extra"])


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cards(device: str) -> list[str]:
    """Return `cards_of` this machine."""
    import torch

    if device not in ("auto", "cuda"):
        return []
    return cards_of(device, torch.cuda.device_count(), os.environ.get(VISIBLE, ""))


def cards_of(device: str, count: int, visible: str) -> list[str]:
    """Return the names of the GPUs that a run may use, as in CUDA_VISIBLE_DEVICES.

    device: `execution.device`; `cuda:1` is one card, which all processes share, so none has one of
    its own. count: of GPUs. visible: that variable, of which CUDA reads so many names: it stops at
    one of no GPU, such as -1.
    """
    if device not in ("auto", "cuda") or not count:
        return []
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return names[:count] or [str(number) for number in range(count)]
