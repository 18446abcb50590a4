"""How far a run is: bars on a terminal, and lines in every log, soon and then at intervals."""

import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cosup.progress import working_on
from cosup.runs import bars, logs
from cosup.runs.bars import Pace
from cosup.runs.logs import log_to_console, log_to_file

Clock = Callable[[float], None]


@pytest.fixture(name="wait")
def _wait(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A function that lets seconds go by."""
    now = [1000.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bars._Pacer, "last", 0.0)
    return wait


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr since the last call, without their times."""
    return [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]


def test_a_line_tells_count_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], wait: Clock
) -> None:
    with log_to_console(), working_on("annotating: image", 3000) as advance:
        advance(1)
        assert lines(capsys) == [], "in the first seconds"
        wait(6)
        advance(599)
        assert lines(capsys) == ["annotating: image 600 of 3,000, 100/s, 24 seconds left"]
        wait(20)
        advance(1000)
        assert lines(capsys) == [], "soon after a line"
        wait(11)
        advance(550)
        assert lines(capsys) == ["annotating: image 2,150 of 3,000, 50/s, 17 seconds left"]


def test_slow_work_and_work_of_unknown_size_are_told_too(
    capsys: pytest.CaptureFixture[str], wait: Clock
) -> None:
    with log_to_console():
        with working_on("listing images:") as advance:
            wait(10)
            advance(50)
        with working_on("shard", 4) as advance:
            wait(20)
            advance(1)
    assert lines(capsys) == [
        "listing images: 50, 5.0/s",
        "shard 1 of 4, 20 seconds each, 60 seconds left",
    ]


def test_work_within_work_is_told_once(capsys: pytest.CaptureFixture[str], wait: Clock) -> None:
    with log_to_console(), working_on("shard", 2) as advance:
        advance(1)
        with working_on("image", 100) as inner:
            wait(10)
            inner(50)
            advance(0)
    assert lines(capsys) == ["shard 1 of 2: image 50 of 100, 5.0/s, 10 seconds left"]


def test_a_training_tells_its_loss_in_place_of_the_loop_it_is_in(
    capsys: pytest.CaptureFixture[str], wait: Clock
) -> None:
    pace = Pace("round 1, student", 400)
    with log_to_console(), working_on("fitting 1 head: step", 400) as advance:
        for step in (1, 101):
            pace(step, 0.5)
            advance(1)
            wait(10)
        pace(201, 0.25)
        advance(1)
    told = "round 1, student: step 101 of 400, 10/s, 30 seconds left, loss 0.500"
    assert lines(capsys) == [told]


def test_checks_silence_the_log_but_not_progress(
    capsys: pytest.CaptureFixture[str], wait: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with log_to_console(), working_on("looking at files:", 10) as advance:
        monkeypatch.setattr(logging.getLogger("cosup"), "level", logging.CRITICAL)
        wait(10)
        advance(5)
        monkeypatch.undo()
    assert len(lines(capsys)) == 1


def test_where_there_are_bars_the_file_has_the_lines(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wait: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "shows_bars", lambda: True)
    with log_to_console(), log_to_file(tmp_path / "log.txt"):  # noqa: SIM117
        with working_on("annotating: image", 100) as advance:
            wait(10)
            advance(50)
    assert lines(capsys) == []
    assert "annotating: image 50 of 100" in (tmp_path / "log.txt").read_text()


def test_with_warnings_alone_there_are_no_lines(
    capsys: pytest.CaptureFixture[str], wait: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSUP_LOG_LEVEL", "warning")
    with log_to_console(), working_on("annotating: image", 100) as advance:
        wait(10)
        advance(50)
    assert lines(capsys) == []


def test_work_is_not_shown_unless_somebody_asks(
    caplog: pytest.LogCaptureFixture, wait: Clock
) -> None:
    """cosup's parts are used in other programs, whose logs are not ours."""
    with working_on("annotating: image", 100) as advance:
        wait(10)
        advance(50)
    assert not caplog.records


SCRIPT = """
import logging, time
from cosup.progress import working_on
from cosup.runs import bars
from cosup.runs.logs import log_to_console

with log_to_console():
    with working_on("outer [1/2]", 2) as advance:
        advance(1)
        with working_on("inner", 40) as inner:
            for _ in range(40):
                inner(1)
                time.sleep(0.02)
                bars._bars.refresh()  # as a thread does ten times a second
        logging.getLogger("cosup.x").info("a line above")
"""


def test_a_terminal_shows_bars_within_bars() -> None:
    ours, theirs = pty.openpty()
    terminal = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=theirs, env=terminal) as process:
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 65536):
                seen += part
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    text = seen.decode(errors="replace")
    for shown in ("outer [1/2]", "1 of 2", "of 40", "/s", "a line above"):
        assert shown in text
