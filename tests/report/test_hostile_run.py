"""A run that anybody may have written: a report obeys nothing in it, and writes nowhere else."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from report_run import CLASSES

from cosup.cli import call
from cosup.manifest import Manifest

pytestmark = pytest.mark.slow

EVIL = "run\x1b]0;owned\x07\x9b31m\u202e"


@pytest.fixture
def hostile(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy to be changed. Whoever writes a run can write its manifest, too."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def rename(run: Path, name: str) -> None:
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["run"]["name"] = name
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    Manifest(run).record(run / "config.yaml")


def controls_in(text: str) -> set[str]:
    """Return what a terminal would obey."""
    return {letter for letter in text if not letter.isprintable()} - {"\n", "\u00a0", "\u200b"}


@pytest.mark.parametrize("more", [[], ["--text"], ["--json"]])
def test_control_characters_of_names_do_not_reach_the_terminal(
    hostile: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rename(hostile, EVIL)
    assert call(["report", str(hostile), *more]) == 0
    captured = capsys.readouterr()
    assert controls_in(captured.out + captured.err) == set()
    if more == ["--json"]:
        json.loads(captured.out)
    if not more:
        assert "\\u001b" in captured.out, "the name is reported, as an escape"


def test_errors_about_names_are_plain_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["report", str(tmp_path / EVIL)]) == 2
    assert controls_in(capsys.readouterr().err) == set()


@pytest.mark.parametrize("place", ["report", "report/tables"])
def test_a_link_out_of_the_run_is_not_written_through(
    hostile: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "tables").mkdir(parents=True)
    shutil.rmtree(hostile / place)
    (hostile / place).symlink_to(elsewhere)
    assert call(["report", str(hostile)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(hostile / place) in line
    assert [path.name for path in elsewhere.rglob("*")] == ["tables"]
    assert call(["report", str(hostile), "--output", str(tmp_path / "page.html")]) == 0
    assert [path.name for path in elsewhere.rglob("*")] == ["tables"]


def test_a_page_that_is_a_link_is_replaced(hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("precious")
    (hostile / "report/index.html").unlink()
    (hostile / "report/index.html").symlink_to(tmp_path / "precious.txt")
    assert call(["report", str(hostile)]) == 0
    assert (tmp_path / "precious.txt").read_text() == "precious"
    assert not (hostile / "report/index.html").is_symlink()


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/passwd", "..", "a\0b", "n" * 300])
def test_a_teacher_that_is_a_path_is_one_line(
    hostile: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hostile / "stages/prepared.json"
    about = json.loads(path.read_text())
    about["teachers"][0]["name"] = name
    path.write_text(json.dumps(about))
    Manifest(hostile).record(path)
    assert call(["report", str(hostile), "--text"]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert "prepared.json" in line


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def unwritable(hostile: Path) -> Iterator[Path]:
    """Return the run without the right to write anything in it."""
    folders = [hostile, *(path for path in hostile.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield hostile
    for folder in folders:
        folder.chmod(0o755)


def test_a_run_that_cannot_be_written_is_reported_elsewhere(
    unwritable: Path, tmp_path: Path
) -> None:
    """Root may write everywhere, so nothing may change, too."""
    before = contents(unwritable)
    page = tmp_path / "out" / "page.html"
    assert call(["report", str(unwritable), "--output", str(page)]) == 0
    assert page.is_file()
    assert (page.parent / "tables" / "overview.csv").is_file()
    assert contents(unwritable) == before
    if os.geteuid() != 0:
        assert call(["report", str(unwritable)]) == 1


def test_the_card_shows_names_and_obeys_none(finished_run: Path) -> None:
    card = (finished_run / "student" / "README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("Classes: "))
    assert "<" not in line
    assert "&lt;b&gt;bold &amp; bad" in line
    assert CLASSES[2] in line
    assert "<img" not in card
