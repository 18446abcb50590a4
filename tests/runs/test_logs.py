"""Messages of a run are written to the console and `log.txt`; scalars are recorded once."""

import json
import logging
import math
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cosup.errors import UserError
from cosup.layout import Layout
from cosup.runs import console
from cosup.runs.logs import log_to_console, log_to_file
from cosup.runs.recorder import Recorder, open_recorder

logger = logging.getLogger("cosup.test")


def untimed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr, without the times that they begin with where it is no terminal."""
    lines = [line.split(" ", 1) for line in capsys.readouterr().err.splitlines()]
    for when, _ in lines:
        time.strptime(when, "%H:%M:%S")
    return [text for _, text in lines]


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
    assert untimed(capsys) == ["trained a", "warning: few kept"]
    written = (tmp_path / "log.txt").read_text()
    assert "INFO cosup.test: trained a" in written
    assert "ERROR cosup.test: for the file" in written
    assert "nobody" not in written


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    for word in ("one", "two"):
        with log_to_file(tmp_path / "log.txt"):
            logger.info(word)
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (None, ["info", "warning", "error"]),
        ("debug", ["debug", "info", "warning", "error"]),
        ("WARNING", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_that_of_the_environment(
    level: str | None,
    shown: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("COSUP_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("COSUP_LOG_LEVEL", level)
    with log_to_console():
        for name, number in console.LEVELS.items():
            logger.log(number, "a line of %s", name)
    assert [line.split()[-1] for line in untimed(capsys)] == shown


def test_an_unknown_level_is_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSUP_LOG_LEVEL", "warn")
    with pytest.raises(UserError) as caught, log_to_console():
        pass
    assert caught.value.value == "warn"
    assert caught.value.nearest == ("warning",)
    assert "COSUP_LOG_LEVEL" in str(caught.value)


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
    Layout(tmp_path).metrics.salvage()
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
