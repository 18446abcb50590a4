"""The first line about a run is there before torch, and only if the run can be written."""

import subprocess
import sys
from pathlib import Path

import pytest

from cosup.config import load_config
from cosup.remote import Place
from cosup.runs.announce import announce, first_line
from cosup.runs.logs import log_to_console

SCRIPT = """
import os, sys
from cosup.cli import call
from cosup.runs import logs

def emit(handler, record):
    heavy = {"torch", "pandas", "timm", "scipy", "ray"} & set(sys.modules)
    print(sorted(heavy), record.getMessage(), flush=True)
    os._exit(0)  # the rest takes long

logs._ConsoleHandler.emit = emit
call(["run", "quickstart", "--output", "here"])
"""


def test_the_first_line_comes_before_anything_slow(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True
    )
    line = done.stdout.splitlines()[0]
    assert line.startswith("[] cosup ")
    for told in ("quickstart", "in here", "device auto", "seed 0"):
        assert told in line


def test_it_tells_seeds_and_backend_and_hides_secrets() -> None:
    settings = "run.seeds=[3, 5]", "execution.device=cpu", "execution.backend=ray"
    config = load_config("quickstart", *settings)
    line = first_line(config, Place("s3://bucket/runs/mine?secret_key=hidden"))
    assert "on ray, device cpu, seeds 3, 5" in line
    assert "hidden" not in line


def test_a_run_that_is_refused_is_not_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config("quickstart")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("not a run")
    with log_to_console():
        announce(config, tmp_path / "mine", resume=False, overwrite=False)
        assert capsys.readouterr().err == ""
        announce(config, tmp_path / "other", resume=False, overwrite=False)
    assert "quickstart" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
