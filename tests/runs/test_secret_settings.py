"""A run with secrets in its settings works and resumes, and no file or line of it holds one."""

import json
from pathlib import Path

import pytest
import yaml
from helpers.annotated_folder import CONFIG, make_world

from cosup.cli import call

SECRET = "hunter2hunter2"
SETTINGS = {
    "name: reviewed, output: runs": "name: secret, output: 'file://${PLACE}/far'",
    "workers: 1": "workers: 1, address: 'ray://me:${PASSWORD}@host:10001'",
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_world(tmp_path)
    text = CONFIG
    for old, new in SETTINGS.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("PASSWORD", SECRET)
    return tmp_path


def holding_the_secret(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if SECRET.encode() in path.read_bytes()]


def test_nothing_that_a_run_writes_holds_a_secret(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["cosup", "run", "config.yaml", f"run.output=s3://me:{SECRET}@bucket"]
    monkeypatch.setattr("sys.argv", argv)  # what environment.json tells
    assert call(["run", "config.yaml"]) == 0
    run = world / "far" / "secret"
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["run"]["output"] == "file://${PLACE}/far"
    assert stored["execution"]["address"] == "ray://me:${PASSWORD}@host:10001"
    assert "me:***@bucket" in " ".join(
        json.loads((run / "environment.json").read_text())["command"]
    )
    assert call(["report", str(run)]) == 0
    assert holding_the_secret(world) == []
    assert SECRET not in "".join(capsys.readouterr())


def test_a_run_resumes_with_another_secret_but_not_without(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["run", "config.yaml"]) == 0
    monkeypatch.setenv("PASSWORD", "another")
    assert call(["run", "far/secret/config.yaml", "--resume"]) == 0
    monkeypatch.delenv("PASSWORD")
    capsys.readouterr()
    assert call(["run", "far/secret/config.yaml", "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "execution.address" in line
    assert "PASSWORD" in line
    assert call(["report", "far/secret"]) == 0, "to read a run takes no secret"


@pytest.mark.parametrize(
    "override",
    [
        f"execution.address=ray://me:{SECRET}@host:1",
        f"run.output=s3://bucket/runs?secret_key={SECRET}",
        f"run.output=s3://me:{SECRET}@bucket/runs",
        "execution.cache=file://${PASSWORD}@x",
        f"nothing=s3://me:{SECRET}@bucket/runs",
    ],
)
def test_an_error_does_not_tell_it(
    override: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("run", "validate", "plan"):
        assert call([command, "config.yaml", override]) == 2
        captured = capsys.readouterr()
        assert captured.err
        assert SECRET not in captured.out + captured.err
    assert not (world / "far").exists()


def test_the_printed_config_has_references(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", "config.yaml", "--print-config"]) == 0
    out = capsys.readouterr().out
    assert "ray://me:${PASSWORD}@host:10001" in out
    assert SECRET not in out


def test_a_failure_does_not_tell_it(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"nope://me:{SECRET}@host/run"
    assert call(["run", "config.yaml", "--output", place, "--verbose"]) == 2
    captured = capsys.readouterr()
    assert "me:***@host" in captured.err
    assert SECRET not in captured.out + captured.err
    assert holding_the_secret(world) == []


def test_the_place_may_be_a_reference(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", "config.yaml", "--output", "${NOTHING_SET}/x"]) == 2
    assert "NOTHING_SET" in capsys.readouterr().err
    assert call(["run", "config.yaml", "--output", "${PLACE}/here"]) == 0
    assert (world / "here" / "summary.json").exists()
