"""Messages of a run are written to the console and `log.txt`; scalars are recorded once."""

import json
import logging
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cosup.layout import Layout
from cosup.runs import logs
from cosup.runs.logs import log_to_console, log_to_file, progress
from cosup.runs.recorder import Recorder, open_recorder

logger = logging.getLogger("cosup.test")


def board(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in Layout(folder).metrics.path.read_text().splitlines()]


def test_log_lines_reach_console_and_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_to_console(), log_to_file(tmp_path / "log.txt"):
        logger.info("trained %s", "a")
        logger.warning("few kept")
        logger.error("for the file", extra={"quiet": True})
    logger.info("nobody listens")
    assert capsys.readouterr().err.splitlines() == ["trained a", "warning: few kept"]
    written = (tmp_path / "log.txt").read_text()
    assert "INFO cosup.test: trained a" in written
    assert "ERROR cosup.test: for the file" in written
    assert "nobody" not in written


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    for word in ("one", "two"):
        with log_to_file(tmp_path / "log.txt"):
            logger.info(word)
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2


def test_without_a_terminal_progress_is_an_occasional_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_to_console(), progress("annotating", 10) as advance:
        for _ in range(10):
            advance(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(logs, "PLAIN_EVERY", 0.0)
    with log_to_console(), progress("annotating", 4) as advance:
        advance(1)
        advance(3)
    assert capsys.readouterr().err.splitlines() == ["annotating: 1 of 4", "annotating: 4 of 4"]


def test_scalars_are_in_both_files(tmp_path: Path) -> None:
    with open_recorder(tmp_path) as recorder:
        recorder.scalar("loss", 0.5, 0)
        recorder.scalars("student", {"accuracy": 0.25}, 1)
        recorder.scalar("loss", math.nan, 1)
    rows = [(row["tag"], row["value"], row["step"]) for row in lines(tmp_path)]
    assert rows == [("loss", 0.5, 0), ("student/accuracy", 0.25, 1), ("loss", None, 1)]
    found = board(tmp_path)
    assert found["student/accuracy"] == [(1, 0.25)]
    assert found["loss"][0] == (0, 0.5)
    assert math.isnan(found["loss"][1][1])


def test_a_repeated_stage_is_recorded_once(tmp_path: Path) -> None:
    with open_recorder(tmp_path) as recorder:
        for step in range(3):
            recorder.scalar("loss", 1.0 - step / 4, step)
    with Layout(tmp_path).metrics.path.open("a") as file:
        file.write('{"tag": "loss", "val')  # killed while writing
    with open_recorder(tmp_path) as recorder:
        for step in range(5):
            recorder.scalar("loss", 1.0 - step / 4, step)
    expected = [(step, 1.0 - step / 4) for step in range(5)]
    assert [(row["step"], row["value"]) for row in lines(tmp_path)] == expected
    assert board(tmp_path) == {"loss": expected}
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_a_recorder_without_writers_accepts_everything() -> None:
    recorder = Recorder()
    recorder.scalar("loss", 1, 2)
    recorder.close()
