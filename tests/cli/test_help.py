"""The help of every command, the flags that all have, and what the shell completes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cosup.cli import call, main
from cosup.cli.app import app


def verbs() -> Iterator[tuple[str, ...]]:
    """The name of every command, with those of the groups around it."""

    def within(group: Any, before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from within(command, (*before, name))
            else:
                yield (*before, name)

    return within(typer.main.get_command(app), ())


VERBS = list(verbs())


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("COSUP_LOG_LEVEL", raising=False)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_has_examples_in_80_columns(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([*verb, "-h"]) == 0
    out = capsys.readouterr().out
    assert call([*verb, "--help"]) == 0
    assert capsys.readouterr().out == out
    lines = out.splitlines()
    examples = [line.strip() for line in lines[lines.index("  Examples:") + 1 :]]
    assert examples
    for line in examples:
        assert line.startswith(" ".join(["cosup", *verb]))
    assert [line for line in lines if len(line) > 80] == []
    assert out.isascii(), "boxes and such are unreadable in some logs"


def test_the_list_of_commands_cuts_no_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["-h"]) == 0
    out = capsys.readouterr().out
    assert "..." not in out.partition("Commands:")[2]
    assert call([]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        ([], None),
        (["-q"], "warning"),
        (["--verbose"], "debug"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_quiet_and_verbose_stand_anywhere(
    arguments: list[str],
    level: str | None,
    place: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr(
        "cosup.runs.checks.check_config",
        lambda draft: seen.append(os.environ.get("COSUP_LOG_LEVEL")),
    )
    line = ["validate", "quickstart", "run.seed=1"]
    assert call([*line[:place], *arguments, *line[place:]]) == 0
    assert seen == [level]
    assert "COSUP_LOG_LEVEL" not in os.environ


def test_not_quiet_and_verbose_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["ls", "-q", "-v"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--quiet" in line
    assert "--verbose" in line


def test_a_bad_log_level_is_one_line_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSUP_LOG_LEVEL", "loud")
    assert call(["run", "quickstart"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "COSUP_LOG_LEVEL" in line
    assert "'loud'" in line
    assert "debug" in line
    assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_shown_to_who_wants_details(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(draft: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("cosup.runs.checks.check_config", fail)
    assert call(["validate", "quickstart"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert call(["validate", "quickstart", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], list[str]]:
    """Return what bash is offered at the end of a line."""

    def offered(line: str) -> list[str]:
        monkeypatch.setenv("_COSUP_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        with pytest.raises(SystemExit):
            main([])
        out, err = capsys.readouterr()
        assert err == ""
        return out.split()

    monkeypatch.chdir(tmp_path)
    return offered


def test_the_shell_completes(completed: Callable[[str], list[str]], tmp_path: Path) -> None:
    """The shell's own process is tried by test_start_up.py."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "one.yaml").touch()
    (tmp_path / "mine" / "one.txt").touch()
    assert completed("cosup va") == ["validate"]
    assert completed("cosup run quick") == ["quickstart"]
    assert completed("cosup run mi") == ["mini_imagenet_few_shot", "mine/"]
    assert completed("cosup run mine/o") == ["mine/one.yaml"]
    assert completed("cosup cp quick") == ["quickstart"]
    assert completed("cosup run quickstart rounds.ass")[0] == "rounds.assignment="
    assert completed("cosup ls con") == ["configs", "consistency", "controls"]
    assert completed("cosup ls keys student.back")[0] == "student.backbone"
