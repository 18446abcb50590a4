"""Signals: a command stops once, where it can be resumed, and a warning lets a step finish."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cosup.config import load_config
from cosup.errors import UserError
from cosup.stopping import Stopped, asked_to_stop, finishing_steps, stopped_by_signals

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
ENDLESS = ["data.limit=400", "student.training.steps=1000000"]
"""Settings of a run that is under way until it is stopped."""
SENT = ["SIGTERM", "SIGHUP", "SIGUSR1"]
hangs_up = pytest.mark.skipif(
    signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="nohup ignores SIGHUP here"
)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Keep the handlers of the test's process."""
    before = {number: signal.getsignal(number) for number in map(signal.Signals.__getitem__, SENT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(name: str) -> None:
    signal.raise_signal(signal.Signals[name])


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGHUP", marks=hangs_up), "SIGUSR1"])
def test_each_signal_stops_and_is_named(name: str) -> None:
    with pytest.raises(Stopped, match=name), stopped_by_signals():
        send(name)


def test_the_handlers_from_before_are_put_back() -> None:
    before = [signal.getsignal(signal.Signals[name]) for name in SENT]
    with stopped_by_signals():
        pass
    assert [signal.getsignal(signal.Signals[name]) for name in SENT] == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """`nohup` ignores SIGHUP for a run that is to go on without its terminal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopped_by_signals():
        send("SIGHUP")


def test_without_a_warning_signal_none_is_handled() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    with stopped_by_signals(None):
        send("SIGUSR1")
    assert seen == [signal.SIGUSR1]


def steps_with(*signals: str) -> list[str]:
    """Send signals in the first of three steps; return what was done until the command stopped."""
    done = []
    try:
        with stopped_by_signals(), finishing_steps():
            for step in range(3):
                for name in signals if step == 0 else ():
                    send(name)
                    done.append(f"after {name}")
                done.append(f"step {step}")
                if asked_to_stop():
                    break
    except Stopped as error:
        done.append(str(error))
    return done


def test_a_warning_waits_for_the_end_of_a_step() -> None:
    assert steps_with() == ["step 0", "step 1", "step 2"]
    assert steps_with("SIGUSR1") == ["after SIGUSR1", "step 0", "stopped by SIGUSR1"]
    assert not asked_to_stop()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_second_signal_does_not_wait(name: str) -> None:
    assert steps_with("SIGUSR1", name) == ["after SIGUSR1", f"stopped by {name}"]


def clean_up() -> Iterator[str]:
    """Stop by SIGTERM; go on with cleaning up through other signals."""
    with stopped_by_signals():
        try:
            send("SIGTERM")
        finally:
            send("SIGHUP")
            send("SIGUSR1")
            yield "cleaned"


def test_a_command_that_stops_is_not_stopped_again_by_a_hangup() -> None:
    command = clean_up()
    assert next(command) == "cleaned"
    with pytest.raises(Stopped, match="SIGTERM"):
        next(command)


def test_processes_that_load_images_leave_a_warning_to_the_run() -> None:
    """A scheduler may send it to all processes of a job."""
    with stopped_by_signals():
        child = os.fork()
        if child == 0:
            send("SIGUSR1")
            send("SIGHUP")
            os._exit(7)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_only_signals_of_schedulers_can_be_the_warning() -> None:
    for name in ("SIGKILL", "USR1", 10):
        with pytest.raises(UserError, match=r"execution\.stop_signal"):
            load_config(CONFIG, f"execution.stop_signal={name}")
    assert load_config(CONFIG, "execution.stop_signal=null").execution.stop_signal is None


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("name", [pytest.param("SIGHUP", marks=hangs_up), "SIGUSR2"])
def test_a_run_that_is_stopped_tells_how_to_resume_it(
    name: str, tmp_path: Path, forks: list[str]
) -> None:
    settings = ["execution.stop_signal=SIGUSR2", *ENDLESS, f"execution.cache={tmp_path}/c"]
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [*forks, "-m", "cosup", "run", str(CONFIG), "--output", str(folder), *settings],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(folder / "log.txt", process)
    process.send_signal(signal.Signals[name])
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 130
    line = errors.strip().splitlines()[-1]
    assert name in line
    assert str(folder) in line
    assert "--resume" in line
    assert "Traceback" not in errors
    assert name in (folder / "log.txt").read_text()


TERMINAL = """
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
deadline, seen = time.monotonic() + 200, b""
while b"features of" not in seen and time.monotonic() < deadline:
    seen += os.read(terminal, 4096)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@hangs_up
def test_a_run_outlives_its_terminal_long_enough_to_stop(tmp_path: Path, forks: list[str]) -> None:
    """Progress bars write to the terminal until it is closed, and cannot any more then."""
    folder = tmp_path / "run"
    command = [*forks, "-m", "cosup", "run", str(CONFIG), "--output", str(folder)]
    settings = [*ENDLESS, f"execution.cache={tmp_path}/c"]
    done = subprocess.run([sys.executable, "-c", TERMINAL, *command, *settings], timeout=300)
    assert done.returncode == 130
    log = (folder / "log.txt").read_text()
    assert "SIGHUP" in log
    assert "Traceback" not in log
